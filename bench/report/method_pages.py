"""A page of each method: what it is, what it costs, its numbers and its attention maps."""

import draw_maps
import draw_recall
import tables
from markup import anchor, figure, inline, papers, slug, table, text
from results import DENSE

EXACT = "exact"


def numbers(report, method):
    """(title, table) of all that was measured of a method."""
    results = report.results
    own = [row for row in results.rows if row.method == method]
    compared = [row for row in own if row.compared]
    if compared:
        groups = {}
        for row in compared:
            groups.setdefault((results.dense_beside(row), row.threads), []).append(row)
        yield "Beside dense attention", tables.comparison_columns(
            results, [(d, rows) for (d, _), rows in groups.items()]
        )
    plain = {}
    for row in own:
        if not row.compared and row.table != "growth":
            plain.setdefault(row.table, []).append(row)
    for name, rows in plain.items():
        title = "Caches" if name == "cache" else tables.TITLES.get(name, name.capitalize())
        yield title, tables.columns(results, rows)
    if any(name == method for name, _ in results.growth()):
        yield tables.GROWTH, tables.growth_columns(results, method)
        memory = tables.memory_columns(results, method)
        if memory[1]:
            yield tables.MEMORY_GROWTH, memory
    if report.recall and report.recall.of(method):
        yield "Recall", draw_recall.table(report.recall, report.recall.of(method))


def failures(report, method):
    return [reason for reason in report.results.failed if reason.startswith(method + "/")]


def maps(plt, report, method):
    """(caption, svg or a reason) of each map of a method."""
    if not report.maps:
        return
    for place, entry in enumerate(report.maps.of(method)):
        if "failed" in entry:
            yield f"No attention map: {entry['failed']}", ""
            continue
        try:
            caption = draw_maps.caption(report.maps, entry)
            name = f"map-{slug(method)}-{place}"
            label = f"Attention maps of {method}: dense attention, this method, and the difference. {caption}"
            yield caption, draw_maps.picture_of(plt, report.maps, entry, name, label) if plt else ""
        except (OSError, ValueError, KeyError, ImportError) as error:
            yield f"No attention map: {error}", ""


def definition(about):
    """The rows of docs/methods.md, and the words and equations of the header."""
    row = about.row
    pairs = [
        (name, row[key])
        for name, key in (("paper", "paper"), ("exact", EXACT), ("parts", "parts"), ("cost", "cost"))
        if row.get(key)
    ]
    if about.header:
        pairs.append(("header", f"`{about.header}`"))
    facts = "".join(f"<div><span>{text(name)}</span><span>{inline(value)}</span></div>" for name, value in pairs)
    words = "".join(
        f'<div class="scroll"><pre class="equation">{text(content)}</pre></div>'
        if kind == "equation"
        else f"<p>{papers(content)}</p>"
        for kind, content in about.paragraphs
    )
    return f'<div class="facts definition">{facts}</div>{words}'


def page(plt, report, method, about, known, before, after):
    """The section of one method; before and after are its neighbours' names."""
    links = ['<a href="#top">Overview</a>']
    neighbours = [(arrow, name) for arrow, name in (("←", before), ("→", after)) if name]
    links += [f'<a href="#{anchor(name)}">{arrow} {text(name)}</a>' for arrow, name in neighbours]
    parts = [f'<section class="method" id="{anchor(method)}">', f'<p class="quiet links">{" · ".join(links)}</p>']
    parts.append(f"<h2>{text(method)}</h2>")
    if method == DENSE:
        parts.append('<p class="quiet">The method that all others are held against.</p>')
    for reason in failures(report, method):
        parts.append(f'<p class="failure"><b>Failed</b> {text(reason)}</p>')
    parts.append(definition(about))
    for caption, svg in maps(plt, report, method):
        parts.append(f'<h3>Attention maps</h3>{figure(svg)}<p class="quiet caption">{text(caption)}</p>')
    for title, content in numbers(report, method):
        parts.append(f"<h3>{text(title)}</h3>{table(*content, known)}")
    return "\n".join([*parts, "</section>"])
