"""Pictures of approximate methods beside dense attention: speed against error, mass against kept keys; and of masks."""

from drawing import (
    INK,
    LIMIT,
    QUIET,
    WIDTH,
    axes_style,
    colour,
    family_legend,
    log_axis,
    marker,
    picture,
    plotted,
    write_names,
)
from formats import percent
from results import DENSE

LEAST_ERROR = 1e-3  # closer than that counts the same


def mark(axes, row, at):
    face = "white" if row.pattern == "causal" else colour(row.family)
    plotted(
        axes.plot(
            *at, marker(row.family), color=colour(row.family), markersize=6, markerfacecolor=face, markeredgewidth=1.4
        )
    )


def patterns_legend(plt, rows):
    if len({row.pattern for row in rows}) < 2:
        return []
    return [
        plt.Line2D([], [], marker="o", linestyle="", color=QUIET, label="every key"),
        plt.Line2D([], [], marker="o", linestyle="", color=QUIET, markerfacecolor="white", label="causal"),
    ]


def pareto_line(points):
    """The steps of (speed, error) points of which no other is both faster and closer."""
    line, best = [], float("inf")
    for speed, error in sorted(points, key=lambda point: (-point[0], point[1])):
        if error < best:
            line += [(speed, best), (speed, error)] if line else [(speed, error)]
            best = error
    return line


def pareto(plt, results, name, label, rows):
    """Speed over dense against error, of one input, one thread."""
    rows = [row for row in rows if row.threads == 1 and results.over_dense(row)]
    if len({row.method for row in rows}) < 2:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2 + 0.08 * len(rows)))
    points = [(results.over_dense(row), max(row.dense_error, LEAST_ERROR)) for row in rows]
    (low, high), (bottom, top) = ((min(part), max(part)) for part in zip(*points))
    room = max(1.15, (max(high, 1.2) / min(low, 0.9)) ** 0.06)
    log_axis(axes.xaxis, min(0.9, low) / room, max(1.2, high) * room**3, lambda tick: f"{tick:g}x", 10)
    room = max(1.3, (top / bottom) ** 0.08)
    log_axis(axes.yaxis, bottom / room, top * room)
    axes.axvline(1, color=INK, linewidth=0.8)
    line = pareto_line(points)
    axes.plot([x for x, _ in line], [y for _, y in line], color=QUIET, linewidth=1, zorder=1)
    bars, (left, right) = [], axes.get_xlim()
    for row, (speed, error) in zip(rows, points):
        bars.append([(max(left, speed / (1 + row.spread)), error), (min(right, speed * (1 + row.spread)), error)])
        axes.plot(*zip(*bars[-1]), color=QUIET, alpha=0.5, linewidth=0.7)
        mark(axes, row, (speed, error))
    axes.set_xlabel("speed over dense attention (right is faster)")
    axes.set_ylabel("error against dense (down is closer)")
    axes_style(axes)
    figure.subplots_adjust(left=0.07, right=0.985, top=0.9, bottom=0.13)
    short = [bar for bar in bars if bar[1][0] / bar[0][0] < (right / left) ** 0.12]  # names cannot avoid long ones
    write_names(
        axes,
        [(at, row.name_in_family) for row, at in zip(rows, points)],
        lines=[line, [(1, bottom / room), (1, top * room)], *short],
    )
    family_legend(figure, plt, {row.family for row in rows}, 0.91, patterns_legend(plt, rows), 11)
    return picture(figure, name, label)


def mass(plt, results, name, label, rows):
    """Softmax mass kept against the share of keys kept, of one input."""
    rows = [row for row in rows if row.threads == 1 and row.mass is not None]
    if len({row.method for row in rows}) < 2:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 3 + 0.07 * len(rows)))
    axes.set(xlim=(0, min(1.1, max(0.3, 1.3 * max(row.kept for row in rows)))), ylim=(0, 1.06))
    axes.plot([0, 1], [0, 1], "--", color=QUIET, linewidth=1)
    for row in rows:
        mark(axes, row, (row.kept, row.mass))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda share, _: percent(share))
    axes.set_xlabel("share of the pairs of query and key that is kept")
    axes.set_ylabel("softmax mass kept")
    axes_style(axes)
    figure.subplots_adjust(left=0.07, right=0.985, top=0.9, bottom=0.14)
    write_names(axes, [((row.kept, row.mass), row.name_in_family) for row in rows], lines=[[(0, 0), (1, 1)]])
    family_legend(figure, plt, {row.family for row in rows}, 0.91, patterns_legend(plt, rows), 11)
    return picture(figure, name, label)


def masks(plt, results):
    """Time against the pairs that are kept, both as a share of dense."""
    points = [
        (row, results.dense.get((row.type, "full", *row.problem[2:])))
        for row in results.ours()
        if row.table == "mask" and row.threads == 1 and row.visited < 1 and row.method != DENSE
    ]
    points = [(row, row.time / dense.time) for row, dense in points if dense]
    if len(points) < 2:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 6))
    kept, spent = [row.visited for row, _ in points], [share for _, share in points]
    ends = (0.6 * min(kept), min(1.3, 1.8 * max(kept)))
    log_axis(axes.xaxis, *ends, lambda tick: f"{tick * 100:g}%")
    log_axis(
        axes.yaxis, min(ends[0], min(spent) / 1.5), max(1.15 * ends[1], max(spent) * 1.5), lambda t: f"{t * 100:g}%"
    )
    axes.plot(ends, ends, color=LIMIT, linewidth=1.2, label="time = kept share × dense")
    axes.plot(ends, [1.15 * end for end in ends], "--", color=QUIET, linewidth=1, label="15 % more")
    texts = []
    for row, share in points:
        plotted(axes.plot(row.visited, share, marker(row.family), color=colour(row.family), markersize=6))
        name = row.pattern if row.pattern.startswith(row.name_in_family) else f"{row.name_in_family} {row.pattern}"
        texts.append(((row.visited, share), name.replace("_", " ")))
    axes.set_xlabel("pairs kept, of all")
    axes.set_ylabel("time, of dense attention to every key")
    axes_style(axes)
    figure.subplots_adjust(left=0.07, right=0.985, top=0.92, bottom=0.1)
    write_names(axes, texts, lines=[list(zip(ends, ends))])
    lines = axes.get_legend_handles_labels()[0]
    family_legend(figure, plt, {row.family for row, _ in points}, 0.93, lines, 11)
    return picture(figure, "masks", "Time against the share of pairs that a mask keeps")
