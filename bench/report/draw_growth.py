"""Pictures of cost against length, of memory, and of threads."""

from drawing import (
    FAMILIES,
    INK,
    MARKERS,
    PALETTE,
    QUIET,
    WIDTH,
    axes_style,
    colour,
    log_axis,
    marker,
    picture,
    plotted,
    powers_of_two,
    round_numbers,
    text_width,
    write_names,
)
import formats
import lengths
from results import DENSE


def against_length(plt, results, name, label, pattern, cost, unit, text, numbers, skip):
    """A panel for each family, dense attention in each; where a method begins to cost less is marked on its line.

    cost(row): what is drawn, None where it was not measured; text(tick): how it is written, at which `numbers`.
    """
    lines = {
        method: {n: cost(row) for n, row in line.items() if cost(row) is not None}
        for (method, p), line in results.growth().items()
        if p == pattern or (method == DENSE and p == "full" and pattern != "causal")
    }
    dense = dict(sorted(lines.pop(DENSE, {}).items()))
    lines = {method: dict(sorted(line.items())) for method, line in lines.items() if len(line) > 1}
    every = [value for line in (dense, *lines.values()) for value in line.values() if value > 0]
    if not lines or not every:
        return None
    families = sorted({m.partition("/")[0] for m in lines}, key=lambda f: FAMILIES.index(f) if f in FAMILIES else 99)
    across = min(3, len(families))
    down = -(-len(families) // across)
    figure, grid = plt.subplots(down, across, figsize=(WIDTH, 0.7 + 3.3 * down), squeeze=False)
    figure.subplots_adjust(
        left=0.07,
        right=0.985,
        wspace=0.2,
        hspace=0.34,
        top=1 - 0.62 / (0.7 + 3.3 * down),
        bottom=0.5 / (0.7 + 3.3 * down),
    )
    for axes in grid.flat[len(families) :]:
        axes.remove()
    measured = sorted({n for line in (dense, *lines.values()) for n in line})
    least = min(every) / 1.6
    for axes, family in zip(grid.flat, families):
        here = {method: line for method, line in lines.items() if method.startswith(family + "/")}
        log_axis(axes.yaxis, least / 1.3, max(every) * 1.6, lambda tick: formats.brief(text(tick)), 6, numbers)
        axes.set_xscale("log")
        names = ["dense", *(method.partition("/")[2] for method in here)]
        beside = (20 + max(text_width(name, 7.5) for name in names)) / axes.get_window_extent().width
        axes.set_xlim(measured[0] / 1.2, measured[-1] * (measured[-1] / measured[0]) ** (beside / (1 - beside) + 0.03))
        shown = measured[:: -(-len(measured) // 6)]
        axes.set_xticks(shown, [formats.length(n) for n in shown])
        axes.set_xticks([], minor=True)
        if dense:
            axes.plot(list(dense), list(dense.values()), "--", color=INK, linewidth=1.4)
        texts = [((max(dense), dense[max(dense)]), "dense")] if dense and dense[max(dense)] > 0 else []
        for place, (method, line) in enumerate(here.items()):
            own = {n: max(value, least) for n, value in sorted(line.items())}
            style = dict(color=PALETTE[place % len(PALETTE)], marker=MARKERS[place % len(MARKERS)])
            plotted(axes.plot(list(own), list(own.values()), linewidth=1.5, markersize=4, **style))
            texts.append(((max(own), own[max(own)]), method.partition("/")[2]))
            positive = min([*line.values(), *dense.values()], default=0) > 0
            found = lengths.crossing(dense, line) if positive else None
            if found and found[0]:
                axes.plot(*found, "o", color=style["color"], markersize=9, markerfacecolor="none", markeredgewidth=1.2)
            fitted = lengths.efficiency_length(dense, line, skip)
            if fitted and fitted.length and measured[0] <= fitted.length <= measured[-1]:
                axes.axvline(fitted.length, color=style["color"], linewidth=0.9, linestyle=":")
        axes.set_title(family.replace("_", " "), color=INK)
        axes.set_xlabel("length, tokens")
        axes.set_ylabel(unit)
        axes_style(axes)
        write_names(axes, texts, sides="right")
    handles = [
        plt.Line2D([], [], color=INK, linestyle="--", label="dense attention"),
        plt.Line2D(
            [],
            [],
            color=QUIET,
            marker="o",
            markerfacecolor="none",
            markersize=9,
            linestyle="",
            label="costs less from here on",
        ),
        plt.Line2D([], [], color=QUIET, linestyle=":", label="efficiency length"),
    ]
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1), ncol=3)
    return picture(figure, name, label)


def time_against_length(plt, results, pattern):
    return against_length(
        plt, results, f"time-against-length-{pattern}", f"Time against length, {pattern}, log-log",
        pattern, lambda row: row.time, "time", formats.duration, round_numbers, (256,),
    )  # fmt: skip


def memory_against_length(plt, results, pattern):
    return against_length(
        plt, results, f"memory-against-length-{pattern}", f"Peak memory against length, {pattern}, log-log",
        pattern, lambda row: row.memory, "peak memory", formats.amount, powers_of_two, (),
    )  # fmt: skip


def patterns(results):
    return list(dict.fromkeys(p for method, p in results.growth() if method != DENSE))


def dots(plt, rows, unit, width_of_names=0.24):
    """Rows of dots with names to the left: [(name, [(value, text, style, halves of the spread)])]."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.2 * max(4, len(rows))))
    tall = figure.get_figheight()
    figure.subplots_adjust(left=width_of_names, right=0.97, top=1 - 0.35 / tall, bottom=0.5 / tall)
    for place, (_, values) in enumerate(rows):
        for value, style, spread in values:
            if spread:
                axes.plot([value - spread, value + spread], [place, place], color=style["color"], linewidth=1)
            plotted(axes.plot(value, place, markersize=6, **style))
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(unit)
    axes.set_ylabel("method")
    axes_style(axes)
    return figure, axes


def memory_rows(results):
    """(title of the input, rows) where most methods have their peak memory measured, one thread."""
    groups = {}
    for row in results.ours():
        if row.memory is not None and row.threads == 1 and row.table in ("real", "user", "synthetic"):
            groups.setdefault((row.data, tuple(row.sizes.values())), []).append(row)
    if not groups:
        return None, []
    key = max(groups, key=lambda key: (len({row.method for row in groups[key]}), key[1]))
    return f"{key[0]} ({','.join(map(str, key[1]))})", groups[key]


def memory_by_method(plt, results):
    title, rows = memory_rows(results)
    if len(rows) < 2:
        return None
    rows = sorted(rows, key=lambda row: (row.memory, row.method, row.pattern))
    least = 2**-1 * min([row.memory for row in rows if row.memory > 0] or [1024])
    lines = []
    for row in rows:
        face = "white" if row.pattern == "causal" else colour(row.family)
        style = dict(color=colour(row.family), marker=marker(row.family), markerfacecolor=face)
        lines.append((f"{row.name_in_family} {row.pattern}".replace(" full", ""), [(max(row.memory, least), style, 0)]))
    figure, axes = dots(plt, lines, f"peak memory of one call on {title}, beside q, k, v and out")
    high = max(row.memory for row in rows)
    text = lambda tick: formats.brief(formats.amount(tick))
    log_axis(axes.xaxis, least / 1.4, max(2 * high, least * 8), text, 8, powers_of_two)
    return picture(figure, "memory", f"Peak memory of each method on {title}")


def threads(plt, results):
    """How many times as fast with several threads as with one, the geometric mean over shapes and their range."""
    counts = sorted({row.threads for row in results.ours() if row.threads > 1})
    lines, most = [], 1.0
    for method in results.methods():
        values = []
        for place, count in enumerate(counts):
            speeds = sorted(
                row.time / other.time
                for row in results.ours()
                if row.method == method and row.threads == 1
                for other in [results.same_problem(row, threads=count)]
                if other
            )
            if speeds:
                style = dict(color=PALETTE[place % len(PALETTE)], marker=MARKERS[place % len(MARKERS)])
                values.append((speeds, style))
                most = max(most, speeds[-1])
        if values:
            lines.append((method, values))
    if not lines:
        return None
    middles = [
        (f"{method} ({len(values[0][0])})", [(speeds[len(speeds) // 2], style, 0) for speeds, style in values])
        for method, values in lines
    ]
    figure, axes = dots(plt, middles, "times as fast as with one thread: median of the shapes, and their range", 0.3)
    for place, (_, values) in enumerate(lines):
        for speeds, style in values:
            axes.plot([speeds[0], speeds[-1]], [place, place], color=style["color"], linewidth=1, alpha=0.6, zorder=1)
    for place, count in enumerate(counts):
        axes.axvline(count, color=PALETTE[place % len(PALETTE)], linestyle="--", linewidth=1)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xlim(0, 1.08 * max(most, counts[-1]))
    handles = [
        plt.Line2D(
            [],
            [],
            color=PALETTE[place % len(PALETTE)],
            marker=MARKERS[place % len(MARKERS)],
            linestyle="--",
            label=f"{count} threads; dashed: as many times",
        )
        for place, count in enumerate(counts)
    ]
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.6, 1), ncol=4)
    return picture(figure, "threads", "Speed with several threads over one thread, by method")
