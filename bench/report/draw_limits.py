"""Pictures of dense attention and of all methods beside what the machine can do, and beside other programs."""

from drawing import (
    EIGEN,
    INK,
    LIMIT,
    OURS,
    PEER,
    QUIET,
    WIDTH,
    axes_style,
    colour,
    family_legend,
    log_axis,
    marker,
    picture,
    plotted,
)
from formats import brief, duration, percent
from results import BASELINE, DENSE


def shares(plt, results):
    """Bars: how much of the limit that binds each shape dense attention reaches."""
    tables = ("prefill", "decode", "real", "user")
    rows = [row for row in results.ours() if row.method == DENSE and row.share and row.table in tables]
    if not rows:
        return None
    bound = {row.shape: row.memory_bound for row in rows}
    threads = sorted({row.threads for row in rows})
    figure, axes = plt.subplots(figsize=(WIDTH, 1.1 + 0.19 * (len(threads) + 0.6) * len(bound)))
    tall = figure.get_figheight()
    figure.subplots_adjust(left=0.25, right=0.98, top=1 - 0.4 / tall, bottom=0.55 / tall)
    height = 0.8 / len(threads)
    for offset, count in enumerate(threads):
        by_shape = {row.shape: row for row in rows if row.threads == count}
        for place, shape in enumerate(bound):
            row = by_shape.get(shape)
            if not row:
                continue
            y = place + (offset - (len(threads) - 1) / 2) * height
            plotted(axes.barh(y, row.share, height=height * 0.9, color=(OURS, "#88ccee", "#ddcc77")[min(offset, 2)]))
            ends = [row.share * (1 - row.spread), row.share * (1 + row.spread)]
            axes.plot(ends, [y, y], color=QUIET, linewidth=1)
            base = results.baseline.get(row.problem)
            if base and base.share:
                if -0.01 < base.share - ends[1] < 0.06:  # the number goes behind the mark
                    ends.append(base.share)
                axes.plot([base.share] * 2, [y - height * 0.45, y + height * 0.45], color=INK, linewidth=1.8)
            if height > 0.25:
                axes.text(max(ends) + 0.008, y, percent(row.share), va="center", fontsize=7.5, color=INK)
    axes.set_yticks(range(len(bound)), [f"{shape}{', memory' if memory else ''}" for shape, memory in bound.items()])
    axes.set_ylim(len(bound) - 0.4, -0.6)
    axes.set_xlim(0, max(1.08, max(row.share * (1 + row.spread) for row in rows) + 0.08))
    axes.axvline(1, color=LIMIT, linewidth=1.2)
    axes.xaxis.set_major_formatter(lambda share, _: percent(share))
    axes.set_xlabel("share of the measured limit")
    axes.set_ylabel("shape")
    axes_style(axes, "x")
    handles = [
        plt.Rectangle(
            (0, 0), 1, 1, color=(OURS, "#88ccee", "#ddcc77")[min(place, 2)], label=f"{n} thread{'s' * (n > 1)}"
        )
        for place, n in enumerate(threads)
    ]
    handles += [plt.Line2D([], [], color=INK, marker="|", linestyle="", markersize=9, label="plain Eigen")]
    handles += [plt.Line2D([], [], color=LIMIT, label="measured limit")]
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.6, 1), ncol=5)
    return picture(figure, "shares", "Share of the machine's limit that dense attention reaches, by shape")


def others(plt, results):
    """How many times faster dense attention is than plain Eigen and the fastest peer, one thread."""
    rows = [
        row
        for row in results.ours()
        if row.threads == 1
        and row.method == DENSE
        and row.table in ("prefill", "decode", "small", "real", "user")
        and (results.against_eigen(row) or results.fastest_peer(row))
    ]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 1.1 + 0.26 * len(rows)))
    tall = figure.get_figheight()
    figure.subplots_adjust(left=0.25, right=0.95, top=1 - 0.4 / tall, bottom=0.55 / tall)
    values, texts = [1.0], []
    for place, row in enumerate(rows):
        eigen, peer = results.against_eigen(row), results.fastest_peer(row)
        if eigen:
            values.append(eigen)
            axes.plot([1, eigen], [place, place], color=EIGEN, linewidth=1.4, alpha=0.6)
            plotted(axes.plot(eigen, place, "o", color=EIGEN, markersize=6))
        if peer:
            values.append(peer[1])
            axes.plot([1, peer[1]], [place, place], color=PEER, linewidth=1.4, alpha=0.6)
            plotted(axes.plot(peer[1], place, "D", color=PEER, markersize=6))
            texts.append(((max(peer[1], eigen or 0), place), peer[0], INK))
    log_axis(axes.xaxis, min(values) / 1.2, max(values) * 1.4, lambda tick: f"{tick:g}x")
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(range(len(rows)), [row.shape for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("time of the other over ours (right: ours is faster)")
    axes.set_ylabel("shape")
    axes_style(axes, "x")
    for (x, y), name, ink in texts:
        axes.annotate(name, (x, y), xytext=(8, 0), textcoords="offset points", va="center", fontsize=7.5, color=ink)
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=EIGEN, label="plain Eigen")]
    handles += [plt.Line2D([], [], marker="D", linestyle="", color=PEER, label="the fastest peer")] * bool(texts)
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.6, 1), ncol=2)
    return picture(figure, "others", "Time of plain Eigen and of the fastest peer over ours, by shape")


