"""Pictures of methods beside dense attention: speed against error, mass against kept keys, time against length."""

import collections

from drawing import GRID, INK, LIMIT, QUIET, axes_style, picture
from results import DENSE

COLOURS = ["#d9480f", "#2b6cb0", "#2f855a", "#805ad5", "#b7791f", "#d53f8c", "#0987a0", "#4a5568", "#97266d", "#5a67d8"]
LEAST_ERROR = 1e-3  # closer than that counts the same


def colours(results):
    """A colour for each family, the same in all pictures."""
    families = sorted({row.family for row in results.rows})
    return {family: COLOURS[place % len(COLOURS)] for place, family in enumerate(families)}


def inputs(results, wanted):
    """{name of an input: rows}, one thread; full and causal in one."""
    groups = collections.OrderedDict()
    for table, group in results.comparisons():
        if table not in ("real", "user", "synthetic"):
            continue
        for _, rows in group:
            for row in rows:
                if row.threads == 1 and wanted(row):
                    sizes = ",".join(map(str, row.sizes.values()))
                    groups.setdefault(f"{row.data or row.table} ({sizes})", []).append(row)
    return groups


def panels(plt, groups):
    across = min(2, len(groups))
    down = -(-len(groups) // across)
    figure, grid = plt.subplots(down, across, figsize=(5.6 * across, 4.0 * down), squeeze=False)
    figure.subplots_adjust(hspace=0.42, wspace=0.24)
    for axes in grid.flat[len(groups) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, groups):
        axes.set_title(name, fontsize=10, color=INK)
        axes.grid(color=GRID)
        axes_style(axes)
    return figure, list(zip(grid.flat, groups.items()))


def round_numbers(first, last):
    """1, 2 and 5 times powers of ten between the two; powers of ten alone where there would be too many."""
    powers = [10.0**power for power in range(-8, 6)]
    every = [digit * power for power in powers for digit in (1, 2, 5) if first <= digit * power <= last]
    return every if len(every) <= 8 else [power for power in powers if first <= power <= last]


def mark(axes, row, at, colour, texts):
    hollow = row.pattern == "causal"
    axes.plot(*at, "o", color=colour, markersize=6, markerfacecolor="white" if hollow else colour, markeredgewidth=1.4)
    texts.append((at, row.name_in_family, colour))


def write_names(axes, texts, sides=(False, True)):
    """Names beside their points, right or left of them, moved up or down off other names and points."""
    figure = axes.figure
    figure.canvas.draw()
    box = axes.get_window_extent()
    taken = [(x - 5, y, 10) for x, y in (axes.transData.transform(at) for at, _, _ in texts)]
    for at, name, colour in sorted(texts, key=lambda text: tuple(axes.transData.transform(text[0]))):
        x, y = axes.transData.transform(at)
        width, height = 4.1 * len(name) * figure.dpi / 72, 8.5 * figure.dpi / 72  # of letters of seven points
        steps = sorted(range(-12, 13), key=abs)
        for step, left in ((step, left) for step in steps for left in sides):
            start, level = x - width - 8 if left else x + 8, y + step * height
            free = all(
                start + width < other[0] or other[0] + other[2] < start or abs(level - other[1]) >= height * 0.98
                for other in taken
            )
            inside = len(sides) == 1 or (box.x0 <= start and start + width <= box.x1 + 8)
            if free and inside and box.y0 <= level <= box.y1:
                break
        taken.append((start, level, width))
        axes.annotate(
            name,
            at,
            xytext=((start - x) * 72 / figure.dpi, (level - y) * 72 / figure.dpi),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 3}
            if abs(level - y) > height * 1.5
            else None,
        )


def family_legend(figure, plt, colour, rows):
    above = 0.88 + 0.35 / figure.get_figheight()  # the panels end there, and their titles
    families = sorted({row.family for row in rows})
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colour[name], label=name) for name in families]
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, above), ncol=6, frameon=False, fontsize=9)


def pareto_picture(plt, results):
    """Speed over dense against error, a panel for each input."""
    groups = inputs(results, lambda row: results.over_dense(row))
    if not groups:
        return None
    every = [row for rows in groups.values() for row in rows]
    colour = colours(results)
    figure, cells = panels(plt, groups)
    for axes, (_, rows) in cells:
        texts = []
        points = sorted((results.over_dense(row), max(row.dense_error, LEAST_ERROR)) for row in rows)
        best, line = float("inf"), []
        for speed, error in reversed(points):
            if error < best:
                line += [(speed, min(best, 1e9)), (speed, error)] if line else [(speed, error)]
                best = error
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.plot([x for x, _ in line], [y for _, y in line], color=QUIET, linewidth=1, zorder=1)
        for row in rows:
            mark(axes, row, (results.over_dense(row), max(row.dense_error, LEAST_ERROR)), colour[row.family], texts)
        low, high = min(x for x, _ in points), max(x for x, _ in points)
        axes.set_xlim(min(0.7, low / 1.3), max(2, high * 2.2))
        bottom, top = min(y for _, y in points), max(y for _, y in points)
        axes.set_ylim(bottom / 2.5, top * 2.5)
        for axis, (first, last), unit in ((axes.xaxis, axes.get_xlim(), "x"), (axes.yaxis, axes.get_ylim(), "")):
            ticks = round_numbers(first, last)
            axis.set_ticks(ticks, [f"{tick:g}{unit}" for tick in ticks])
        axes.minorticks_off()
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.set_xlabel("speed over dense", fontsize=9, color=INK)
        axes.set_ylabel("error against dense", fontsize=9, color=INK)
        write_names(axes, texts)
    family_legend(figure, plt, colour, every)
    return picture(figure)


