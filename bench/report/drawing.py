"""What the pictures of the page have in common: colours, axes, names beside points, and SVG that can stand in a page.

Colours are those of Paul Tol's muted set, which colour-blind people tell apart; markers differ too, and names are
written in ink.
"""

import base64
import functools
import html
import io
import itertools
import os
import re

INK, QUIET, GRID = "#1f2933", "#66727f", "#e4e7eb"
PALETTE = ("#332288", "#117733", "#cc6677", "#44aa99", "#882255", "#ddaa33", "#88ccee", "#999933", "#aa4499", "#555555")
MARKERS = "osD^vPX<>*h"
OURS, EIGEN, PEER, LIMIT = "#332288", "#999999", "#cc6677", "#117733"
DATA = "data"  # the gid of what a picture is about
WIDTH = 11.6  # inches, the page
FAMILIES = ("dense", "window", "block_sparse", "top_k", "hierarchical", "linear", "low_rank", "agent", "sink", "cache")


def start():
    """matplotlib's pyplot, set up for our pictures, or None where there is none."""
    # Threads of a BLAS that wait in a loop cost more than the inverses of small matrices that matplotlib asks for.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "fovea",
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans", "Verdana"],
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.titlesize": 10,
            "axes.labelsize": 9,
            "xtick.labelsize": 8.5,
            "ytick.labelsize": 8.5,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "figure.dpi": 72,
            "axes.unicode_minus": False,
        }
    )
    return plt


def colour(family):
    place = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES) - 1
    return INK if family == "dense" else PALETTE[(place - 1) % len(PALETTE)]


def marker(family):
    return MARKERS[FAMILIES.index(family) if family in FAMILIES else len(MARKERS) - 1]


