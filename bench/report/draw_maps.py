"""Attention maps: the weights of dense attention, what a method did, and the difference."""

import json
import pathlib

from drawing import GRID, INK, OURS, PEER, QUIET, WIDTH, axes_style, picture, plotted
import formats

MOST = 256  # pixels along an axis
DECADES = 4  # from the largest weight down to white
LEVELS = 32  # steps of colour, which keeps the images small


class Maps:
    """maps/index.json and the arrays beside it."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.entries = json.loads((self.folder / "index.json").read_text())
        self.arrays = {}

    def of(self, method):
        return [entry for entry in self.entries if entry["method"] == method]

    def array(self, name):
        import numpy

        if name not in self.arrays:
            self.arrays[name] = numpy.load(self.folder / name, allow_pickle=False)
        return self.arrays[name]


def pooled(weights):
    """(each MOST-th part as its largest number by size, how many rows and columns make one): narrow lines stay."""
    import numpy

    down, across = (-(-size // MOST) for size in weights.shape)
    padded = numpy.pad(weights, [(0, -weights.shape[0] % down), (0, -weights.shape[1] % across)])
    parts = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across)
    high, low = parts.max(axis=(1, 3)), parts.min(axis=(1, 3))
    return numpy.where(high >= -low, high, low), (down, across)


def in_colours(plt, values, signed, most):
    """RGBA of weights, the larger the darker over DECADES powers of ten; signed ones in two colours."""
    import numpy

    scaled = numpy.clip(1 + numpy.log10(numpy.maximum(abs(values) / most, 1e-30)) / DECADES, 0, 1)
    if signed:
        scaled = 0.5 + 0.5 * numpy.sign(values) * scaled
    steps = numpy.ceil(scaled * (LEVELS - 1)) if not signed else numpy.round(scaled * LEVELS)
    scale = steps / (LEVELS - 1 if not signed else LEVELS)
    colours = plt.get_cmap("PuOr_r" if signed else "magma_r")(scale if signed else 0.03 + 0.97 * scale, bytes=True)
    colours[(scale == 0.5) if signed else (scale == 0)] = 255
    return colours


def bar(plt, figure, box, signed, most, label):
    """The scale of a panel, below it."""
    import numpy

    axes = figure.add_axes(box)
    if signed:
        part = numpy.linspace(-1, 1, 2 * LEVELS + 1)
        values = numpy.sign(part) * 10 ** ((abs(part) - 1) * DECADES) * (part != 0)
        ticks = [(-1, -most), (0, 0), (1, most)]
    else:
        part = numpy.linspace(0, 1, LEVELS)
        values = 10 ** ((part - 1) * DECADES)
        ticks = [(n / DECADES, most * 10.0 ** (n - DECADES)) for n in (0, DECADES // 2, DECADES)]
    image = axes.imshow(
        in_colours(plt, values[None, :] * most, signed, most),
        aspect="auto",
        extent=(part[0], part[-1], 0, 1),
        interpolation="none",
    )
    plotted([image])
    axes.set_xticks([at for at, _ in ticks], [f"{value:.1g}" for _, value in ticks])
    axes.set_yticks([])
    axes.tick_params(length=2, colors=INK, labelsize=8)
    axes.set_xlabel(label)


def picture_of(plt, maps, entry, name, label):
    """SVG of one entry: three panels, or curves where there is one query."""
    import numpy

    dense, weights = (numpy.nan_to_num(maps.array(entry[key])) for key in ("dense", "weights"))
    if weights.shape[0] == 1:
        return curve(plt, entry, dense[0], weights[0], name, label)
    queries, keys = weights.shape
    panels = [("dense attention", dense), ("this method", weights), ("method minus dense", weights - dense)]
    most = max(float(abs(dense).max()), float(abs(weights).max())) or 1.0
    tall = 4.55
    figure = plt.figure(figsize=(WIDTH, tall))
    for place, (title, values) in enumerate(panels):
        small, _ = pooled(values)
        signed = place == 2 or bool((values < -1e-3 * most).any())
        left = 0.055 + 0.325 * place
        axes = figure.add_axes((left, 0.87 / tall, 0.28, 0.28 * WIDTH / tall))
        extent = (0, keys, queries, 0)
        plotted([axes.imshow(in_colours(plt, small, signed, most), extent=extent, interpolation="none", aspect="auto")])
        for axis, size in ((axes.xaxis, keys), (axes.yaxis, queries)):
            ticks = [0, size // 2, size]
            axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axes.tick_params(length=2, colors=INK, labelsize=8)
        for side in axes.spines.values():
            side.set_color(GRID)
        axes.set_title(title, color=INK)
        axes.set_xlabel("keys", labelpad=1)
        axes.set_ylabel("queries", labelpad=1)
        bar(plt, figure, (left, 0.37 / tall, 0.28, 0.1 / tall), signed, most, "difference" if place == 2 else "weight")
    return picture(figure, name, label, tight=False)


def curve(plt, entry, dense, weights, name, label):
    """One query: its weights on all keys, and the difference below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 5.2), height_ratios=(2, 1))
    figure.subplots_adjust(left=0.08, right=0.99, top=0.92, bottom=0.1, hspace=0.3)
    keys = list(range(len(dense)))
    if len(keys) > 4 * MOST:  # the largest of several keys that fall on one place
        step = -(-len(keys) // (4 * MOST))
        dense, weights = (pooled_row(row, step) for row in (dense, weights))
        keys = [step * place for place in range(len(dense))]
    plotted(above.plot(keys, dense, color=QUIET, linewidth=1, label="dense attention"))
    plotted(above.plot(keys, weights, color=OURS, linewidth=1, label="this method"))
    plotted(below.plot(keys, weights - dense, color=PEER, linewidth=1))
    above.set_ylabel("weight")
    below.set_ylabel("difference")
    for axes in (above, below):
        axes.set_xlabel("keys")
        axes.set_xlim(0, keys[-1] + 1)
        axes_style(axes)
        axes.yaxis.set_major_locator(plt.MaxNLocator(4))
    figure.legend(*above.get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 1), ncol=2)
    return picture(figure, name, label, tight=False)


def pooled_row(row, step):
    import numpy

    parts = numpy.pad(row, (0, -len(row) % step)).reshape(-1, step)
    return parts[numpy.arange(len(parts)), abs(parts).argmax(axis=1)]


def caption(maps, entry):
    """Which input, head and pattern, and how to read the colours."""
    shape = maps.array(entry["weights"]).shape
    words = [f"Input {entry['data']}, head {entry.get('head', 0)}, pattern {entry.get('pattern', 'full')}."]
    if shape[0] == 1:
        words.append(f"Weights of query {entry.get('query', shape[1] - 1)} on {shape[1]} keys.")
        return " ".join(words)
    words.append(f"{formats.length(shape[0])} queries, {formats.length(shape[1])} keys.")
    if entry.get("grid"):
        words.append(f"Tokens are places of a {' x '.join(map(str, entry['grid']))} grid, row after row.")
    down, across = (-(-size // MOST) for size in shape)
    if down * across > 1:
        words.append(f"A dot is the largest of {down} x {across} weights, so that narrow lines stay visible.")
    words.append("Colours are logarithmic over four powers of ten; white is less than that, or nothing.")
    return " ".join(words)
