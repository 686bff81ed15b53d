"""Made-up results in the form of bench/run's: small, complete, the same every time."""

import json
import math
import pathlib
import random
import zlib

CONTEXT = {
    "date": "2024-01-02T03:04:05+00:00",
    "num_cpus": 2,
    "load_avg": [0.1, 0.2, 0.3],
    "compiler": "g++ 12.2.0",
    "flags": "-O3 -march=native",
    "instruction_set": "avx2_fma",
    "lanes_f32": "8",
    "eigen": "3.4.0",
    "xsimd": "8.1.0",
    "benchmark": "1.7.1",
    "fovea": "0.1.0",
    "commit": "0123abc",
}
PEAK, READ = 50e9, 12e9
DENSE = "dense/scaled_dot_product"
# How a method grows (operations of N tokens), the share of pairs that it keeps, its error, and whether it selects.
METHODS = {
    "window/sliding_window": (256, 0.06, 0.3, True),
    "block_sparse/power": (512, 0.11, 0.25, True),
    "top_k/top_k": (900, 0.05, 0.05, True),
    "top_k/top_k_block": (640, 0.15, 0.12, True),
    "hierarchical/hip": (1500, 0.1, 0.09, True),
    "linear/linear": (64, None, 0.8, False),
    "linear/chunk_gated_delta": (190, None, 0.9, False),
    "low_rank/nystrom": (300, None, 0.5, False),
    "agent/agent": (49, None, 0.6, False),
}


def noise(name, place, width=0.03):
    return 1 + width * (random.Random(zlib.crc32(f"{name} {place}".encode())).random() - 0.5)


def bench(name, table, seconds, operations, samples=3, slower=1.0, memory=0, bandwidth=None, **counters):
    """The samples of one bench as Google Benchmark writes them."""
    for place in range(samples):
        time = seconds * slower * noise(name, place)
        entry = {
            "name": f"{name}/iterations:1/repeats:{samples}/manual_time",
            "family_index": zlib.crc32(name.encode()) % 1000,
            "run_type": "iteration",
            "repetition_index": place,
            "iterations": 1,
            "real_time": time * 1e3,
            "time_unit": "ms",
            "label": table,
            "flops": operations / time,
            "tokens": 1 / time,
            "peak": PEAK,
            "peak_share": operations / time / PEAK,
            "calls": 5.0,
            "undisturbed": 0.95,
            "best": time * 0.97,
            "error": 3e-7,
            "naive_error": 4e-7,
            "visited": 1.0,
            "memory": float(memory),
        }
        if bandwidth:
            entry |= {"bytes": bandwidth / time, "bandwidth": READ, "bandwidth_share": bandwidth / time / READ}
        yield entry | {key: float(value) for key, value in counters.items()}


def name_of(method, pattern, data, heads, n, m, d, threads, kind="f32"):
    words = "/".join(filter(None, (method, kind, pattern, data)))
    return f"{words}/B:1/H:{heads}/G:{heads}/N:{n}/M:{m}/d:{d}/threads:{threads}"


def benches(slower=1.0, growth=True):
    for threads in (1, 2):
        for what, rate in (("arithmetic/f32", PEAK), ("arithmetic/f64", PEAK / 2), ("read/MiB:512", READ)):
            name = f"machine/{what}/threads:{threads}"
            entry = {"name": name, "family_index": 0, "run_type": "iteration", "real_time": 1.0, "time_unit": "ns"}
            yield entry | {"label": "machine", "rate": rate * threads}
    for n in (512, 2048):
        for method, share in ((DENSE, 0.8), ("dense/plain_eigen", 0.3)):
            for pattern in ("full", "causal"):
                for threads in (1, 2):
                    work = 8 * n * n * 256 * (1 if pattern == "full" else 0.5)
                    name = name_of(method, pattern, "", 8, n, n, 64, threads)
                    yield from bench(name, "prefill", work / PEAK / share / threads**0.9, work, slower=slower)
    size = 4 * 2 * 8 * 8192 * 128
    for method, share in ((DENSE, 0.9), ("dense/plain_eigen", 0.5)):
        name = name_of(method, "full", "", 8, 1, 8192, 128, 1)
        yield from bench(name, "decode", size / READ / share, size / 2, bandwidth=size, slower=slower)
    for kind, width in (("f32", 4), ("bf16", 2)):
        name = name_of("cache/decode", "contiguous", "", 8, 1, 32768, 128, 1, kind)
        read = width * 2 * 8 * 32768 * 128
        yield from bench(name, "cache", read / READ / 0.9, read, bandwidth=read, slower=slower)
    for data, n in (("use_l0_4k", 4096), ("ocr_b2", 256), ("needles", 4096), ("gaussian", 4096)):
        table = "synthetic" if data in ("needles", "gaussian") else "real"
        for pattern in ("full", "causal"):
            work = 4 * n * n * 256 * (1 if pattern == "full" else 0.5)
            name = name_of(DENSE, pattern, data, 4, n, n, 64, 1)
            yield from bench(name, table, work / PEAK / 0.8, work, memory=150e3, slower=slower)
            for method, (per_token, kept, error, selects) in METHODS.items():
                share = kept or per_token / n
                own = {"dense_error": error * noise(method + data, 1, 0.8)}
                own |= {"kept": kept, "mass": min(1.0, kept**0.35)} if selects else {}
                seconds = work * share / PEAK / 0.5
                for threads in (1, 2):
                    name = name_of(method, pattern, data, 4, n, n, 64, threads)
                    memory = per_token * 300 + n * 8
                    yield from bench(
                        name, table, seconds / threads**0.8, work * share, memory=memory, slower=slower, **own
                    )
    full = name_of(DENSE, "full", "", 8, 4096, 4096, 64, 1)
    yield from bench(full, "mask", 1.0, PEAK * 0.8, slower=slower)
    for window in (256, 1024):
        name = name_of("window/sliding_window", f"window_{window}", "", 8, 4096, 4096, 64, 1)
        part = window / 4096
        yield from bench(name, "mask", 1.1 * part, PEAK * 0.8 * part, slower=slower, visited=part, tiles=1.05 * part)
    for n in (256, 512, 1024, 2048, 4096, 8192) if growth else ():
        for method, (per_token, *_) in {DENSE: (n, None), **METHODS}.items():
            work = 2 * n * per_token * 256
            seconds = work / PEAK / 0.7 + 2e-5
            memory = 60e3 + n * per_token * 4 if method == DENSE else n * 64 + per_token * 100
            own = {} if method == DENSE else {"dense_error": 0.5}
            name = name_of(method, "full", "", 2, n, n, 64, 1)
            yield from bench(name, "growth", seconds, work, memory=memory, slower=slower, **own)