def mass_picture(plt, results):
    """Softmax mass kept against the share of keys kept."""
    groups = inputs(results, lambda row: row.mass is not None)
    if not groups:
        return None
    every = [row for rows in groups.values() for row in rows]
    colour = colours(results)
    figure, cells = panels(plt, groups)
    for axes, (_, rows) in cells:
        texts = []
        axes.plot([0, 1], [0, 1], "--", color=QUIET, linewidth=1)
        for row in rows:
            mark(axes, row, (row.kept, row.mass), colour[row.family], texts)
        axes.set_xlim(0, max(0.3, 1.35 * max(row.kept for row in rows)))
        axes.set_ylim(0, 1.04)
        share = plt.FuncFormatter(lambda x, _: f"{x * 100:.0f}%")
        axes.xaxis.set_major_formatter(share)
        axes.yaxis.set_major_formatter(share)
        axes.set_xlabel("pairs kept", fontsize=9, color=INK)
        axes.set_ylabel("softmax mass kept", fontsize=9, color=INK)
        write_names(axes, texts)
    family_legend(figure, plt, colour, every)
    return picture(figure)


def mask_picture(plt, results):
    """Time against the pairs that are kept, both as a share of dense."""
    points = [
        (row, results.dense.get((row.type, "full", *row.problem[2:])))
        for row in results.ours()
        if row.table == "mask" and row.threads == 1 and row.visited < 1 and row.method != DENSE
    ]
    points = [(row, dense) for row, dense in points if dense]
    if len(points) < 2:
        return None
    figure, axes = plt.subplots(figsize=(10, 6.5))
    colour, texts = colours(results), []
    ends = (0.7 * min(row.visited for row, _ in points), 1.3 * max(row.visited for row, _ in points))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot(ends, ends, color=LIMIT, linewidth=1.2, label="time = visited share × dense")
    axes.plot(ends, [1.15 * end for end in ends], "--", color=QUIET, linewidth=1, label="15 % more")
    for row, dense in points:
        at = (row.visited, row.time / dense.time)
        axes.plot(*at, "o", color=colour[row.family], markersize=6)
        name = row.pattern if row.pattern.startswith(row.name_in_family) else f"{row.name_in_family} {row.pattern}"
        texts.append((at, name.replace("_", " "), colour[row.family]))
    axes.set_xlim(ends[0], 2.2 * ends[1])
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = round_numbers(*limits)
        axis.set_ticks(ticks, [f"{tick * 100:g}%" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("pairs kept, of all", fontsize=9, color=INK)
    axes.set_ylabel("time, of dense", fontsize=9, color=INK)
    axes.grid(color=GRID)
    axes_style(axes)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    write_names(axes, texts)
    return picture(figure)


def growth_picture(plt, results):
    """Time against length, a panel for each pattern."""
    lines = results.growth()
    patterns = list(dict.fromkeys(pattern for _, pattern in lines))
    if not patterns:
        return None
    figure, grid = plt.subplots(1, len(patterns), figsize=(5.6 * len(patterns), 4.2), sharey=True, squeeze=False)
    for axes, pattern in zip(grid[0], patterns):
        texts = []
        here = {method: line for (method, p), line in lines.items() if p == pattern}
        for place, (method, line) in enumerate(here.items()):
            points = sorted((n, row.time * 1e3) for n, row in line.items())
            colour = INK if method == DENSE else COLOURS[place % len(COLOURS)]
            style = "--" if method == DENSE else "o-"
            axes.plot([n for n, _ in points], [t for _, t in points], style, color=colour, linewidth=1.6, markersize=4)
            texts.append((points[-1], "dense" if method == DENSE else method.partition("/")[2], colour))
        lengths = sorted({n for line in here.values() for n in line})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(lengths, [f"{n // 1024}k" if n >= 1024 else str(n) for n in lengths])
        axes.set_xlim(lengths[0] / 1.2, lengths[-1] * (lengths[-1] / lengths[0]) ** 0.55)
        axes.set_title(pattern, fontsize=10, color=INK)
        axes.set_xlabel("tokens", fontsize=9, color=INK)
        axes.grid(color=GRID)
        axes_style(axes)
        write_names(axes, texts, sides=(False,))
    grid[0][0].yaxis.set_major_formatter(plt.FuncFormatter(lambda t, _: f"{t:g}"))
    grid[0][0].set_ylabel("time, ms", fontsize=9, color=INK)
    return picture(figure)
