"""The page that shows the results in a browser: one file, pictures and all."""

import html
import pathlib
import statistics
import string
import sys

import decoding
from comparison import growth_picture, mask_picture, mass_picture, pareto_picture
from drawing import EIGEN, GRID, INK, LIMIT, OURS, OURS_LIGHT, PEER, axes_style, picture
from results import (
    BASELINE,
    COMPARISONS,
    DENSE,
    WORDS,
    build_lines,
    columns,
    comparison_columns,
    cpu_name,
    growth_columns,
    machine_lines,
    promises,
)


def share_picture(plt, results):
    """Bars: how much of the limit that binds each shape is reached."""
    tables = ("prefill", "decode", "real", "user")
    rows = [row for row in results.ours() if row.method == DENSE and row.share and row.table in tables]
    if not rows:
        return None
    shapes = list(dict.fromkeys(row.shape for row in rows))
    threads = sorted({row.threads for row in rows})
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.19 * (len(threads) + 0.6) * len(shapes)))
    height = 0.8 / len(threads)
    for offset, count in enumerate(threads):
        colour = [OURS, OURS_LIGHT, "#ffd8a8", "#ffe8cc"][min(offset, 3)]
        by_shape = {row.shape: row for row in rows if row.threads == count}
        for place, shape in enumerate(shapes):
            row = by_shape.get(shape)
            if not row:
                continue
            y = place + (offset - (len(threads) - 1) / 2) * height
            axes.barh(
                y,
                row.share,
                height=height * 0.9,
                color=colour,
                label=f"{count} thread{'s' * (count > 1)}" if place == 0 else None,
            )
            base = results.baseline.get(row.problem)
            if base and base.share:
                axes.plot(
                    [base.share] * 2,
                    [y - height * 0.45, y + height * 0.45],
                    color=INK,
                    linewidth=1.6,
                    solid_capstyle="butt",
                    label="plain Eigen" if place == 0 and offset == 0 else None,
                )
            axes.text(
                max(row.share, base.share if base else 0) + 0.008,
                y,
                f"{row.share * 100:.0f}%",
                va="center",
                fontsize=7.5,
                color=INK,
            )
    axes.set_yticks(
        range(len(shapes)),
        [f"{shape}{' memory' if next(r for r in rows if r.shape == shape).memory_bound else ''}" for shape in shapes],
    )
    axes.set_ylim(len(shapes) - 0.4, -0.6)
    axes.set_xlim(0, max(1.08, max(row.share for row in rows) + 0.08))
    axes.axvline(1, color=LIMIT, linewidth=1.2, label="measured limit")
    axes.xaxis.set_major_formatter(plt.FuncFormatter(lambda x, _: f"{x * 100:.0f}%"))
    axes.grid(axis="x", color=GRID)
    axes_style(axes)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=5, frameon=False, fontsize=9)
    return picture(figure)


def length_picture(plt, results):
    """Time against the number of tokens, one panel for each width and pattern, one thread."""
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
    panels = sorted(
        {
            (row.sizes["d"], row.pattern != "full", row.pattern)
            for row in square
            if len({r.sizes["N"] for r in square if r.pattern == row.pattern and r.sizes["d"] == row.sizes["d"]}) > 1
        }
    )
    if not panels:
        return None
    figure, grid = plt.subplots(
        1, len(panels), figsize=(min(11, 3.4 * len(panels) + 0.6), 3.3), sharey=True, squeeze=False
    )
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
                others = [peer["best_s"] for name, peer in peers.items() if name not in ("fovea", "eigen")]
                if others:
                    lines.setdefault("fastest peer", {})[n] = min(others)
        for name, colour, style in (
            ("plain Eigen", EIGEN, "o-"),
            ("fastest peer", PEER, "o-"),
            ("fovea", OURS, "o-"),
            ("at the limit", LIMIT, "--"),
        ):
            if name in lines:
                points = sorted(lines[name].items())
                axes.plot(
                    [n for n, _ in points],
                    [t * 1e3 for _, t in points],
                    style,
                    color=colour,
                    label=name,
                    linewidth=1.8,
                    markersize=4,
                )
        lengths = sorted({row.sizes["N"] for row in square})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(lengths, [str(n) for n in lengths])
        axes.set_title(f"{pattern}, d = {dim}", fontsize=10, color=INK)
        axes.set_xlabel("tokens", fontsize=9, color=INK)
        axes.grid(color=GRID)
        axes_style(axes)
    grid[0][0].yaxis.set_major_formatter(plt.FuncFormatter(lambda t, _: f"{t:g}"))
    grid[0][0].set_ylabel("time, ms", fontsize=9, color=INK)
    handles, labels = max((axes.get_legend_handles_labels() for axes in grid[0]), key=lambda pair: len(pair[1]))
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncol=4, frameon=False, fontsize=9)
    return picture(figure)


def ratio_picture(plt, results):
    """How many times faster than the others, one thread."""
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
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.25 * len(rows)))
    most = 1.0
    for place, row in enumerate(rows):
        eigen, peer = results.against_eigen(row), results.fastest_peer(row)
        for value, colour, text, size in (
            (eigen, EIGEN, "", 6),
            (peer[1] if peer else None, PEER, peer[0] if peer else "", 7),
        ):
            if value:
                most = max(most, value)
                axes.plot([1, value], [place, place], color=colour, linewidth=1.4, alpha=0.55)
                axes.plot(value, place, "o", color=colour, markersize=size)
                if text:
                    axes.annotate(
                        text,
                        (value, place),
                        xytext=(0, 5),
                        textcoords="offset points",
                        ha="center",
                        fontsize=7,
                        color=colour,
                    )
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xscale("log")
    ticks = [tick for tick in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32) if tick <= most * 1.15]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [row.shape for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color=GRID)
    axes_style(axes)
    axes.plot([], [], "o", color=EIGEN, label="than plain Eigen")
    if results.peers:
        axes.plot([], [], "o", color=PEER, label="than the fastest peer")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2, frameon=False, fontsize=9)
    return picture(figure)