def failed(method="top_k/gathered"):
    name = name_of(method, "full", "use_l0_4k", 4, 4096, 4096, 64, 1)
    entry = {"name": name, "family_index": 999, "run_type": "iteration", "error_occurred": True, "label": "real"}
    return entry | {"error_message": "wrong result: relative error <0.5>", "real_time": 0.0, "time_unit": "ms"}


def recall():
    lines = []
    for method, what, best in (
        (DENSE, "", 1.0), ("top_k/top_k", "", 0.98),
        ("linear/linear", "", 0.4), ("linear/chunk_gated_delta", "beta 1", 0.8),
    ):  # fmt: skip
        for dim in (64, 128):
            for length, pairs in ((256, 16), (512, 64), (1024, 256)):
                got = best * math.exp(-(pairs / length) * 2 * (1 - best) * 128 / dim)
                line = {
                    "method": method,
                    "what": what,
                    "pattern": "causal",
                    "dim": dim,
                    "length": length,
                    "pairs": pairs,
                }
                line |= {"recall": got, "spread": 0.01}
                lines.append(line | ({"density": 0.12} if method == "top_k/top_k" else {}))
    lines.append(
        {"method": "low_rank/nystrom", "what": "", "dim": 64, "length": 256, "pairs": 16, "failed": "not causal"}
    )
    return {"vocabulary": 8192, "examples": 20, "seed": 1, "lines": lines}


def maps(folder, tokens=320):
    """index.json and the arrays beside it; needs numpy."""
    import numpy

    folder.mkdir(parents=True, exist_ok=True)
    chance = numpy.random.default_rng(1)
    scores = chance.normal(size=(tokens, tokens)) * 2
    at = numpy.arange(tokens)
    seen = at[None, :] <= at[:, None]
    exp = numpy.where(seen, numpy.exp(scores - 0.02 * abs(at[None, :] - at[:, None])), 0)
    dense = (exp / exp.sum(axis=1, keepdims=True)).astype("float32")
    near = numpy.where(at[:, None] - at[None, :] < 48, exp, 0)
    window = (near / near.sum(axis=1, keepdims=True)).astype("float32")
    signed = (dense - 0.3 / tokens * seen).astype("float32")
    arrays = {"dense": dense, "window": window, "signed": signed, "last": window[-1:], "dense_last": dense[-1:]}
    for name, array in arrays.items():
        numpy.save(folder / f"{name}.npy", array)
    entry = {"data": "use_l0_4k", "pattern": "causal", "head": 0, "tokens": tokens, "dense": "dense.npy"}
    index = [
        entry | {"method": "window/sliding_window", "weights": "window.npy"},
        entry | {"method": "linear/linear", "weights": "signed.npy", "grid": [16, 20]},
        entry | {"method": "top_k/quest", "weights": "last.npy", "dense": "dense_last.npy", "query": tokens - 1},
        {"method": "low_rank/nystrom", "failed": "no map of this one"},
    ]
    (folder / "index.json").write_text(json.dumps(index))


def peers():
    shape = {"B": 1, "H": 8, "G": 8, "N": 2048, "M": 2048, "D": 64, "threads": 1, "error": 1e-6, "mode": "full"}
    return [shape | {"peer": "fovea", "best_s": 0.2}, shape | {"peer": "onednn", "best_s": 0.3}]


def write(folder, with_failure=True, slower=1.0, growth=True):
    """All files of a run in the folder."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    entries = list(benches(slower, growth)) + ([failed()] if with_failure else [])
    (folder / "results.json").write_text(json.dumps({"context": CONTEXT, "benchmarks": entries}))
    (folder / "recall.json").write_text(json.dumps(recall()))
    (folder / "peers.jsonl").write_text("\n".join(map(json.dumps, peers())))
    try:
        maps(folder / "maps")
    except ImportError:
        pass
    return folder
