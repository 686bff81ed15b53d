#!/usr/bin/env python3
"""Turns Google Benchmark's JSON of fovea_bench into a table on the terminal and a page for the browser.

report.py RESULTS.json... [--peers PEERS.jsonl] [--failed TEXT]... [--html PAGE.html] [--note TEXT]...
report.py RESULTS.json... --cases      the shapes as bench/peers/run takes them

The tables need nothing but Python 3; the page's pictures need matplotlib, and without it the page has none.
"""

import argparse
import html
import io
import json
import math
import pathlib
import platform
import re
import statistics
import subprocess
import sys

BASELINE = "dense/plain_eigen"
TITLES = {
    "prefill": "Prefill: many queries, bound by arithmetic",
    "decode": "Decode: one query, bound by reading K and V",
    "small": "Small problems, many of them",
    "mask": "Masks at 4096 tokens",
    "real": "Tensors of trained models",
    "user": "Your tensors",
}
PEER_TOLERANCE = 1e-4  # a peer further from its double reference than this is not counted


class Row:
    """One bench: the medians of its samples."""

    def __init__(self, name, samples):
        self.name = name
        first = samples[0]
        self.table = first.get("label", "")
        parts = name.split("/")
        self.method = "/".join(parts[:2])
        sizes = {key: value for key, _, value in (part.partition(":") for part in parts if ":" in part)}
        self.threads = int(sizes.pop("threads"))
        words = [part for part in parts[2:] if ":" not in part]
        self.type, self.pattern, self.data = (words + ["", "", ""])[:3]
        self.sizes = {key: int(value) for key, value in sizes.items()}
        self.times = [sample["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}[sample["time_unit"]] for sample in samples]
        self.time = statistics.median(self.times)
        self.counters = {
            key: statistics.median(sample[key] for sample in samples)
            for key, value in first.items()
            if isinstance(value, float) or key == "visited"
        }

    def __getattr__(self, key):
        if key.startswith("_") or "counters" not in self.__dict__:
            raise AttributeError(key)
        return self.counters.get(key)

    @property
    def spread(self):
        """Half the range of the samples over their median."""
        return (max(self.times) - min(self.times)) / 2 / self.time

    @property
    def problem(self):
        """What two methods must share to be compared."""
        return (self.type, self.pattern, self.data, tuple(self.sizes.items()), self.threads)

    @property
    def shape(self):
        sizes = ",".join(str(value) for value in self.sizes.values())
        return f"{self.data or self.pattern}{' ' + self.pattern if self.data and self.pattern != 'full' else ''} ({sizes})" + (
            " f64" if self.type == "f64" else "")

    @property
    def memory_bound(self):
        return bool(self.bandwidth_share)

    @property
    def share(self):
        """Of the limit that binds this shape."""
        return self.bandwidth_share if self.memory_bound else self.peak_share

    @property
    def case(self):
        """MODE:B,H,G,N,M,D as the peers know it, or nothing."""
        if self.type != "f32" or self.pattern not in ("full", "causal") or "e" in self.sizes:
            return None
        mode = "decode" if self.sizes["N"] == 1 else self.pattern
        return mode + ":" + ",".join(str(self.sizes[key]) for key in "BHGNMd")


class Results:
    def __init__(self, files, peers_file, failed):
        self.context, samples, self.failed, self.machine = {}, {}, list(failed), {}
        for path in files:
            text = json.loads(pathlib.Path(path).read_text())
            self.context = text["context"]
            for entry in text["benchmarks"]:
                if entry["run_type"] != "iteration":
                    continue
                name = entry["name"].split("/iterations:")[0]
                if entry.get("error_occurred"):
                    reason = f"{name}: {entry.get('error_message', '')}"
                    if reason not in self.failed:
                        self.failed.append(reason)
                else:
                    samples.setdefault(name, []).append(entry)
        self.rows = []
        for name, entries in samples.items():
            if name.startswith("machine/"):
                self.machine[name[len("machine/"):]] = statistics.median(entry["rate"] for entry in entries)
            else:
                self.rows.append((entries[0]["family_index"], Row(name, entries)))
        self.rows = [row for _, row in sorted(self.rows, key=lambda pair: pair[0])]
        self.baseline = {row.problem: row for row in self.rows if row.method == BASELINE}
        self.peers = {}
        if peers_file:
            for line in pathlib.Path(peers_file).read_text().splitlines():
                peer = json.loads(line)
                case = f"{peer['mode']}:" + ",".join(str(peer[key]) for key in ("B", "H", "G", "N", "M", "D"))
                if peer["error"] <= PEER_TOLERANCE:
                    self.peers.setdefault((case, peer["threads"]), {})[peer["peer"]] = peer

    def sections(self):
        """(title, rows) in the order in which the benches were registered; the baseline only where it is alone."""
        shown = [row for row in self.rows if row.method != BASELINE] or self.rows
        groups = {}
        for row in shown:
            groups.setdefault((row.method, row.table), []).append(row)
        several = len({method for method, _ in groups}) > 1
        order = list(TITLES)
        for (method, table), rows in sorted(groups.items(), key=lambda g: (order.index(g[0][1]) if g[0][1] in order else 99, g[0][0])):
            title = TITLES.get(table, table)
            yield (f"{title} · {method}" if several else title), rows

    def ours(self):
        return [row for row in self.rows if row.method != BASELINE]

    def against_eigen(self, row):
        base = self.baseline.get(row.problem)
        return base.time / row.time if base and base is not row else None

    def fastest_peer(self, row):
        """(name, how many times as long it takes as ours). Ours as timed among the peers, where it was."""
        peers = self.peers.get((row.case, row.threads))
        if not peers or row.method == BASELINE:
            return None
        ours = peers["fovea"]["median_s"] if "fovea" in peers else row.time
        others = {name: peer["median_s"] for name, peer in peers.items() if name not in ("fovea", "eigen")} or {
            name: peer["median_s"] for name, peer in peers.items() if name != "fovea"}
        if not others:
            return None
        name = min(others, key=others.get)
        return name, others[name] / ours

    def same_problem(self, row, **changes):
        """The row of the same method whose problem differs in `changes` only."""
        wanted = {"type": row.type, "pattern": row.pattern, "data": row.data, "sizes": row.sizes, "threads": row.threads, **changes}
        for other in self.rows:
            if other.method == row.method and all(getattr(other, key) == value for key, value in wanted.items()):
                return other
        return None

    def ratios(self):
        """What is promised, measured: (what, shape, threads, value, goal, met, at most?)."""
        wide = self.context.get("instruction_set", "").startswith("avx512")
        for row in self.ours():
            n, m = row.sizes["N"], row.sizes["M"]
            at_least = lambda what, value, goal: (what, row.shape, row.threads, value, goal, value >= goal, False)
            at_most = lambda what, value, goal: (what, row.shape, row.threads, value, goal, value <= goal, True)
            if row.threads == 1 and row.type == "f32" and row.pattern == "full" and n == m >= 2048 and not row.data and row.table == "prefill":
                yield at_least("share of the arithmetic limit", row.peak_share, 0.85 if wide else 0.80)
            if row.table == "decode" and m >= 32768:
                yield at_least("share of the read bandwidth", row.bandwidth_share, 0.85)
            full = self.same_problem(row, pattern="full")
            if row.pattern == "causal" and full and n == m >= 4096:
                yield at_most("causal time over full time", row.time / full.time, 0.55)
            if row.table == "mask" and row.pattern != "full" and full:
                yield at_most("masked time over (visited share × dense time)", row.time / (row.visited * full.time), 1.15)
            single = self.same_problem(row, threads=1)
            if row.threads == 2 and single and row.type == "f32" and not row.data and (n == m >= 2048 or m >= 32768):
                yield at_least("speed of two threads over one", single.time / row.time, 1.8)
            peer = self.fastest_peer(row)
            if peer and peer[0] != "eigen":
                yield at_least(f"fastest peer's time over ours ({peer[0]})", peer[1], 1.1)

    def worst_error(self):
        """(ratio, row): the row whose error is largest as a multiple of the plain loop's."""
        rows = [row for row in self.ours() if row.naive_error]
        return max(((row.error / row.naive_error, row) for row in rows), key=lambda pair: pair[0], default=None)


def duration(seconds):
    for unit, factor in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= factor or unit == "µs":
            value = seconds / factor
            return f"{value:.{max(0, 2 - int(math.floor(math.log10(value)))) if value > 0 else 2}f} {unit}"


def rate(row):
    return f"{row.bytes / 1e9:.1f} GB/s" if row.memory_bound else f"{row.flops / 1e9:.1f} GF/s"


def error_text(row):
    return f"{row.error:.1e} / {row.naive_error:.1e}" if row.error is not None else ""


def stored_text(row):
    parts = [f"o {row.stored_error:.1e}"] if row.stored_error is not None else []
    parts += [f"lse {row.stored_log_sum_error:.1e}"] if row.stored_log_sum_error is not None else []
    return ", ".join(parts)


def columns(results, rows):
    """Headings and cells of a section."""
    heads = ["shape", "threads", "time", "spread", "rate", "of limit", "vs Eigen"]
    with_peers = any(results.fastest_peer(row) for row in rows)
    with_masks = any(row.visited is not None and row.visited < 1 for row in rows) and rows[0].table == "mask"
    with_stored = any(stored_text(row) for row in rows)
    heads += (["fastest peer"] if with_peers else []) + (["visited", "vs dense"] if with_masks else [])
    heads += ["error / plain loop"] + (["vs stored"] if with_stored else [])
    cells = []
    for row in rows:
        eigen, peer = results.against_eigen(row), results.fastest_peer(row)
        line = [row.shape, str(row.threads), duration(row.time), f"±{row.spread * 100:.0f}%", rate(row),
                f"{row.share * 100:.0f}% {'mem' if row.memory_bound else 'fma'}", f"{eigen:.2f}x" if eigen else ""]
        if with_peers:
            line.append(f"{peer[1]:.2f}x {peer[0]}" if peer else "")
        if with_masks:
            dense = results.same_problem(row, pattern="full")
            line += [f"{row.visited * 100:.1f}%", f"{row.time / dense.time * 100:.1f}%" if dense else ""]
        line.append(error_text(row))
        if with_stored:
            line.append(stored_text(row))
        cells.append(line)
    return heads, cells


def aligned(heads, cells):
    widths = [max(len(line[i]) for line in [heads] + cells) for i in range(len(heads))]
    layout = lambda line: "  ".join(text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths))).rstrip()
    return "\n".join([layout(heads), "  ".join("-" * w for w in widths)] + [layout(line) for line in cells])


