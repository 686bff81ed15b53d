"""The machine and the build that a report is about."""

import pathlib
import platform
import re
import statistics
import subprocess

LIBRARIES = (("Eigen", "eigen"), ("xsimd", "xsimd"), ("Google Benchmark", "benchmark"))


def machine_lines(results):
    """(what, value) of the limits that were measured."""
    for name, value in sorted(results.machine.items()):
        kind, _, rest = name.partition("/")
        words, _, threads = rest.rpartition("/threads:")
        suffix = f"{threads} thread{'s' * (threads != '1')}"
        if kind == "arithmetic":
            yield f"arithmetic {words}, {suffix}", f"{value / 1e9:.0f} GFLOP/s"
        else:
            yield f"reading {words.partition(':')[2]} MiB, {suffix}", f"{value / 1e9:.1f} GB/s"


def disturbance(results):
    """A sentence when other programs took the cores during much of the run, else nothing."""
    clean = [row.undisturbed for row in results.rows if row.undisturbed is not None]
    if not clean or statistics.mean(clean) > 0.8:
        return []
    return [
        f"Other programs were busy on this machine: only {statistics.mean(clean) * 100:.0f}% of the calls ran "
        "undisturbed. Long calls and two threads suffer most; take their numbers as lower bounds."
    ]


def cpu_name():
    try:
        match = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
        return match.group(1) if match else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def revision():
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parent,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def build_lines(context):
    """(what, value) of the machine, the compiler, the libraries and the date."""
    facts = [
        ("processor", f"{cpu_name()}, {context.get('num_cpus', '?')} cores"),
        ("system", f"{platform.system()} {platform.release()}"),
        ("compiler", context.get("compiler", "")),
        ("flags", context.get("flags", "")),
        ("instruction set", f"{context.get('instruction_set', '')}, {context.get('lanes_f32', '?')} floats a vector"),
        ("libraries", ", ".join(f"{name} {context[key]}" for name, key in LIBRARIES if context.get(key))),
        ("fovea", " ".join(filter(None, (context.get("fovea"), context.get("commit") or revision())))),
        ("date", context.get("date", "")[:16].replace("T", " ")),
        ("load before the run", ", ".join(f"{x:.1f}" for x in context.get("load_avg", []))),
    ]
    return [(key, value) for key, value in facts if value]
