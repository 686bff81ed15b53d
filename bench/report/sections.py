"""The sections of the page's first part: pictures, each with its table below."""

import dataclasses

import decoding
import draw_comparison
import draw_growth
import draw_limits
import draw_recall
import promises
import tables
from markup import slug


SOME = 12  # names of benches that only one of two runs has


@dataclasses.dataclass
class Section:
    """A heading, words, and what stands under it: (picture as a function of pyplot, title and table), or None each."""

    title: str
    words: str = ""
    parts: list = dataclasses.field(default_factory=list)
    level: int = 2

    @property
    def id(self):
        return slug(self.title)


@dataclasses.dataclass
class Report:
    """All that a report is made of; everything but the results may be missing."""

    results: object
    recall: object = None
    maps: object = None
    comparison: object = None
    notes: list = dataclasses.field(default_factory=list)


def draw(function, *arguments):
    """A picture to be drawn when pyplot is there."""
    return lambda plt: function(plt, *arguments)


def limits(report):
    results = report.results
    yield Section(
        "Share of what the machine can do",
        "Each bar is the rate of dense attention at one shape over the limit that binds it: fused multiply-adds in "
        "registers or, where it says memory, reading K and V once. Both limits are measured by a plain loop just "
        "before and after the kernel. Grey: half the range of the samples on either side. Dark mark: plain Eigen. The "
        "numbers are in the tables of every shape.",
        [(draw(draw_limits.shares, results), None)],
    )
    yield Section(
        "Masks",
        "Time of a mask against the share of pairs that it keeps, both of dense attention to every key; one thread. A "
        "mask should cost what it keeps, the green line. The numbers are in the tables of every shape.",
        [(draw(draw_comparison.masks, results), None)],
    )
    yield Section(
        "Roofline",
        "Every bench of one thread: operations a second, of the pairs that it keeps, against operations per byte when "
        "q, k, v and out cross the memory bus once. The green line is what the measured limits allow. A point above "
        "the slope has its keys and values in a cache that is nearer than the memory.",
        [(draw(draw_limits.roofline, results), ("Roofline, one thread", tables.roofline_columns(results)))],
    )
    yield Section(
        "How many times as fast as others",
        "Time of plain Eigen, and of the fastest of the other libraries where they were timed, over ours at the same "
        "shape in the same run; one thread. The numbers are in the tables of every shape.",
        [(draw(draw_limits.others, results), None)],
    )
    yield Section(
        "Dense attention against length",
        "One thread, 8 heads. The dashed line is what the time would be at the measured arithmetic limit.",
        [(draw(draw_limits.dense_length, results), None)],
    )


def comparisons(report):
    """A section for each input and shape of approximate methods."""
    results = report.results
    first = True
    for table, inputs in results.comparisons():
        groups = {}
        for dense, rows in inputs:
            row = rows[0]
            sizes = ",".join(map(str, row.sizes.values()))
            groups.setdefault((row.data, sizes), []).append((dense, rows))
        for (data, sizes), own in groups.items():
            rows = [row for _, rows in own for row in rows]
            kind = {"decode": "One query", "small": "Small problems"}.get(table, "Gaussian numbers")
            where = f"{data or kind} ({sizes})"
            words = (
                "Right is faster, down is closer; nothing is both faster and closer than what stands on the grey "
                "line. Filled: every query sees every key; hollow: causal. Bars: half the range of the samples. "
                "Errors below 0.001 are drawn there. Second picture: the share of pairs that a selection keeps, and "
                "the softmax weight that dense attention gives them; on the dashed diagonal a selection is no better "
                "than chance."
                if first
                else ""
            )
            first = False
            pictures = [
                (
                    draw(
                        draw_comparison.pareto,
                        results,
                        f"pareto-{slug(where)}",
                        f"Speed against error on {where}",
                        rows,
                    ),
                    None,
                ),
                (
                    draw(
                        draw_comparison.mass,
                        results,
                        f"mass-{slug(where)}",
                        f"Softmax mass against keys kept on {where}",
                        rows,
                    ),
                    None,
                ),
                (None, ("", tables.comparison_columns(results, own))),
            ]
            yield Section(f"Speed against error: {where}", words, pictures)


