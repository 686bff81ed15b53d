"""Tables of caches: decoding beside the read bandwidth, ragged batches, chunks of prompts, appending."""

DECODE = "cache/decode"
RAGGED, ONE_BY_ONE = "cache/ragged_decode", "cache/ragged_decode_one_by_one"
CHUNK = "cache/prefill_chunk"
APPEND, APPEND_ONE = "cache/append", "cache/append_one_by_one"
STORED = {"f32": "float", "bf16": "bfloat16", "f16": "half", "int8": "int8", "int4": "int4"}
PEER_MODES = {"f32": "decode", "bf16": "decodebf16", "f16": "decodef16", "int8": "decodeq8", "int4": "decodeq4"}
GOALS = {  # at 32k keys, times the tokens per second of float, by query heads of a kv head
    1: {"bf16": 1.7, "f16": 1.7, "int8": 2.8, "int4": 4},
    4: {"bf16": 1.6, "f16": 1.6, "int8": 2.2, "int4": 2.2},
}


def is_cache(row):
    return row.table == "cache"


def tokens(count):
    return f"{count // 1024}k" if count >= 1024 and count % 1024 == 0 else str(count)


def shape(row):
    """Heads, width and tokens in words."""
    sizes = row.sizes
    batch = f"{sizes['B']} x " if sizes["B"] > 1 else ""
    data = f"{row.data}, " if row.data else ""
    return f"{data}{batch}{tokens(sizes['M'])}, {sizes['H']}/{sizes['G']} heads, d {sizes['d']}"


def peer_case(row):
    """MODE:B,H,G,N,M,D as the peers know it, or nothing."""
    sizes = row.sizes
    if row.method != DECODE or row.pattern != "contiguous" or row.data or sizes["B"] > 1 or sizes["M"] > 32768:
        return None
    return PEER_MODES[row.type] + ":" + ",".join(str(sizes[key]) for key in "BHGNMd")


class Caches:
    """The rows of caches, and what stands beside each."""

    def __init__(self, results):
        self.results = results
        self.rows = [row for row in results.rows if is_cache(row)]
        self.by_problem = {(row.method, *row.problem): row for row in self.rows}

    def of(self, *methods):
        order = list(STORED)
        rows = [row for row in self.rows if row.method in methods]
        rows.sort(
            key=lambda row: (
                row.data != "",
                row.sizes["B"],
                -row.sizes["H"],
                row.sizes["M"],
                -row.sizes["d"],
                order.index(row.type),
                row.pattern,
                row.threads,
                row.method,
            )
        )
        return rows

    def beside(self, row, method=None, type=None, pattern=None, threads=None):
        """The row that differs in these only."""
        _, own_pattern, data, sizes, own_threads = row.problem
        problem = (type or row.type, pattern or own_pattern, data, sizes, threads or own_threads)
        return self.by_problem.get((method or row.method, *problem))

    def speed(self, row, **changes):
        """How many times as fast as that row: (median, best calls)."""
        other = self.beside(row, **changes)
        return (other.time / row.time, other.best_call / row.best_call) if other and other is not row else None

    def over_float(self, row):
        return self.speed(row, type="f32", pattern="contiguous") if row.type != "f32" else None

    def over_contiguous(self, row):
        return self.speed(row, pattern="contiguous") if row.pattern != "contiguous" else None

    def over_one_thread(self, row):
        return self.speed(row, threads=1) if row.threads > 1 else None


def ratio(pair):
    return f"{pair[0]:.2f}x" if pair else ""


