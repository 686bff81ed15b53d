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
        self.arrays, self.sheets = {}, {}

    def of(self, method):
        return [entry for entry in self.entries if entry["method"] == method]

    def array(self, name):
        import numpy

        if name not in self.arrays:
            self.arrays[name] = numpy.nan_to_num(numpy.load(self.folder / name, allow_pickle=False))
        return self.arrays[name]


def pooled(weights):
    """Each part that makes a pixel as its largest number by size: narrow lines stay."""
    import numpy

    down, across = (-(-size // MOST) for size in weights.shape)
    padded = numpy.pad(weights, [(0, -weights.shape[0] % down), (0, -weights.shape[1] % across)])
    parts = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across)
    high, low = parts.max(axis=(1, 3)), parts.min(axis=(1, 3))
    return numpy.where(high >= -low, high, low)


def in_colours(plt, values, signed, most):
    """RGBA of weights, the larger the darker: over DECADES powers of ten, or, where some are negative, by their cube
    root in two colours."""
    import numpy

    if signed:
        scale = numpy.round((0.5 + 0.5 * numpy.cbrt(values / most)) * LEVELS) / LEVELS
        colours, blank = plt.get_cmap("PuOr_r")(scale, bytes=True), scale == 0.5
    else:
        part = 1 + numpy.log10(numpy.maximum(values / most, 1e-30)) / DECADES
        scale = numpy.ceil(numpy.clip(part, 0, 1) * (LEVELS - 1)) / (LEVELS - 1)
        colours, blank = plt.get_cmap("magma_r")(0.03 + 0.97 * scale, bytes=True), scale == 0
    colours[blank] = 255
    return colours


class Sheet:
    """Three panels with their scales below, made once and filled for one method after the other."""

    def __init__(self, plt, queries, keys):
        self.plt, tall = plt, 4.55
        self.figure = plt.figure(figsize=(WIDTH, tall))
        self.images, self.scales = [], []
        for place, title in enumerate(("dense attention", "this method", "method minus dense")):
            left = 0.055 + 0.325 * place
            axes = self.figure.add_axes((left, 0.87 / tall, 0.28, 0.28 * WIDTH / tall))
            blank = [[[255, 255, 255, 255]]]
            options = {"interpolation": "none", "aspect": "auto"}
            self.images.append(axes.imshow(blank, extent=(0, keys, queries, 0), **options))
            for axis, size in ((axes.xaxis, keys), (axes.yaxis, queries)):
                ticks = [0, size // 2, size]
                axis.set_ticks(ticks, [str(tick) for tick in ticks])
            axes.tick_params(length=2, colors=INK, labelsize=8)
            for side in axes.spines.values():
                side.set_color(GRID)
            axes.set_title(title, color=INK)
            axes.set_xlabel("keys", labelpad=1)
            axes.set_ylabel("queries", labelpad=1)
            axes = self.figure.add_axes((left, 0.37 / tall, 0.28, 0.1 / tall))
            self.scales.append(axes.imshow(blank, extent=(0, 1, 0, 1), **options))
            axes.set_yticks([])
            axes.tick_params(length=2, colors=INK, labelsize=8)
            axes.set_xlabel("difference" if place == 2 else "weight")
        plotted(self.images + self.scales)

    def fill(self, place, values, signed, most):
        import numpy

        self.images[place].set_data(in_colours(self.plt, pooled(values), signed, most))
        part = numpy.linspace(0, 1, LEVELS + 1 if signed else LEVELS)
        number = lambda part: most * (2 * part - 1) ** 3 if signed else most * 10.0 ** (DECADES * (part - 1))
        self.scales[place].set_data(in_colours(self.plt, number(part)[None, :], signed, most))
        ticks = [0, 0.25, 0.5, 0.75, 1] if signed else [0, 0.5, 1]
        self.scales[place].axes.set_xticks(ticks, [f"{number(tick):.1g}" for tick in ticks])


def picture_of(plt, maps, entry, name, label):
    """SVG of one entry: three panels, or curves where there is one query."""
    dense, weights = (maps.array(entry[key]) for key in ("dense", "weights"))
    if weights.shape[0] == 1:
        return curve(plt, dense[0], weights[0], name, label)
    if weights.shape not in maps.sheets:
        maps.sheets[weights.shape] = Sheet(plt, *weights.shape)
    sheet = maps.sheets[weights.shape]
    most = max(float(abs(dense).max()), float(abs(weights).max())) or 1.0
    for place, values in enumerate((dense, weights, weights - dense)):
        sheet.fill(place, values, place == 2 or bool((values < -1e-3 * most).any()), most)
    return picture(sheet.figure, name, label, close=False)


def curve(plt, dense, weights, name, label):
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
    return picture(figure, name, label)


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
    words.append(
        "Weights are logarithmic over four powers of ten, white is less or nothing; what may be negative has two "
        "colours and goes by its cube root."
    )
    return " ".join(words)