def dense_length(plt, results):
    """Time of dense attention against the number of tokens, a panel for each width and pattern, one thread."""
    square = [
        row
        for row in results.rows
        if row.table == "prefill"
        and row.method in (BASELINE, DENSE)
        and row.type == "f32"
        and row.threads == 1
        and row.sizes["N"] == row.sizes["M"]
        and row.sizes["B"] == 1
    ]
    lengths = {}
    for row in square:
        lengths.setdefault((row.sizes["d"], row.pattern != "full", row.pattern), set()).add(row.sizes["N"])
    panels = sorted(key for key, several in lengths.items() if len(several) > 1)
    if not panels:
        return None
    figure, grid = plt.subplots(1, len(panels), figsize=(WIDTH, 4), squeeze=False)
    figure.subplots_adjust(left=0.07, right=0.99, top=0.83, bottom=0.13, wspace=0.28)
    styles = {
        "plain Eigen": (EIGEN, "s-"), "fastest peer": (PEER, "D-"),
        "fovea": (OURS, "o-"), "at the limit": (LIMIT, "--"),
    }  # fmt: skip
    every = []
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
                best = [peer["best_s"] for name, peer in peers.items() if name not in ("fovea", "eigen")]
                if best:
                    lines.setdefault("fastest peer", {})[n] = min(best)
        for name, (ink, style) in styles.items():
            points = sorted(lines.get(name, {}).items())
            if points:
                every += [time for _, time in points]
                plotted(axes.plot(*zip(*points), style, color=ink, linewidth=1.7, markersize=4.5))
        tokens = sorted({row.sizes["N"] for row in square})
        axes.set_xscale("log")
        axes.set_xticks(tokens, [str(n) for n in tokens])
        axes.set_xticks([], minor=True)
        axes.set_xlim(tokens[0] / 1.3, tokens[-1] * 1.3)
        axes.set_title(f"{pattern}, d = {dim}", color=INK)
        axes.set_xlabel("length, tokens")
        axes_style(axes)
    for axes in grid[0]:
        log_axis(axes.yaxis, min(every) / 1.4, max(every) * 1.4, lambda tick: brief(duration(tick)))
        axes.set_ylabel("time")
    handles = [plt.Line2D([], [], color=ink, marker=s[0] if s[0] != "-" else "", linestyle=s.lstrip("sDo"), label=name)
               for name, (ink, s) in styles.items() if name != "fastest peer" or results.peers]  # fmt: skip
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1), ncol=4)
    return picture(figure, "dense-length", "Time of dense attention against length, log-log")


def ceilings(results, threads):
    """(operations a second, bytes a second) that were measured, None where they were not."""
    found = {"arithmetic/f32": None, "read": None}
    for name, value in results.machine.items():
        what, _, count = name.rpartition("/threads:")
        for key in found:
            if count == str(threads) and what.startswith(key):
                found[key] = value
    return found["arithmetic/f32"], found["read"]


def roofline(plt, results):
    """Operations a second against operations per byte of the least traffic, one thread, beside the measured limits."""
    rows = [row for row in results.ours() if row.threads == 1 and row.flops and row.type != "f64"]
    arithmetic, reading = ceilings(results, 1)
    if not rows or not arithmetic:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 6.2))
    figure.subplots_adjust(left=0.07, right=0.98, top=0.89, bottom=0.1)
    points = [(row.flops * row.time / row.traffic, row.flops) for row in rows]
    low, high = min(x for x, _ in points) / 1.5, max(x for x, _ in points) * 1.5
    if reading:
        low, high = min(low, 0.2 * arithmetic / reading), max(high, 5 * arithmetic / reading)
    log_axis(axes.xaxis, low, high, lambda tick: f"{tick:g}")
    log_axis(
        axes.yaxis,
        min(y for _, y in points) / 1.5,
        2 * max(arithmetic, max(y for _, y in points)),
        lambda tick: f"{tick / 1e9:g}",
    )
    roof = [low, arithmetic / reading, high] if reading else [low, high]
    axes.plot(roof, [min(arithmetic, x * (reading or float("inf"))) for x in roof], color=LIMIT, linewidth=1.8)
    for row, at in zip(rows, points):
        style = dict(color=colour(row.family), markersize=7 if marker(row.family) in "*PX" else 5.5, alpha=0.85)
        plotted(axes.plot(*at, marker(row.family), markeredgecolor="white", markeredgewidth=0.4, **style))
    axes.text(high / 1.05, arithmetic * 1.07, f"arithmetic {arithmetic / 1e9:.0f} GF/s", ha="right", fontsize=8.5)
    if reading:
        middle = (low * arithmetic / reading) ** 0.5
        text = f"reading {reading / 1e9:.1f} GB/s"
        axes.text(middle / 1.08, middle * reading, text, ha="right", va="bottom", fontsize=8.5)
    axes.set_xlabel("operations per byte of q, k, v and out, each once")
    axes.set_ylabel("GF/s (operations a second, in thousand millions)")
    axes_style(axes)
    family_legend(figure, plt, {row.family for row in rows}, 0.9, columns=11)
    return picture(figure, "roofline", "Roofline: rate against operations per byte, with the measured limits")
