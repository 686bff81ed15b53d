"""The page that shows the results in a browser: one file, pictures and all."""

import pathlib
import statistics
import string
import sys

import drawing
import method_pages
import sections
from build import build_lines, cpu_name, machine_lines
from markup import anchor, facts, figure, table, text
from methods import Repository
from results import BASELINE, DENSE


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
    decode = [row for row in ours if row.table == "decode" and row.bandwidth_share]
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
    close = [row for row in results.rows if row.compared and row.threads == 1 and row.dense_error <= 0.1]
    close = [(results.over_dense(row), row) for row in close if (results.over_dense(row) or 0) > 1]
    if close:
        speed, row = max(close, key=lambda pair: pair[0])
        what = f"as fast as dense, {row.name_in_family} on {row.shape}, the most with an error of at most 10 %"
        yield f"{speed:.1f}x", what
    worst = results.worst_error()
    if worst:
        yield f"{worst[0]:.2f}x", "largest error, as a multiple of a plain loop's"


def section(plt, found, known):
    """HTML of a section, empty when neither a picture nor a table came of it."""
    parts = []
    for draw, content in found.parts:
        svg = draw(plt) if draw and plt else None
        if svg:
            parts.append(figure(svg))
        if content:
            title, cells = content
            parts += ([f"<h3>{text(title)}</h3>"] if title else []) + [table(*cells, known)]
    if not parts:
        return ""
    words = f'<p class="quiet">{text(found.words)}</p>' if found.words else ""
    return f'<h2 id="{found.id}">{text(found.title)}</h2>\n{words}\n' + "\n".join(parts)


def contents(titles, known):
    """Links to the sections and to the methods, family by family."""
    links = "".join(f'<li><a href="#{anchor}">{text(title)}</a></li>' for anchor, title in titles)
    families = {}
    for method in known:
        families.setdefault(method.partition("/")[0], []).append(method)
    groups = "".join(
        f"<div><b>{text(family.replace('_', ' '))}</b> "
        + ", ".join(f'<a href="#{anchor(method)}">{text(method.partition("/")[2])}</a>' for method in methods)
        + "</div>"
        for family, methods in families.items()
    )
    return f'<ul>{links}</ul><h3 id="methods">A page for each method</h3><div class="families">{groups}</div>'


def failures(results):
    if not results.failed:
        return ""
    lines = "<br>".join(map(text, results.failed))
    return f'<div class="failure" id="failures"><b>Failed</b><br>{lines}</div>'


def methods_shown(report):
    """Those with a bench, a map or recall."""
    found = dict.fromkeys(report.results.methods())
    found |= dict.fromkeys(entry["method"] for entry in report.maps.entries) if report.maps else {}
    found |= dict.fromkeys(line["method"] for line in report.recall.lines) if report.recall else {}
    failed = ("/".join(reason.split("/")[:2]) for reason in report.results.failed if reason.count("/") >= 2)
    found |= dict.fromkeys(failed)
    return sorted(found, key=lambda method: (not method.startswith("dense/"), method == BASELINE, method))


def page(report, repository=None):
    """The page's text: page.html with its places filled."""
    results = report.results
    plt = drawing.start()
    if not plt:
        print("report.py: no matplotlib, so the page has no pictures", file=sys.stderr)
    repository = repository or Repository()
    known = methods_shown(report)
    made = [(found, section(plt, found, known)) for found in sections.every(report)]
    made = [(found, content) for found, content in made if content]
    neighbours = zip(known, [None, *known[:-1]], [*known[1:], None])
    pages = [
        method_pages.page(plt, report, method, repository.about(method), known, before, after)
        for method, before, after in neighbours
    ]
    about = build_lines(results.context)
    context = results.context
    headline = " · ".join(filter(None, (dict(about).get("date", ""), cpu_name(), context.get("compiler", ""))))
    template = string.Template((pathlib.Path(__file__).parent / "page.html").read_text())
    return template.substitute(
        headline=text(headline),
        failed=failures(results),
        tiles="".join(
            f'<div class="tile"><b>{text(n)}</b><span>{text(what)}</span></div>' for n, what in tiles(results)
        ),
        notes="".join(f'<p class="quiet">{text(note)}</p>' for note in report.notes),
        facts=facts(about + list(machine_lines(results))),
        contents=contents([(found.id, found.title) for found, _ in made], known),
        sections="\n".join(content for _, content in made),
        methods="\n".join(pages),
    )