def machine_lines(results):
    """(what, value) of the limits that were measured."""
    for name, value in sorted(results.machine.items()):
        kind, _, rest = name.partition("/")
        threads = rest.rpartition("threads:")[2]
        if kind == "arithmetic":
            yield f"arithmetic {rest.split('/')[0]}, {threads} thread{'s' * (threads != '1')}", f"{value / 1e9:.0f} GFLOP/s"
        else:
            yield f"reading 512 MiB, {threads} thread{'s' * (threads != '1')}", f"{value / 1e9:.1f} GB/s"


def disturbance(results):
    """A sentence when other programs took the cores during much of the run, else nothing."""
    clean = [row.undisturbed for row in results.rows if row.undisturbed is not None]
    if not clean or statistics.mean(clean) > 0.8:
        return []
    return [f"Other programs were busy on this machine: only {statistics.mean(clean) * 100:.0f}% of the calls ran undisturbed. Long calls and two threads "
            "suffer most; take their numbers as lower bounds."]


def cpu_name():
    try:
        match = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
        return match.group(1) if match else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def revision():
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True,
                          cwd=pathlib.Path(__file__).parent, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def build_lines(results):
    context = results.context
    facts = [("processor", f"{cpu_name()}, {context.get('num_cpus', '?')} cores"),
             ("system", f"{platform.system()} {platform.release()}"),
             ("compiler", context.get("compiler", "")), ("flags", context.get("flags", "")),
             ("instruction set", f"{context.get('instruction_set', '')}, {context.get('lanes_f32', '?')} floats a vector"),
             ("libraries", f"Eigen {context.get('eigen', '')}, xsimd {context.get('xsimd', '')}"),
             ("revision", revision()), ("date", context.get("date", "")[:16].replace("T", " ")),
             ("load before the run", ", ".join(f"{x:.1f}" for x in context.get("load_avg", [])))]
    return [(key, value) for key, value in facts if value]


