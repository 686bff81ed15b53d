"""The results of fovea_bench, and of the peers beside it, as rows that can be compared."""

import json
import math
import pathlib
import platform
import re
import statistics
import subprocess

import decoding

BASELINE = "dense/plain_eigen"
DENSE = "dense/scaled_dot_product"
TITLES = {
    "prefill": "Prefill: many queries, bound by arithmetic",
    "decode": "Decode: one query, bound by reading K and V",
    "small": "Small problems, many of them",
    "mask": "Masks and grids",
    "real": "Tensors of trained models",
    "synthetic": "Structured tensors",
    "approximate": "Others",
    "user": "Your tensors",
}
COMPARISONS = {
    "real": "Approximate methods on real input",
    "user": "Approximate methods on your tensors",
    "synthetic": "Approximate methods on structured input",
    "approximate": "Approximate methods on other shapes",
    "decode": "Approximate methods at one query",
    "prefill": "Approximate methods at many queries",
    "small": "Approximate methods on small problems",
}
WORDS = ("ratio", "shape", "input", "method", "stored", "layout")  # columns that hold words
# A peer further than this from the definition in double is not counted; narrower storage is held against the numbers
# before they are rounded.
PEER_TOLERANCE = {"decodef16": 1e-2, "decodebf16": 1e-2, "decodeq8": 1e-2, "decodeq4": 0.1}


