"""The results of fovea_bench, and of the peers beside it, as rows that can be compared."""

import json
import pathlib
import re
import statistics

import decoding

BASELINE = "dense/plain_eigen"
DENSE = "dense/scaled_dot_product"
COMPARED = ("real", "user", "synthetic", "approximate", "decode", "prefill", "small")  # tables of approximate methods
BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "int8": 1, "int4": 0.5}
# A peer further than this from the definition in double is not counted; narrower storage is held against the numbers
# before they are rounded.
PEER_TOLERANCE = {"decodef16": 1e-2, "decodebf16": 1e-2, "decodeq8": 1e-2, "decodeq4": 0.1}
# Rules of linear attention as the peers know them, by method without its form.
PEER_RULES = {
    "delta": "delta",
    "gated_linear": "gated",
    "gated_linear_by_channel": "gatedk",
    "gated_delta": "gdelta",
    "gated_delta_by_channel": "gdeltak",
}


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
        self.shares = [sample.get("bandwidth_share") or sample["peak_share"] for sample in samples]
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
    def pairs(self):
        """Of a query and a key, hidden or not, of one head."""
        return self.sizes["N"] * self.sizes["M"]

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
    def traffic(self):
        """Bytes of q, k, v and out, each once; of a cache what the bench says that a step reads."""
        size = self.sizes
        out = size.get("e", size["d"])
        narrow = 4 if self.type in ("bf16", "f16", "int8", "int4") else BYTES[self.type]
        ends = size["B"] * size["H"] * size["N"] * (size["d"] + out) * narrow
        if self.bytes and decoding.is_cache(self):
            return ends + self.bytes * self.time
        return ends + size["B"] * size["G"] * size["M"] * (size["d"] + out) * BYTES[self.type]

    @property
    def case(self):
        """MODE:B,H,G,N,M,D as the peers know it, or nothing."""
        if decoding.is_cache(self):
            return decoding.peer_case(self)
        if self.type != "f32" or "e" in self.sizes:
            return None
        if self.method == "window/sliding_window" and re.fullmatch(r"window_\d+", self.pattern):
            mode = self.pattern.replace("_", "")
        elif self.method in (DENSE, BASELINE) and self.pattern in ("full", "causal"):
            mode = "decode" if self.sizes["N"] == 1 else self.pattern
        elif self.table in ("prefill", "decode"):
            mode = PEER_RULES.get(re.sub("^linear/(chunk|recurrent)_", "", self.method))
        else:
            mode = None
        return mode and mode + ":" + ",".join(str(self.sizes[key]) for key in "BHGNMd")


class Results:
    def __init__(self, files, peers_file=None, failed=()):
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
        self.by_problem = {(row.method, *row.problem): row for row in self.rows}
        self.dense = {row.problem: row for row in self.rows if row.method == DENSE}
        self.peers = {}
        if peers_file:
            for line in pathlib.Path(peers_file).read_text().splitlines():
                peer = json.loads(line)
                case = f"{peer['mode']}:" + ",".join(str(peer[key]) for key in ("B", "H", "G", "N", "M", "D"))
                if peer["error"] <= PEER_TOLERANCE.get(peer["mode"], 1e-4):
                    self.peers.setdefault((case, peer["threads"]), {})[peer["peer"]] = peer

    def sections(self):
        """{table: rows} of one table of shapes each, without the baseline except where it is alone."""
        shown = [row for row in self.rows if row.method != BASELINE] or self.rows
        groups = {}
        for row in shown:
            if decoding.is_cache(row):
                continue
            beside = row.method == DENSE and row.table in ("synthetic", "growth", "approximate")
            if not row.compared and not beside and row.table != "growth":
                groups.setdefault(row.table, []).append(row)
        for rows in groups.values():
            rows.sort(key=lambda row: (row.method != DENSE, row.family, row.method))
        return groups

    def dense_beside(self, row):
        """Dense attention on the same numbers: causal beside causal, and full beside any other pattern."""
        pattern = row.pattern if row.pattern == "causal" else "full"
        return self.dense.get((row.type, pattern, *row.problem[2:]))

    def over_dense(self, row):
        """How many times as fast as dense attention."""
        dense = self.dense_beside(row)
        return dense.time / row.time if dense else None

    def comparisons(self):
        """(kind of input, [(dense row or nothing, rows)]) of what is held against dense attention, the largest first."""
        groups = {}
        for row in self.rows:
            if row.compared:
                table = row.table if row.table in COMPARED else "approximate"
                groups.setdefault(table, {}).setdefault((*row.input, row.threads), []).append(row)
        for table in sorted(groups, key=COMPARED.index):
            inputs = [
                (self.dense_beside(rows[0]), sorted(rows, key=lambda row: (row.family, row.method, row.name)))
                for _, rows in sorted(groups[table].items(), key=lambda g: (-g[1][0].pairs, g[0][1] != "full", str(g[0])))
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

    def methods(self):
        """The methods of which there is a row, families together."""
        return sorted({row.method for row in self.rows}, key=lambda m: (not m.startswith("dense/"), m))

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
        keys = ("type", "pattern", "data", "sizes", "threads")
        wanted = [changes.get(key, value) for key, value in zip(keys, row.problem)]
        return self.by_problem.get((row.method, *wanted))

    def worst_error(self):
        """(ratio, row): the row whose error is largest as a multiple of the plain loop's."""
        rows = [row for row in self.ours() if row.naive_error]
        return max(((row.error / row.naive_error, row) for row in rows), key=lambda pair: pair[0], default=None)