def print_tables(results, notes):
    for key, value in build_lines(results) + list(machine_lines(results)):
        print(f"{key:<28} {value}")
    for title, rows in results.sections():
        print(f"\n{title}\n{aligned(*columns(results, rows))}")
    ratios = list(results.ratios())
    if ratios:
        print("\nWhat is promised")
        print(aligned(["ratio", "shape", "threads", "measured", "goal", ""],
                      [[what, shape, str(threads), f"{value:.2f}", f"{'≤' if most else '≥'} {goal:.2f}", "ok" if met else "below"]
                       for what, shape, threads, value, goal, met, most in ratios]))
    worst = results.worst_error()
    if worst:
        print(f"\nLargest error as a multiple of the plain loop's: {worst[0]:.2f}, {worst[1].name}")
    for note in notes:
        print("\n" + note)
    if results.failed:
        print("\nFailed:\n  " + "\n  ".join(results.failed))


# The page


INK, QUIET, GRID = "#1f2933", "#7b8794", "#e4e7eb"
OURS, OURS_LIGHT, EIGEN, PEER, LIMIT = "#d9480f", "#f4a261", "#94a3b8", "#2b6cb0", "#2f855a"


def picture(figure):
    """The figure as SVG text, to stand in the page itself."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", transparent=True)
    svg = text.getvalue()
    return svg[svg.index("<svg"):]


def axes_style(axes):
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.set_axisbelow(True)


def share_picture(plt, results):
    """Bars: how much of the limit that binds each shape is reached."""
    rows = [row for row in results.ours() if row.share and row.table in ("prefill", "decode", "real", "user")]
    if not rows:
        return None
    shapes = list(dict.fromkeys(row.shape for row in rows))
    threads = sorted({row.threads for row in rows})
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.19 * (len(threads) + 0.6) * len(shapes)))
    height = 0.8 / len(threads)
    for offset, count in enumerate(threads):
        colour = [OURS, OURS_LIGHT, "#ffd8a8", "#ffe8cc"][min(offset, 3)]
        by_shape = {row.shape: row for row in rows if row.threads == count}
        for place, shape in enumerate(shapes):
            row = by_shape.get(shape)
            if not row:
                continue
            y = place + (offset - (len(threads) - 1) / 2) * height
            axes.barh(y, row.share, height=height * 0.9, color=colour, label=f"{count} thread{'s' * (count > 1)}" if place == 0 else None)
            base = results.baseline.get(row.problem)
            if base and base.share:
                axes.plot([base.share] * 2, [y - height * 0.45, y + height * 0.45], color=INK, linewidth=1.6, solid_capstyle="butt",
                          label="plain Eigen" if place == 0 and offset == 0 else None)
            axes.text(row.share + 0.008, y, f"{row.share * 100:.0f}%", va="center", fontsize=7.5, color=INK)
    axes.set_yticks(range(len(shapes)), [f"{shape}{'  memory' if next(r for r in rows if r.shape == shape).memory_bound else ''}" for shape in shapes])
    axes.set_ylim(len(shapes) - 0.4, -0.6)
    axes.set_xlim(0, max(1.08, max(row.share for row in rows) + 0.08))
    axes.axvline(1, color=LIMIT, linewidth=1.2, label="measured limit")
    axes.xaxis.set_major_formatter(plt.FuncFormatter(lambda x, _: f"{x * 100:.0f}%"))
    axes.grid(axis="x", color=GRID)
    axes_style(axes)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=5, frameon=False, fontsize=9)
    return picture(figure)


def length_picture(plt, results):
    """Time against the number of tokens, one panel for each width and pattern, one thread."""
    square = [row for row in results.rows if row.table == "prefill" and row.type == "f32" and row.threads == 1 and row.sizes["N"] == row.sizes["M"]
              and row.sizes["B"] == 1]
    panels = sorted({(row.sizes["d"], row.pattern != "full", row.pattern) for row in square
                     if len({r.sizes["N"] for r in square if r.pattern == row.pattern and r.sizes["d"] == row.sizes["d"]}) > 1})
    if not panels:
        return None
    figure, grid = plt.subplots(1, len(panels), figsize=(min(11, 3.4 * len(panels) + 0.6), 3.3), sharey=True, squeeze=False)
    for axes, (dim, _, pattern) in zip(grid[0], panels):
        lines = {}
        for row in square:
            if row.sizes["d"] != dim or row.pattern != pattern:
                continue
            n = row.sizes["N"]
            lines.setdefault("plain Eigen" if row.method == BASELINE else "fovea", {})[n] = row.time
            if row.method != BASELINE:
                lines.setdefault("at the limit", {})[n] = row.time * row.peak_share
                peers = results.peers.get((row.case, 1), {})
                others = [peer["median_s"] for name, peer in peers.items() if name not in ("fovea", "eigen")]
                if others:
                    lines.setdefault("fastest peer", {})[n] = min(others)
        for name, colour, style in (("plain Eigen", EIGEN, "o-"), ("fastest peer", PEER, "o-"), ("fovea", OURS, "o-"), ("at the limit", LIMIT, "--")):
            if name in lines:
                points = sorted(lines[name].items())
                axes.plot([n for n, _ in points], [t * 1e3 for _, t in points], style, color=colour, label=name, linewidth=1.8, markersize=4)
        lengths = sorted({row.sizes["N"] for row in square})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(lengths, [str(n) for n in lengths])
        axes.set_title(f"{pattern}, d = {dim}", fontsize=10, color=INK)
        axes.set_xlabel("tokens", fontsize=9, color=INK)
        axes.grid(color=GRID)
        axes_style(axes)
    grid[0][0].set_ylabel("time, ms", fontsize=9, color=INK)
    handles, labels = max((axes.get_legend_handles_labels() for axes in grid[0]), key=lambda pair: len(pair[1]))
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncol=4, frameon=False, fontsize=9)
    return picture(figure)


def ratio_picture(plt, results):
    """How many times faster than the others, one thread."""
    rows = [row for row in results.ours() if row.threads == 1 and row.table in ("prefill", "decode", "small", "real", "user") and
            (results.against_eigen(row) or results.fastest_peer(row))]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.25 * len(rows)))
    most = 1.0
    for place, row in enumerate(rows):
        eigen, peer = results.against_eigen(row), results.fastest_peer(row)
        for value, colour, text, size in ((eigen, EIGEN, "", 6), (peer[1] if peer else None, PEER, peer[0] if peer else "", 7)):
            if value:
                most = max(most, value)
                axes.plot([1, value], [place, place], color=colour, linewidth=1.4, alpha=0.55)
                axes.plot(value, place, "o", color=colour, markersize=size)
                if text:
                    axes.annotate(text, (value, place), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7, color=colour)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xscale("log")
    ticks = [tick for tick in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32) if tick <= most * 1.15]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [row.shape for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color=GRID)
    axes_style(axes)
    axes.plot([], [], "o", color=EIGEN, label="than plain Eigen")
    if results.peers:
        axes.plot([], [], "o", color=PEER, label="than the fastest peer")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2, frameon=False, fontsize=9)
    return picture(figure)


def mask_picture(plt, results):
    """Time against the pairs that are kept, both as a share of dense."""
    points = [(row, results.same_problem(row, pattern="full")) for row in results.ours() if row.table == "mask" and row.threads == 1]
    points = [(row, dense) for row, dense in points if dense]
    if len(points) < 2:
        return None
    figure, axes = plt.subplots(figsize=(5.2, 3.6))
    most = max(max(row.visited, row.time / dense.time) for row, dense in points if row is not dense) * 1.25
    axes.plot([0, most], [0, most], color=LIMIT, linewidth=1.2, label="time = visited share × dense")
    axes.plot([0, most], [0, 1.15 * most], "--", color=QUIET, linewidth=1, label="15 % more")
    for row, dense in points:
        if row is dense:
            continue
        axes.plot(row.visited, row.time / dense.time, "o", color=OURS, markersize=7)
        axes.annotate(row.pattern.replace("_", " "), (row.visited, row.time / dense.time), xytext=(8, -9), textcoords="offset points", fontsize=8, color=INK)
    percent = plt.FuncFormatter(lambda x, _: f"{x * 100:.0f}%")
    axes.xaxis.set_major_formatter(percent)
    axes.yaxis.set_major_formatter(percent)
    axes.set_xlim(0, most * 1.12)
    axes.set_ylim(0, most * 1.15)
    axes.set_xlabel("pairs kept, of all", fontsize=9, color=INK)
    axes.set_ylabel("time, of dense", fontsize=9, color=INK)
    axes.grid(color=GRID)
    axes_style(axes)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    return picture(figure)


def pictures(results):
    """(heading, what it shows, svg)"""
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("report.py: no matplotlib, so the page has no pictures", file=sys.stderr)
        return
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "fovea", "font.family": "sans-serif", "text.color": INK})
    for heading, text, draw in (
        ("Share of what the machine can do",
         "Each bar is the rate of one shape over the limit that binds it: fused multiply-adds in registers, or, where it says memory, reading K and V "
         "once. Both limits are measured by a plain loop just before and after the kernel. The dark mark is plain Eigen.", share_picture),
        ("How many times as fast", "Time of the other over ours on the same shape in the same run, one thread.", ratio_picture),
        ("Time against length", "One thread, 8 heads. The dashed line is what the time would be at the measured arithmetic limit.", length_picture),
        ("Masks", "A mask should cost what it keeps. One thread.", mask_picture),
    ):
        svg = draw(plt, results)
        if svg:
            yield heading, text, svg
    plt.close("all")


STYLE = """
:root{--ink:#1f2933;--quiet:#616e7c;--line:#e4e7eb;--paper:#fff;--card:#f8f9fa;--ours:#d9480f;--good:#2f855a;--bad:#c53030}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:40px 24px 80px;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif}
h1{font-size:30px;margin:0 0 4px;letter-spacing:-.01em}h2{font-size:20px;margin:48px 0 6px}h3{font-size:16px;margin:28px 0 6px}
p{margin:6px 0;max-width:76ch}.quiet{color:var(--quiet)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin:24px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.tile b{display:block;font-size:26px;line-height:1.2;color:var(--ours);font-variant-numeric:tabular-nums}.tile span{color:var(--quiet);font-size:13px}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(330px,1fr));gap:0 32px;font-size:13.5px}
.facts div{display:flex;justify-content:space-between;gap:16px;border-bottom:1px solid var(--line);padding:4px 0}.facts span:first-child{color:var(--quiet);white-space:nowrap}.facts span:last-child{text-align:right}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13px;margin:8px 0 4px;font-variant-numeric:tabular-nums;width:100%}
th{font-weight:600;color:var(--quiet);border-bottom:2px solid var(--line);padding:5px 10px;text-align:right;white-space:nowrap}
td{border-bottom:1px solid var(--line);padding:4px 10px;text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left;padding-left:0}
.ok{color:var(--good)}.below{color:var(--bad);font-weight:600}.failed{background:#fff5f5;border:1px solid #feb2b2;border-radius:8px;padding:10px 16px}
svg{max-width:100%;height:auto}
"""


def html_table(heads, cells, classes=()):
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = ""
    for line in cells:
        body += "<tr>" + "".join(
            f"<td{' class=' + text if text in classes else ''}>{html.escape(text)}</td>" for text in line) + "</tr>\n"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def tiles(results):
    """The numbers somebody wants who reads nothing else: (number, what)."""
    ours = [row for row in results.ours() if row.threads == 1 and row.type == "f32"]
    dense = [row for row in ours if row.table == "prefill" and row.pattern == "full" and row.sizes["N"] == row.sizes["M"] >= 2048]
    if dense:
        yield f"{statistics.median(row.peak_share for row in dense) * 100:.0f}%", "of the arithmetic limit, dense, 2048 tokens and more (median)"
    decode = [row for row in ours if row.table == "decode"]
    if decode:
        longest = max(decode, key=lambda row: row.sizes["M"])
        yield f"{longest.bandwidth_share * 100:.0f}%", f"of the read bandwidth, decode {longest.shape.split(' ', 1)[1]}"
    eigen = [value for value in (results.against_eigen(row) for row in ours) if value]
    if eigen:
        yield f"{statistics.median(eigen):.1f}x", f"as fast as plain Eigen (median of {len(eigen)} shapes)"
    peers = [peer[1] for peer in map(results.fastest_peer, ours) if peer and peer[0] != "eigen"]
    if peers:
        yield f"{statistics.median(peers):.2f}x", f"as fast as the fastest peer (median of {len(peers)} shapes, least {min(peers):.2f}x)"
    worst = results.worst_error()
    if worst:
        yield f"{worst[0]:.2f}x", "largest error, as a multiple of a plain loop's"


def page(results, notes):
    facts = "".join(f"<div><span>{html.escape(k)}</span><span>{html.escape(v)}</span></div>" for k, v in build_lines(results) + list(machine_lines(results)))
    parts = [f"<h1>fovea: attention on this machine</h1>\n<p class=quiet>{html.escape(results.context.get('date', '')[:16].replace('T', ' '))} · "
             f"{html.escape(cpu_name())} · {html.escape(results.context.get('compiler', ''))}</p>"]
    if results.failed:
        parts.append("<div class=failed><b>Failed</b><br>" + "<br>".join(map(html.escape, results.failed)) + "</div>")
    parts.append("<div class=tiles>" + "".join(f"<div class=tile><b>{html.escape(n)}</b><span>{html.escape(t)}</span></div>" for n, t in tiles(results)) + "</div>")
    parts += [f"<p class=quiet>{html.escape(note)}</p>" for note in notes]
    for heading, text, svg in pictures(results):
        parts.append(f"<h2>{html.escape(heading)}</h2>\n<p class=quiet>{html.escape(text)}</p>\n{svg}")
    ratios = list(results.ratios())
    if ratios:
        parts.append("<h2>What is promised</h2>" + html_table(
            ["ratio", "shape", "threads", "measured", "goal", ""],
            [[what, shape, str(threads), f"{value:.2f}", f"{'≤' if most else '≥'} {goal:.2f}", "ok" if met else "below"]
             for what, shape, threads, value, goal, met, most in ratios], ("ok", "below")))
    parts.append("<h2>Every shape</h2>\n<p class=quiet>Shapes are (batch, heads, kv heads, queries, keys, width). <b>time</b>: median of the samples, and half their "
                 "range as <b>spread</b>. <b>rate</b>: pairs that the pattern keeps × 2 (D + E) operations, or bytes of K and V read once, over the time. "
                 "<b>of limit</b>: that rate over the limit measured beside it (fma or mem). <b>vs Eigen</b>, <b>fastest peer</b>: their time over ours. <b>error</b>: "
                 "relative root mean square distance to double precision on sampled rows; behind it that of a plain loop on the same rows.</p>")
    for title, rows in results.sections():
        parts.append(f"<h3>{html.escape(title)}</h3>" + html_table(*columns(results, rows)))
    parts.append(f"<h2>Machine and build</h2>\n<div class=facts>{facts}</div>")
    body = "\n".join(parts)
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>fovea benchmarks</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--peers")
    parser.add_argument("--failed", action="append", default=[])
    parser.add_argument("--html")
    parser.add_argument("--note", action="append", default=[])
    parser.add_argument("--cases", action="store_true")
    options = parser.parse_args()
    results = Results(options.results, options.peers, options.failed)
    notes = disturbance(results) + options.note
    if options.cases:
        print("\n".join(dict.fromkeys(row.case for row in results.ours() if row.case)))
        return
    print_tables(results, notes)
    if options.html:
        pathlib.Path(options.html).write_text(page(results, notes))


if __name__ == "__main__":
    main()