class Row:
    """One bench: the medians of its samples. Its counters are attributes too, None where it has none of that name."""

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
        self.times = [
            sample["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}[sample["time_unit"]]
            for sample in samples
        ]
        self.time = statistics.median(self.times)
        self.best_call = min(sample["best"] for sample in samples)
        self.best_peak = max(sample["peak"] for sample in samples)
        self.best_bandwidth = max(sample.get("bandwidth", 0) for sample in samples)
        self.counters = {
            key: statistics.median(sample[key] for sample in samples)
            for key, value in first.items()
            if isinstance(value, float) and all(key in sample for sample in samples)
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
    def family(self):
        return self.method.partition("/")[0]

    @property
    def name_in_family(self):
        return self.method.partition("/")[2]

    @property
    def compared(self):
        """Stands among those that are held against dense attention, rather than in the table of its shapes."""
        return self.dense_error is not None and self.table not in ("mask", "growth")

    @property
    def input(self):
        """What a method is run on, without its threads."""
        return self.problem[:-1]

    @property
    def shape(self):
        if decoding.is_cache(self):
            return decoding.shape(self)
        words = [self.data or ("decode" if self.sizes["N"] == 1 else self.pattern)]
        words += [self.pattern] if self.data and self.pattern != "full" else []
        words.append(f"({','.join(map(str, self.sizes.values()))})")
        return " ".join(words + ([self.type] if self.type != "f32" else []))

    @property
    def memory_bound(self):
        return bool(self.bandwidth_share)

    @property
    def share(self):
        """Of the limit that binds this shape."""
        return self.bandwidth_share if self.memory_bound else self.peak_share

    @property
    def share_at_best(self):
        """The same for the fastest call of all, over the highest limit of all."""
        work, limit = (self.bytes, self.best_bandwidth) if self.memory_bound else (self.flops, self.best_peak)
        return work * self.time / self.best_call / limit

    @property
    def case(self):
        """MODE:B,H,G,N,M,D as the peers know it, or nothing."""
        if decoding.is_cache(self):
            return decoding.peer_case(self)
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
                self.machine[name[len("machine/") :]] = statistics.median(entry["rate"] for entry in entries)
            else:
                self.rows.append((entries[0]["family_index"], Row(name, entries)))
        self.rows = [row for _, row in sorted(self.rows, key=lambda pair: pair[0])]
        self.baseline = {row.problem: row for row in self.rows if row.method == BASELINE}
        self.dense = {row.problem: row for row in self.rows if row.method == DENSE}
        self.peers = {}
        if peers_file:
            for line in pathlib.Path(peers_file).read_text().splitlines():
                peer = json.loads(line)
                case = f"{peer['mode']}:" + ",".join(str(peer[key]) for key in ("B", "H", "G", "N", "M", "D"))
                if peer["error"] <= PEER_TOLERANCE.get(peer["mode"], 1e-4):
                    self.peers.setdefault((case, peer["threads"]), {})[peer["peer"]] = peer

    def sections(self):
        """(title, rows) of one table of shapes each, without the baseline except where it is alone."""
        shown = [row for row in self.rows if row.method != BASELINE] or self.rows
        groups = {}
        for row in shown:
            if decoding.is_cache(row):
                continue
            beside = row.method == DENSE and row.table in ("synthetic", "growth", "approximate")
            if not row.compared and not beside and row.table != "growth":
                groups.setdefault(row.table, []).append(row)
        order = list(TITLES)
        for table, rows in sorted(groups.items(), key=lambda g: order.index(g[0]) if g[0] in order else 99):
            rows.sort(key=lambda row: (row.method != DENSE, row.family, row.method))
            yield TITLES.get(table, table), rows

    def dense_beside(self, row):
        """Dense attention on the same numbers: causal beside causal, and full beside any other pattern."""
        pattern = row.pattern if row.pattern == "causal" else "full"
        return self.dense.get((row.type, pattern, *row.problem[2:]))

    def over_dense(self, row):
        """How many times as fast as dense attention."""
        dense = self.dense_beside(row)
        return dense.time / row.time if dense else None

    def comparisons(self):
        """(kind of input, [(dense row or nothing, rows)]) of what is held against dense attention."""
        groups = {}
        for row in self.rows:
            if row.compared:
                table = row.table if row.table in COMPARISONS else "approximate"
                groups.setdefault(table, {}).setdefault((*row.input, row.threads), []).append(row)
        for table in sorted(groups, key=list(COMPARISONS).index):
            inputs = [
                (self.dense_beside(rows[0]), sorted(rows, key=lambda row: (row.family, row.method, row.name)))
                for _, rows in sorted(groups[table].items(), key=lambda g: (g[0][2], g[0][1] != "full", str(g[0])))
            ]
            yield table, inputs

    def growth(self):
        """{(method, pattern): {length: row}} of the shapes that differ in their length alone, dense attention first."""
        lines = {}
        for row in self.rows:
            if row.table == "growth":
                lines.setdefault((row.method, row.pattern), {})[row.sizes["M"]] = row
        for (method, pattern), line in list(lines.items()):
            for length, row in line.items():
                dense = self.dense_beside(row)
                if dense:
                    lines.setdefault((DENSE, dense.pattern), {})[length] = dense
        return dict(sorted(lines.items(), key=lambda item: (item[0][1] != "full", item[0][0] != DENSE, item[0])))

    def ours(self):
        return [row for row in self.rows if row.method != BASELINE]

    def against_eigen(self, row):
        base = self.baseline.get(row.problem)
        return base.time / row.time if base and base is not row else None

    def fastest_peer(self, row):
        """(name, how many times as long its best call takes as ours); ours as timed among the peers, where it was."""
        peers = self.peers.get((row.case, row.threads))
        if not peers or row.method == BASELINE:
            return None
        ours = peers["fovea"]["best_s"] if "fovea" in peers else row.best_call
        others = {name: peer["best_s"] for name, peer in peers.items() if name not in ("fovea", "eigen")} or {
            name: peer["best_s"] for name, peer in peers.items() if name != "fovea"
        }
        if not others:
            return None
        name = min(others, key=others.get)
        return name, others[name] / ours

    def same_problem(self, row, **changes):
        """The row of the same method whose problem differs in `changes` only."""
        wanted = {
            "type": row.type,
            "pattern": row.pattern,
            "data": row.data,
            "sizes": row.sizes,
            "threads": row.threads,
            **changes,
        }
        for other in self.rows:
            if other.method == row.method and all(getattr(other, key) == value for key, value in wanted.items()):
                return other
        return None

    def ratios(self):
        """What is promised, measured: (what, row, value at the median, value at best, goal, at most?)."""
        dense_goal = 0.85 if self.context.get("instruction_set", "").startswith("avx512") else 0.80

        def over(this, that, factor=1):
            return this.time / that.time / factor, this.best_call / that.best_call / factor

        for row in self.ours():
            if decoding.is_cache(row):
                continue
            n, m = row.sizes["N"], row.sizes["M"]
            full = self.dense.get((row.type, "full", *row.problem[2:]))
            single = self.same_problem(row, threads=1)
            peer = self.fastest_peer(row)
            random = row.type == "f32" and row.table in ("prefill", "decode")
            is_dense = row.method == DENSE
            if is_dense and random and row.pattern == "full" and n == m >= 2048 and row.threads == 1:
                yield "share of the arithmetic limit", row, row.share, row.share_at_best, dense_goal, False
            if is_dense and random and m >= 32768:
                yield "share of the read bandwidth", row, row.share, row.share_at_best, 0.85, False
            if is_dense and random and row.pattern == "causal" and full and n == m >= 4096:
                yield "causal time over full time", row, *over(row, full), 0.55, True
            if row.table == "mask" and not is_dense and row.visited < 1 and full:
                what = "masked time over (visited share × dense time)"
                yield what, row, *over(row, full, row.visited), 1.15, True
            if is_dense and random and row.threads == 2 and single and (n == m >= 2048 or m >= 32768):
                yield "speed of two threads over one", row, *over(single, row), 1.8, False
            if peer and peer[0] != "eigen":
                yield f"fastest peer's time over ours ({peer[0]})", row, None, peer[1], 1.1, False
        yield from decoding.promises(self)
        worst = self.worst_error()
        if worst:
            yield "largest error over a plain loop's", worst[1], None, worst[0], 1.0, True

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


def percent(value, digits=0):
    return f"{value * 100:.{digits}f}%" if value is not None else ""


def times(value):
    return f"{value:.{2 if value < 9.95 else 1}f}x" if value else ""


def limit_text(row):
    return f"{percent(row.share)} {'mem' if row.memory_bound else 'fma'}"


def columns(results, rows):
    """Headings and cells of a section."""
    with_methods = len({row.method for row in rows}) > 1
    with_eigen = any(results.against_eigen(row) for row in rows)
    with_peers = any(results.fastest_peer(row) for row in rows)
    with_masks = rows[0].table == "mask"
    with_stored = any(stored_text(row) for row in rows)
    heads = ["shape"] + (["method"] if with_methods else [])
    heads += ["threads", "time", "spread", "rate", "of limit", "at best"] + (["vs Eigen"] if with_eigen else [])
    heads += (["fastest peer"] if with_peers else []) + (["visited", "of dense time"] if with_masks else [])
    with_dense = with_methods and not with_masks
    heads += (["vs dense"] if with_dense else []) + ["error / plain loop"] + (["vs stored"] if with_stored else [])
    cells = []
    for row in rows:
        line = [row.shape] + ([row.method] if with_methods else [])
        line += [
            str(row.threads),
            duration(row.time),
            f"±{row.spread * 100:.0f}%",
            rate(row),
            limit_text(row),
            percent(row.share_at_best),
        ]
        if with_eigen:
            line.append(times(results.against_eigen(row)))
        if with_peers:
            peer = results.fastest_peer(row)
            line.append(f"{peer[1]:.2f}x {peer[0]}" if peer else "")
        if with_masks:
            full = results.dense.get((row.type, "full", *row.problem[2:]))
            line += [percent(row.visited, 1), percent(row.time / full.time, 1) if full else ""]
        if with_dense:
            line.append(times(results.over_dense(row)))
        line.append(error_text(row))
        if with_stored:
            line.append(stored_text(row))
        cells.append(line)
    return heads, cells


def comparison_columns(results, inputs):
    """The same of methods beside dense attention, input after input."""
    heads = ["input", "method", "threads", "kept", "mass kept", "error vs dense", "time", "spread", "vs dense"]
    heads += ["of limit", "own error / plain loop"]
    cells = []
    for dense, rows in inputs:
        for row in ([dense] if dense else []) + rows:
            cells.append(
                [
                    row.shape,
                    row.method,
                    str(row.threads),
                    percent(row.kept, 1),
                    percent(row.mass, 1),
                    f"{row.dense_error:.1e}" if row.dense_error is not None else "",
                    duration(row.time),
                    f"±{row.spread * 100:.0f}%",
                    times(results.over_dense(row)),
                    limit_text(row),
                    error_text(row),
                ]
            )
    return heads, cells


def growth_columns(results):
    """Time at each length, the power of the length with which it grows, and from where on a method beats dense."""
    lines = results.growth()
    lengths = sorted({length for line in lines.values() for length in line})
    heads = ["method"] + [f"{n // 1024}k" if n >= 1024 else str(n) for n in lengths]
    heads += ["grows like", "vs dense at the end", "beats dense from"]
    cells = []
    for (method, pattern), line in lines.items():
        row = line[max(line)]
        faster = [n for n in sorted(line) if (results.over_dense(line[n]) or 0) > 1]
        slower = [n for n in sorted(line) if (results.over_dense(line[n]) or 2) <= 1]
        since = [n for n in faster if not slower or n > slower[-1]]
        power = growth_power(line)
        cells.append(
            [method + (f" {pattern}" if pattern != "full" else "")]
            + [duration(line[n].time) if n in line else "" for n in lengths]
            + [f"T^{power:.2f}" if power is not None else ""]
            + ["" if method == DENSE else times(results.over_dense(row))]
            + ["" if method == DENSE else f"{since[0]}" if since else "never"]
        )
    return heads, cells


def growth_power(line):
    """The power of the length with which the fastest call grows over the last three doublings."""
    lengths = sorted(line)[-4:]
    if len(lengths) < 2:
        return None
    return math.log(line[lengths[-1]].best_call / line[lengths[0]].best_call) / math.log(lengths[-1] / lengths[0])


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


def promises(results):
    """Headings and lines: promised, measured. The median decides; the best call shows what noise may have cost."""
    lines = []
    ratios = sorted(results.ratios(), key=lambda ratio: ratio[0].split(" (")[0])
    for what, row, median, best, goal, at_most in ratios:
        value = best if median is None else median
        met = value <= goal if at_most else value >= goal
        lines.append(
            [
                what,
                row.shape,
                row.method,
                str(row.threads),
                f"{median:.2f}" if median is not None else "",
                f"{best:.2f}",
                f"{'≤' if at_most else '≥'} {goal:.2f}",
                "ok" if met else "missed",
            ]
        )
    return ["ratio", "shape", "method", "threads", "median", "at best", "goal", ""], lines


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


def build_lines(results):
    context = results.context
    facts = [
        ("processor", f"{cpu_name()}, {context.get('num_cpus', '?')} cores"),
        ("system", f"{platform.system()} {platform.release()}"),
        ("compiler", context.get("compiler", "")),
        ("flags", context.get("flags", "")),
        ("instruction set", f"{context.get('instruction_set', '')}, {context.get('lanes_f32', '?')} floats a vector"),
        ("libraries", f"Eigen {context.get('eigen', '')}, xsimd {context.get('xsimd', '')}"),
        ("revision", revision()),
        ("date", context.get("date", "")[:16].replace("T", " ")),
        ("load before the run", ", ".join(f"{x:.1f}" for x in context.get("load_avg", []))),
    ]
    return [(key, value) for key, value in facts if value]
