"""What this project promises of its own kernels, beside what was measured."""

import decoding
from results import DENSE


def ratios(results):
    """What is promised, measured: (what, row, value at the median, value at best, goal, at most?)."""
    dense_goal = 0.85 if results.context.get("instruction_set", "").startswith("avx512") else 0.80

    def over(this, that, factor=1):
        return this.time / that.time / factor, this.best_call / that.best_call / factor

    for row in results.ours():
        if decoding.is_cache(row):
            continue
        n, m = row.sizes["N"], row.sizes["M"]
        full = results.dense.get((row.type, "full", *row.problem[2:]))
        single = results.same_problem(row, threads=1)
        peer = results.fastest_peer(row)
        random = row.type == "f32" and row.table in ("prefill", "decode")
        is_dense = row.method == DENSE
        if is_dense and random and row.pattern == "full" and n == m >= 2048 and row.threads == 1:
            yield "share of the arithmetic limit", row, row.share, row.share_at_best, dense_goal, False
        if is_dense and random and m >= 32768:
            yield "share of the read bandwidth", row, row.share, row.share_at_best, 0.85, False
        if is_dense and random and row.pattern == "causal" and full and n == m >= 4096:
            yield "causal time over full time", row, *over(row, full), 0.55, True
        if row.table == "mask" and not is_dense and row.visited < 1 and full:
            what = "masked time over (share of visited tiles × dense time)"
            yield what, row, *over(row, full, row.tiles or row.visited), 1.15, True
        if is_dense and random and row.threads == 2 and single and (n == m >= 2048 or m >= 32768):
            yield "speed of two threads over one", row, *over(single, row), 1.8, False
        if peer and peer[0] != "eigen":
            yield f"fastest peer's time over ours ({peer[0]})", row, None, peer[1], 1.1, False
    yield from decoding.promises(results)
    worst = results.worst_error()
    if worst:
        yield "largest error over a plain loop's", worst[1], None, worst[0], 1.0, True


def table(results):
    """Headings and lines: promised, measured. The median decides; the best call shows what noise may have cost."""
    lines = []
    for what, row, median, best, goal, at_most in sorted(ratios(results), key=lambda ratio: ratio[0].split(" (")[0]):
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
