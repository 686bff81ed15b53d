"""Numbers as people read them."""

import math
import re


def significant(value, digits=3):
    """The value with so many digits, never in powers of ten."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):.{max(0, places)}f}"


def duration(seconds):
    for unit, factor in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= factor or unit == "µs":
            return f"{significant(seconds / factor)} {unit}"


def amount(count):
    """Bytes."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{significant(count / factor)} {unit}"
    return f"{count:.0f} B" if count is not None else ""


def brief(text):
    """The same without zeros at the end, for ticks."""
    return re.sub(r"(\.\d*?)0+(?=\D|$)", r"\1", text).replace(". ", " ").rstrip(".")


def percent(value, digits=0):
    return f"{value * 100:.{digits}f}%" if value is not None else ""


def times(value):
    return f"{value:.{2 if value < 9.95 else 1}f}x" if value else ""


def length(tokens):
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)


def spread(row):
    return f"±{row.spread * 100:.0f}%" if len(row.times) > 1 else "one sample"


def rate(row):
    return f"{row.bytes / 1e9:.1f} GB/s" if row.memory_bound else f"{row.flops / 1e9:.1f} GF/s"


def error(row):
    return f"{row.error:.1e} / {row.naive_error:.1e}" if row.error is not None else ""


def stored_error(row):
    parts = [f"o {row.stored_error:.1e}"] if row.stored_error is not None else []
    parts += [f"lse {row.stored_log_sum_error:.1e}"] if row.stored_log_sum_error is not None else []
    return ", ".join(parts)


def limit(row):
    return f"{percent(row.share)} {'mem' if row.memory_bound else 'fma'}"