def pictures(results):
    """(heading, what it shows, svg)"""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("report.py: no matplotlib, so the page has no pictures", file=sys.stderr)
        return
    plt.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "fovea", "font.family": "sans-serif", "text.color": INK}
    )
    for heading, text, draw in (
        (
            "Share of what the machine can do",
            "Each bar is the rate of one shape over the limit that binds it: fused multiply-adds in registers, or, "
            "where it says memory, reading K and V once. Both limits are measured by a plain loop just before and "
            "after the kernel. The dark mark is plain Eigen.",
            share_picture,
        ),
        (
            "How many times as fast",
            "Time of the other over ours on the same shape in the same run, one thread.",
            ratio_picture,
        ),
        (
            "Time against length",
            "One thread, 8 heads. The dashed line is what the time would be at the measured arithmetic limit.",
            length_picture,
        ),
        ("Masks", "A mask should cost what it keeps. One thread.", mask_picture),
        (
            "Speed against error",
            "Methods that approximate dense attention, each beside dense attention on the same numbers. Right "
            "is faster, down is closer; nothing is both faster and closer than what stands on the line. Filled: every "
            "query sees every key; hollow: causal. Errors below 0.001 are drawn there.",
            pareto_picture,
        ),
        (
            "Keys kept, and the weight they hold",
            "Of the pairs that a dense method looks at, the share that a selection keeps; and the softmax weight that "
            "dense attention gives them. On the diagonal the selection is no better than chance.",
            mass_picture,
        ),
        ("Growth with length", "Two heads, width 64, one thread.", growth_picture),
    ):
        svg = draw(plt, results)
        if svg:
            yield heading, text, svg
    plt.close("all")


def html_table(heads, lines, classes=()):
    """A table; a cell whose text is one of `classes` gets that class, and a column of words is told from numbers."""

    def cell(kind, head, text):
        name = text if text in classes else "words" if head in WORDS else ""
        attribute = f' class="{name}"' if name else ""
        return f"<{kind}{attribute}>{html.escape(text)}</{kind}>"

    head = "".join(cell("th", text, text) for text in heads)
    body = "\n".join(f"<tr>{''.join(cell('td', *pair) for pair in zip(heads, line))}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def tiles(results):
    """The numbers somebody wants who reads nothing else: (number, what)."""
    ours = [row for row in results.ours() if row.method == DENSE and row.threads == 1 and row.type == "f32"]
    dense = [
        row
        for row in ours
        if row.table == "prefill" and row.pattern == "full" and row.sizes["N"] == row.sizes["M"] >= 2048
    ]
    if dense:
        share = statistics.median(row.peak_share for row in dense)
        yield f"{share * 100:.0f}%", "of the arithmetic limit, dense, 2048 tokens and more (median)"
    decode = [row for row in ours if row.table == "decode"]
    if decode:
        longest = max(decode, key=lambda row: row.sizes["M"])
        yield f"{longest.bandwidth_share * 100:.0f}%", f"of the read bandwidth, {longest.shape}"
    eigen = [value for value in (results.against_eigen(row) for row in ours) if value]
    if eigen:
        yield f"{statistics.median(eigen):.1f}x", f"as fast as plain Eigen (median of {len(eigen)} shapes)"
    peers = [peer[1] for peer in map(results.fastest_peer, ours) if peer and peer[0] != "eigen"]
    if peers:
        what = f"as fast as the fastest peer (median of {len(peers)} shapes, least {min(peers):.2f}x)"
        yield f"{statistics.median(peers):.2f}x", what
    worst = results.worst_error()
    if worst:
        yield f"{worst[0]:.2f}x", "largest error, as a multiple of a plain loop's"


def tables(results):
    """(title, (headings, cells)): caches and approximate methods first, then every table of shapes."""
    yield from decoding.tables(results)
    for table, inputs in results.comparisons():
        yield COMPARISONS[table], comparison_columns(results, inputs)
    if results.growth():
        yield "Growth with length, one thread", growth_columns(results)
    for title, rows in results.sections():
        yield title, columns(results, rows)


def page(results, notes):
    """The page's text: page.html with its places filled."""
    text = html.escape
    facts = build_lines(results) + list(machine_lines(results))
    failed = "<br>".join(map(text, results.failed))
    heads, lines = promises(results)
    template = string.Template((pathlib.Path(__file__).parent / "page.html").read_text())
    return template.substitute(
        headline=text(" · ".join([dict(facts).get("date", ""), cpu_name(), results.context.get("compiler", "")])),
        failed=f'<div class="failed"><b>Failed</b><br>{failed}</div>' if failed else "",
        tiles="".join(
            f'<div class="tile"><b>{text(n)}</b><span>{text(what)}</span></div>' for n, what in tiles(results)
        ),
        notes="".join(f'<p class="quiet">{text(note)}</p>' for note in notes),
        pictures="\n".join(
            f'<h2>{text(heading)}</h2>\n<p class="quiet">{text(words)}</p>\n{svg}'
            for heading, words, svg in pictures(results)
        ),
        promises=html_table(heads, lines, ("ok", "missed")),
        tables="\n".join(f"<h3>{text(title)}</h3>\n{html_table(*table)}" for title, table in tables(results)),
        facts="".join(f"<div><span>{text(what)}</span><span>{text(value)}</span></div>" for what, value in facts),
    )
