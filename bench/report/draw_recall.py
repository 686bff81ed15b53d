"""Multi-query associative recall: a table in colours, and recall against the number of pairs."""

from drawing import INK, MARKERS, PALETTE, QUIET, WIDTH, axes_style, picture, plotted
from formats import percent


class Recall:
    """The lines of recall.json."""

    def __init__(self, text):
        self.vocabulary, self.examples, self.seed = (text.get(key) for key in ("vocabulary", "examples", "seed"))
        self.lines = [line for line in text.get("lines", []) if "failed" not in line]
        self.failed = [line for line in text.get("lines", []) if "failed" in line]

    def of(self, method):
        return [line for line in self.lines if line["method"] == method]

    def problems(self):
        return sorted({(line["dim"], line["length"], line["pairs"]) for line in self.lines})


def name(line):
    return " ".join(filter(None, (line["method"], line.get("what", ""))))


def table(recall, lines=None):
    """One line for each method and variant: recall of each problem, its standard error, and the share of pairs kept."""
    lines = recall.lines if lines is None else lines
    problems = sorted({(line["dim"], line["length"], line["pairs"]) for line in lines})
    heads = ["method"] + [f"d {d}, {length} / {pairs}" for d, length, pairs in problems] + ["kept"]
    cells = []
    for who in dict.fromkeys(map(name, lines)):
        own = {(line["dim"], line["length"], line["pairs"]): line for line in lines if name(line) == who}
        kept = [line["density"] for line in own.values() if line.get("density") is not None]
        cells.append(
            [who]
            + [f"{own[p]['recall']:.3f} ± {own[p].get('spread', 0):.3f}" if p in own else "" for p in problems]
            + [percent(min(kept)) + (f" to {percent(max(kept))}" if max(kept) > min(kept) else "") if kept else ""]
        )
    return heads, cells


def heat(plt, recall):
    """Methods down, problems across; colour and number are the recall."""
    if not recall.lines:
        return None
    problems, methods = recall.problems(), list(dict.fromkeys(map(name, recall.lines)))
    methods.sort(key=lambda who: (not who.startswith("dense/"), who))
    found = {(name(line), (line["dim"], line["length"], line["pairs"])): line for line in recall.lines}
    figure, axes = plt.subplots(figsize=(WIDTH, 1.3 + 0.235 * len(methods)))
    tall = figure.get_figheight()
    figure.subplots_adjust(left=0.3, right=0.99, top=1 - 0.1 / tall, bottom=0.95 / tall)
    grid = [[found[m, p]["recall"] if (m, p) in found else float("nan") for p in problems] for m in methods]
    colours = plt.get_cmap("cividis").copy()
    colours.set_bad("#f1f3f5")
    plotted([axes.pcolormesh(grid, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=1)])
    size = 7.5 if len(problems) <= 12 else 6
    for down, values in enumerate(grid):
        for across, value in enumerate(values):
            if value == value:
                ink = "white" if value < 0.5 else INK
                axes.text(across + 0.5, down + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=size, color=ink)
    axes.set_yticks([i + 0.5 for i in range(len(methods))], methods)
    axes.set_xticks(
        [i + 0.5 for i in range(len(problems))], [f"d {d}\n{length}\n{pairs}" for d, length, pairs in problems]
    )
    axes.set_ylim(len(methods), 0)
    axes.set_xlabel("width of a key, tokens, pairs to remember")
    axes.set_ylabel("method")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return picture(figure, "recall", "Share of associations that each method retrieves, by problem")


def curves(plt, recall):
    """Recall against the pairs over the length, a panel for each family; the widest keys of each method."""
    families = {}
    for line in recall.lines:
        families.setdefault(line["method"].partition("/")[0], []).append(line)
    families.pop("dense", None)
    families = {family: lines for family, lines in families.items() if len({ratio(line) for line in lines}) > 1}
    if not families:
        return None
    across = min(3, len(families))
    down = -(-len(families) // across)
    tall = 3.4 * down
    figure, grid = plt.subplots(down, across, figsize=(WIDTH, tall), squeeze=False)
    figure.subplots_adjust(left=0.06, right=0.99, top=1 - 0.35 / tall, bottom=0.55 / tall, wspace=0.2, hspace=0.42)
    for axes in grid.flat[len(families) :]:
        axes.remove()
    for axes, (family, lines) in zip(grid.flat, sorted(families.items())):
        for place, who in enumerate(dict.fromkeys(map(name, lines))):
            own = [line for line in lines if name(line) == who]
            widest = max(line["dim"] for line in own)
            mean = {}
            for line in own:
                if line["dim"] == widest:
                    mean.setdefault(ratio(line), []).append(line)
            points = [
                (x, sum(l["recall"] for l in ls) / len(ls), max(l.get("spread", 0) for l in ls))
                for x, ls in sorted(mean.items())
            ]
            x, y, spread = zip(*points)
            style = dict(color=PALETTE[place % len(PALETTE)], marker=MARKERS[place % len(MARKERS)])
            axes.errorbar(x, y, yerr=spread, fmt="none", ecolor=style["color"], linewidth=0.8)
            plotted(axes.plot(x, y, markersize=4.5, linewidth=1.4, label=who.partition("/")[2], **style))
        axes.set_title(family.replace("_", " "), color=INK)
        axes.set_ylim(-0.04, 1.06)
        axes.xaxis.set_major_formatter(lambda share, _: f"{share * 100:.3g}%")
        axes.set_xlabel("pairs, of the tokens")
        axes.set_ylabel("recall")
        axes_style(axes)
        axes.axhline(1, color=QUIET, linewidth=0.6)
        axes.legend(
            loc="best", fontsize=7, handlelength=1.4, labelspacing=0.3, frameon=True, framealpha=0.85, edgecolor="none"
        )
    return picture(figure, "recall-curves", "Recall against the number of pairs over the length, by family")


def ratio(line):
    return line["pairs"] / line["length"]