def growth(report):
    results = report.results
    found = list(tables.growth_tables(results))
    words = (
        "Two heads, width 64, one thread; a panel for each family, dense attention dashed in each. A ring marks the "
        "length from which on the method costs less at every length measured. The dotted line is the efficiency "
        "length of CAB (Zhang et al. 2023): the dense costs at 256 to 8192 tokens as a L^2 + b L + c, the method's as "
        "d L + e, least squares, and the length at which the two meet; times of a method without 256. Undefined "
        "where the parabola opens downwards or the two do not meet."
    )
    for (title, table), function in zip(found, (draw_growth.time_against_length, draw_growth.memory_against_length)):
        parts = [(draw(function, results, pattern), None) for pattern in draw_growth.patterns(results)]
        yield Section(title, words, parts + [(None, ("", table))])
        words = "The same of the peak memory of a call beside q, k, v and out."
    title, rows = draw_growth.memory_rows(results)
    if len(rows) > 1:
        yield Section(
            "Peak memory by method",
            "The most memory that a call has in use at one time beside q, k, v, out and what was made before. Filled: "
            "every query sees every key; hollow: causal. A call that needs none stands at the left edge.",
            [(draw(draw_growth.memory_by_method, results), ("", memory_table(rows)))],
        )
    threads = tables.thread_columns(results)
    if threads[1]:
        yield Section(
            "Threads",
            "How many times as fast as with one thread; behind the name how many shapes were measured.",
            [(draw(draw_growth.threads, results), ("", threads))],
        )


def memory_table(rows):
    from formats import amount

    rows = sorted(rows, key=lambda row: (row.memory, row.method))
    return ["method", "input", "memory"], [[row.method, row.shape, amount(row.memory)] for row in rows]


def recall(report):
    found = report.recall
    if not found or not (found.lines or found.failed):
        return
    failed = [[line["method"], line.get("what", ""), str(line.get("failed", ""))] for line in found.failed]
    parts = [
        (draw(draw_recall.heat, found), None),
        (draw(draw_recall.curves, found), ("", draw_recall.table(found))),
    ]
    parts += [(None, ("Failed", (["method", "what", "failed"], failed)))] if failed else []
    yield Section(
        "Recall",
        "Multi-query associative recall (Arora et al. 2023, arXiv:2312.04927): a sequence holds pairs of a key and a "
        "value, later the keys come again and the value is asked for. Keys and values are analytic, nothing is "
        "trained. "
        f"{found.examples} examples of each problem, {found.vocabulary} words, seed {found.seed}. "
        "Behind ± the standard error of the mean; kept is the share of visible pairs that a method that selects looks "
        "at. The curves show the widest keys of each method.",
        parts,
    )


def before(report):
    found = report.comparison
    if not found:
        return
    marked = found.marked()
    parts = []
    if found.differences():
        parts.append((None, ("What is different", (["what", "before", "now"], [list(x) for x in found.differences()]))))
    if marked:
        parts.append((None, ("Outside the spread of both runs, the largest first", found.columns(marked))))
    if found.changes:
        parts.append((None, ("Every bench of both", found.columns())))
    for title, names in (("New", found.added), ("Not there any more", found.gone)):
        if names:
            more = [f"and {len(names) - SOME} more"] if len(names) > SOME else []
            parts.append((None, (title, (["bench"], [[name] for name in names[:SOME] + more]))))
    yield Section(
        "Against an earlier run",
        " ".join(found.summary()) + " Time: now over before. Share of limit: the same of the share of the measured "
        "limit, which takes out a machine that is slower today. A star, and a verdict, only where no sample of one "
        "run lies within the range of the other.",
        parts,
    )


def decoding_tables(report):
    found = list(decoding.tables(report.results))
    if found:
        yield Section("Caches and decoding", "", [(None, part) for part in found])


def promised(report):
    heads, lines = promises.table(report.results)
    if lines:
        words = "Goals beside what was measured: the median decides, the best call shows what noise may have cost."
        yield Section("What is promised", words, [(None, ("", (heads, lines)))])


def shapes(report):
    results = report.results
    parts = [(None, (title, tables.columns(results, rows))) for title, rows in tables.sections(results)]
    if parts:
        yield Section("Every shape", LEGEND, parts)


LEGEND = (
    "Shapes are (batch, heads, kv heads, queries, keys, width). Time: median of the samples; spread: half their "
    "range. Rate: pairs that the pattern keeps × 2 (D + E) operations, or bytes of K and V read once, over the time. "
    "Of limit: that rate over the limit measured beside it (fma or mem). At best: the same for the fastest single "
    "call. Vs Eigen: its time over ours. Fastest peer: its best call over our best call. Error: relative root mean "
    "square distance to double precision on sampled rows; behind it that of a plain loop on the same rows. Of "
    "approximate methods: kept, pairs that the method keeps, of those that dense attention looks at; mass kept, the "
    "softmax weight that dense attention gives them; error vs dense, the distance of the output to dense attention in "
    "double precision; vs dense, the time of dense attention over the method's own, selection included; own error, "
    "the distance from the method's own definition, or from softmax over the keys that it kept."
)


def every(report):
    for make in (before, comparisons, growth, recall, limits, decoding_tables, promised, shapes):
        yield from make(report)