def number(value):
    """Tokens per second and the like, three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def error(row):
    return f"{row.error:.1e} / {row.naive_error:.1e}"


def decode_table(caches):
    heads = ["shape", "stored", "layout", "threads", "tokens/s", "spread", "GB/s", "loop GB/s", "of loop", "at best"]
    heads += ["vs float", "vs contiguous", "vs 1 thread"]
    rows = caches.of(DECODE)
    with_peers = any(caches.results.fastest_peer(row) for row in rows)
    heads += ["fastest peer"] if with_peers else []
    heads += ["error / plain loop", "error of storage"]
    lines = []
    for row in rows:
        line = [shape(row), STORED[row.type], row.pattern, str(row.threads), number(row.sizes["B"] / row.time)]
        line += [f"±{row.spread * 100:.0f}%", f"{row.bytes / 1e9:.1f}", f"{row.bandwidth / 1e9:.1f}"]
        line += [f"{row.bandwidth_share * 100:.0f}%", f"{row.share_at_best * 100:.0f}%"]
        line += [ratio(caches.over_float(row)), ratio(caches.over_contiguous(row)), ratio(caches.over_one_thread(row))]
        if with_peers:
            peer = caches.results.fastest_peer(row)
            line.append(f"{peer[1]:.2f}x {peer[0]}" if peer else "")
        lines.append(line + [error(row), f"{row.storage_error:.1e}" if row.storage_error is not None else ""])
    return heads, lines


def ragged_table(caches):
    heads = ["shape", "stored", "layout", "threads", "tokens/s", "GB/s", "of loop", "vs call by call", "vs 1 thread"]
    lines = []
    for row in caches.of(RAGGED):
        apart = caches.speed(row, method=ONE_BY_ONE)
        sizes = row.sizes
        words = f"{sizes['B']} x {tokens(sizes['M'] // 16)} to {tokens(sizes['M'])}"
        words += f", {sizes['H']}/{sizes['G']} heads, d {sizes['d']}"
        line = [words, STORED[row.type], row.pattern, str(row.threads), number(row.sizes["B"] / row.time)]
        line += [f"{row.bytes / 1e9:.1f}", f"{row.bandwidth_share * 100:.0f}%", ratio(apart)]
        lines.append(line + [ratio(caches.over_one_thread(row)), error(row)])
    return heads + ["error / plain loop"], lines


def chunk_table(caches):
    heads = ["shape", "stored", "layout", "threads", "tokens/s", "GF/s", "of fma", "vs float", "vs contiguous"]
    lines = []
    for row in caches.of(CHUNK):
        behind = row.sizes["M"] - row.sizes["N"]
        words = f"{row.sizes['N']} behind {tokens(behind)}, {row.sizes['H']}/{row.sizes['G']} heads, d {row.sizes['d']}"
        line = [words, STORED[row.type], row.pattern, str(row.threads), number(row.sizes["N"] / row.time)]
        line += [f"{row.flops / 1e9:.0f}", f"{row.peak_share * 100:.0f}%", ratio(caches.over_float(row))]
        lines.append(line + [ratio(caches.over_contiguous(row)), ratio(caches.over_one_thread(row)), error(row)])
    return heads + ["vs 1 thread", "error / plain loop"], lines


def append_table(caches):
    heads = ["shape", "stored", "layout", "tokens", "tokens/s", "GB/s of floats", "vs float"]
    lines = []
    for row in caches.of(APPEND, APPEND_ONE):
        sizes = row.sizes
        width = sizes["d"] + sizes.get("e", sizes["d"])
        per_second = sizes["N"] / row.time
        line = [f"{sizes['G']} heads, d {sizes['d']}", STORED[row.type], row.pattern]
        line += [f"{sizes['N']} at once" if row.method == APPEND else "one by one", number(per_second)]
        lines.append(line + [f"{per_second * sizes['G'] * width * 4 / 1e9:.2f}", ratio(caches.over_float(row))])
    return heads, lines


def tables(results):
    """(title, (headings, cells)) of those that have rows."""
    caches = Caches(results)
    for title, table in (
        ("Decoding from caches: one new token of each sequence, beside a loop that reads as much memory", decode_table),
        ("Sequences of ragged lengths in one call", ragged_table),
        ("A chunk of a prompt behind cached tokens", chunk_table),
        ("Appending to a cache", append_table),
    ):
        heads, lines = table(caches)
        if lines:
            yield title, (heads, lines)


def promises(results):
    """What is promised of caches, as Results.ratios has it."""
    caches = Caches(results)
    for row in caches.of(DECODE):
        sizes, plain = row.sizes, row.pattern == "contiguous"
        if row.data or sizes["B"] > 1:
            continue
        name = STORED[row.type]
        peer = results.fastest_peer(row)
        if peer:
            yield f"fastest peer's time over ours, {name} cache ({peer[0]})", row, None, peer[1], 1.0, False
        if sizes["M"] != 32768:
            continue
        if row.type == "f32" and plain:
            yield "share of the read bandwidth, float cache", row, row.share, row.share_at_best, 0.85, False
        goal = GOALS.get(sizes["H"] // sizes["G"], {}).get(row.type)
        faster = caches.over_float(row)
        if goal and faster and plain and row.threads == 1:
            yield f"speed of a cache of {name} over float", row, *faster, goal, False
        paged = caches.over_contiguous(row)
        if paged and row.threads == 1:
            yield f"time of {row.pattern} over contiguous, {name}", row, 1 / paged[0], 1 / paged[1], 1.05, True
        threads = caches.over_one_thread(row)
        if threads and row.threads == 2 and plain and row.share < 0.85:
            yield f"speed of two threads over one, {name} cache", row, *threads, 1.8, False