def with_palette(png):
    """An image of few colours, as base64, in less than half its size: a byte a pixel."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    if image.getcolors(256) is not None:
        small = io.BytesIO()
        image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(small, "PNG", optimize=True)
        png = base64.b64encode(small.getvalue()).decode()
    return png


def picture(figure, name, label, close=True):
    """The figure as SVG text, to stand in the page itself, known there as `name` and read aloud as `label`.

    Ids that something in the SVG refers to are made unique by the name; the others become data-part, by which a test
    finds axes, labels and data.
    """
    from matplotlib import pyplot

    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    if close:
        pyplot.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"(data:image/png;base64,)([^\"]+)", lambda match: match[1] + with_palette(match[2]), svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    replace = lambda match: f'id="{name}-{match[1]}"' if match[1] in used else f'data-part="{match[1]}"'
    svg = re.sub(r'\bid="([^"]+)"', replace, svg)
    svg = re.sub(r'(href="#|url\(#)', lambda match: f"{match[1]}{name}-", svg)
    head = f'<svg role="img" aria-label="{html.escape(label, quote=True)}" data-picture="{name}" '
    return svg.replace("<svg ", head, 1)


def axes_style(axes, grid="both"):
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
    axes.tick_params(colors=INK, length=0, which="both")
    axes.grid(color=GRID, axis=grid)
    axes.set_axisbelow(True)


def plotted(artists):
    """Marks artists as what the picture is about."""
    for artist in artists:
        artist.set_gid(DATA)
    return artists


def round_numbers(first, last, most=8):
    """1, 2 and 5 times powers of ten between the two; fewer where there would be too many."""
    powers = [10.0**power for power in range(-12, 15)]
    for digits in ((1, 2, 5), (1, 3), (1,)):
        every = [digit * power for power in powers for digit in digits if first <= digit * power <= last]
        if len(every) <= most:
            return every
    return every[:: -(-len(every) // most)]


def powers_of_two(first, last, most=8):
    every = [2.0**power for power in range(-4, 50) if first <= 2.0**power <= last]
    return every[:: -(-len(every) // most)] if every else []


def log_axis(axis, first, last, text=lambda tick: f"{tick:g}", most=8, numbers=round_numbers):
    """A logarithmic axis with round numbers and no others."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (first, last)})
    ticks = numbers(first, last, most)
    if len(ticks) < 2:
        ticks = [first * (last / first) ** part for part in (0.15, 0.85)]
        ticks = [float(f"{tick:.2g}") for tick in ticks]
    axis.set_ticks(ticks, [text(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


@functools.lru_cache(maxsize=4096)
def text_width(text, size):
    """Points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]


def write_names(axes, texts, size=7.5, sides="around", lines=()):
    """Names beside their points, off each other, off all points and off the lines, with a thin stroke where one had to
    move away. Points near each other with the same name share it.

    texts: [((x, y), name)] in the axes' own numbers; figures have 72 dots an inch, so dots are points.
    """
    box, height = axes.get_window_extent(), size * 1.22
    every = [tuple(axes.transData.transform(place)) for place, _ in texts]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in every]
    corners = [[tuple(axes.transData.transform(place)) for place in line] for line in lines]
    for (x0, y0), (x1, y1) in (pair for line in corners for pair in zip(line, line[1:])):
        steps = 1 + int(max(abs(x1 - x0), abs(y1 - y0)) / 6)
        for step in range(steps + 1):
            x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
            taken.append((x - 1, y - 1, x + 1, y + 1))
    at, names, strokes = [], [], []
    for (x, y), (_, name) in zip(every, texts):
        if not any(name == other and abs(x - u) + abs(y - v) < 30 for (u, v), other in zip(at, names)):
            at.append((x, y))
            names.append(name)
    order = sorted(range(len(names)), key=lambda i: at[i][1])

    def candidates(x, y, width):
        if sides == "right":
            for step in sorted(range(-60, 61), key=abs):
                yield x + 9, y + step * height / 3
            return
        for distance, step in itertools.product((7, 14, 22, 32, 44, 58, 74, 92, 112), range(16)):
            # sixteen directions, to the right first
            dx, dy = DIRECTIONS[step]
            start = x + distance * dx + (0 if dx > 0.3 else -width if dx < -0.3 else -width / 2)
            yield start, y + distance * dy * (1 if abs(dx) < 0.95 else 0)

    for i in order:
        (x, y), name = at[i], names[i]
        width = text_width(name, size)
        best, least = None, float("inf")
        for start, level in candidates(x, y, width):
            own = (start, level - height / 2, start + width, level + height / 2)
            if own[1] < box.y0 or own[3] > box.y1 or own[0] < box.x0 or (sides != "right" and own[2] > box.x1 + 4):
                continue
            over = sum(
                max(0, min(own[2], other[2]) - max(own[0], other[0]) + 1)
                * max(0, min(own[3], other[3]) - max(own[1], other[1]))
                for other in taken
            )
            if over < least:
                best, least = own, over
                if over == 0:
                    break
        if best is None:
            best = (x + 7, y - height / 2, x + 7 + width, y + height / 2)
        taken.append(best)
        level, start = (best[1] + best[3]) / 2, best[0]
        near = (min(max(x, best[0]), best[2]), min(max(y, best[1]), best[3]))
        if (near[0] - x) ** 2 + (near[1] - y) ** 2 > 13**2:
            strokes.append([(x, y), (near[0] + (-1 if near[0] > x else 1), near[1])])
        place = axes.transData.inverted().transform((start, level))
        axes.text(*place, name, va="center", ha="left", fontsize=size, color=INK)
    back = axes.transData.inverted()
    for stroke in strokes:
        (x0, y0), (x1, y1) = (back.transform(end) for end in stroke)
        axes.plot([x0, x1], [y0, y1], color=QUIET, linewidth=0.5, zorder=1, clip_on=False)


DIRECTIONS = [
    (1, 0), (0.8, 0.6), (0.8, -0.6), (-1, 0), (-0.8, 0.6), (-0.8, -0.6), (0, 1), (0, -1),
    (0.95, 0.31), (0.95, -0.31), (-0.95, 0.31), (-0.95, -0.31), (0.5, 0.87), (0.5, -0.87), (-0.5, 0.87), (-0.5, -0.87),
]  # fmt: skip


def family_legend(figure, plt, families, above, more=(), columns=6):
    handles = [
        plt.Line2D([], [], marker=marker(name), linestyle="", color=colour(name), label=name.replace("_", " "))
        for name in sorted(families, key=lambda name: FAMILIES.index(name) if name in FAMILIES else 99)
    ]
    figure.legend(handles=[*handles, *more], loc="lower center", bbox_to_anchor=(0.5, above), ncol=columns)
