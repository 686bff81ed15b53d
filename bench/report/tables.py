"""Tables of shapes and of methods: headings and cells."""

import formats
import lengths
from formats import duration, percent, times
from results import DENSE

TITLES = {
    "prefill": "Prefill: many queries, bound by arithmetic",
    "decode": "Decode: one query, bound by reading K and V",
    "small": "Small problems, many of them",
    "mask": "Masks and grids",
    "real": "Tensors of trained models",
    "synthetic": "Structured tensors",
    "approximate": "Others",
    "user": "Your tensors",
}
COMPARISONS = {
    "real": "Approximate methods on real input",
    "user": "Approximate methods on your tensors",
    "synthetic": "Approximate methods on structured and Gaussian input",
    "approximate": "Approximate methods on other shapes",
    "decode": "Approximate methods at one query",
    "prefill": "Approximate methods at many queries",
    "small": "Approximate methods on small problems",
}
GROWTH = "Growth with length, one thread"
MEMORY_GROWTH = "Memory against length, one thread"
# Columns that hold words.
WORDS = ("ratio", "shape", "input", "method", "stored", "layout", "bench", "what", "pattern", "failed")


def sections(results):
    """(title, rows) of one table of shapes each."""
    order = list(TITLES)
    groups = results.sections()
    for table in sorted(groups, key=lambda table: order.index(table) if table in order else len(order)):
        yield TITLES.get(table, table), groups[table]


def columns(results, rows):
    """Headings and cells of a section."""
    with_methods = len({row.method for row in rows}) > 1
    with_eigen = any(results.against_eigen(row) for row in rows)
    with_peers = any(results.fastest_peer(row) for row in rows)
    with_masks = rows[0].table == "mask"
    with_stored = any(formats.stored_error(row) for row in rows)
    with_memory = any(row.memory is not None for row in rows)
    heads = ["shape"] + (["method"] if with_methods else [])
    heads += ["threads", "time", "spread", "rate", "of limit", "at best"] + (["vs Eigen"] if with_eigen else [])
    heads += (["fastest peer"] if with_peers else []) + (["visited", "in tiles", "of dense time"] if with_masks else [])
    with_dense = with_methods and not with_masks
    heads += (["vs dense"] if with_dense else []) + (["memory"] if with_memory else [])
    heads += ["error / plain loop"] + (["vs stored"] if with_stored else [])
    cells = []
    for row in rows:
        line = [row.shape] + ([row.method] if with_methods else [])
        line += [str(row.threads), duration(row.time), formats.spread(row), formats.rate(row), formats.limit(row)]
        line.append(percent(row.share_at_best))
        if with_eigen:
            line.append(times(results.against_eigen(row)))
        if with_peers:
            peer = results.fastest_peer(row)
            line.append(f"{peer[1]:.2f}x {peer[0]}" if peer else "")
        if with_masks:
            full = results.dense.get((row.type, "full", *row.problem[2:]))
            tiles = "" if row.tiles is None else percent(row.tiles, 1)
            line += [percent(row.visited, 1), tiles, percent(row.time / full.time, 1) if full else ""]
        if with_dense:
            line.append(times(results.over_dense(row)))
        if with_memory:
            line.append(formats.amount(row.memory))
        line.append(formats.error(row))
        if with_stored:
            line.append(formats.stored_error(row))
        cells.append(line)
    return heads, cells


def comparison_columns(results, inputs):
    """The same of methods beside dense attention, input after input: [(dense row or nothing, rows)]."""
    every = [row for dense, rows in inputs for row in ([dense] if dense else []) + rows]
    with_memory = any(row.memory is not None for row in every)
    heads = ["input", "method", "threads", "kept", "mass kept", "error vs dense", "time", "spread", "vs dense"]
    heads += ["of limit"] + (["memory"] if with_memory else []) + ["own error / plain loop"]
    cells = []
    for row in every:
        line = [row.shape, row.method, str(row.threads), percent(row.kept, 1), percent(row.mass, 1)]
        line.append(f"{row.dense_error:.1e}" if row.dense_error is not None else "")
        line += [duration(row.time), formats.spread(row), times(results.over_dense(row)), formats.limit(row)]
        line += [formats.amount(row.memory)] if with_memory else []
        cells.append(line + [formats.error(row)])
    return heads, cells


def named(method, pattern):
    return method + (f" {pattern}" if pattern != "full" else "")


def dense_line(lines, pattern):
    return lines.get((DENSE, pattern if pattern == "causal" else "full"), {})


def efficiency(found):
    """CAB's length and both R^2 as three cells."""
    if not found:
        return ["", "", ""]
    length = f"{found.length:.0f}" if found.length else "undefined"
    return [length, f"{found.dense_r2:.4f}", f"{found.method_r2:.4f}"]


def since(found):
    """From where on a method costs less, in words."""
    return "never" if not found else "the first on" if found[0] is None else f"{found[0]:.0f}"


def growth_columns(results, only=None):
    """Time at each length, the power of the length with which it grows, and from where on a method beats dense."""
    lines = results.growth()
    shown = {key: line for key, line in lines.items() if only is None or key[0] in (only, DENSE)}
    columns = sorted({length for line in shown.values() for length in line})
    heads = ["method"] + [formats.length(n) for n in columns]
    heads += ["spread", "grows like", "vs dense at the end", "beats dense from"]
    heads += ["efficiency length", "R² dense", "R² method"]
    cells = []
    for (method, pattern), line in shown.items():
        dense = dense_line(lines, pattern)
        best = {n: row.best_call for n, row in line.items()}
        own, other = ({n: row.time for n, row in rows.items()} for rows in (line, dense))
        grows = lengths.power(best)
        cell = [named(method, pattern)] + [duration(own[n]) if n in own else "" for n in columns]
        cell += [f"±{max(row.spread for row in line.values()) * 100:.0f}%", f"T^{grows:.2f}" if grows else ""]
        if method == DENSE:
            cell += [""] * 5
        else:
            cell += [times(results.over_dense(line[max(line)])), since(lengths.crossing(other, own))]
            cell += efficiency(lengths.efficiency_length(other, own, skip=(256,)))
        cells.append(cell)
    return heads, cells


def memory_columns(results, only=None):
    """Memory at each length, and from where on a method needs less than dense attention."""
    lines = {
        key: line
        for key, line in results.growth().items()
        if all(row.memory is not None for row in line.values()) and (only is None or key[0] in (only, DENSE))
    }
    columns = sorted({length for line in lines.values() for length in line})
    heads = ["method"] + [formats.length(n) for n in columns]
    heads += ["grows like", "needs less than dense from", "efficiency length", "R² dense", "R² method"]
    cells = []
    for (method, pattern), line in lines.items():
        own, other = ({n: row.memory for n, row in rows.items()} for rows in (line, dense_line(lines, pattern)))
        grows = lengths.power(own)
        cell = [named(method, pattern)] + [formats.amount(own[n]) if n in own else "" for n in columns]
        cell += [f"T^{grows:.2f}" if grows is not None else ""]
        if method == DENSE:
            cell += [""] * 4
        else:
            below = lengths.crossing(other, own) if other and min([*own.values(), *other.values()]) > 0 else None
            cell += [since(below)] + efficiency(lengths.efficiency_length(other, own) if other else None)
        cells.append(cell)
    return heads, cells


def growth_tables(results):
    """(title, table) of time, and of memory where it was measured, against length."""
    if results.growth():
        yield GROWTH, growth_columns(results)
        memory = memory_columns(results)
        if memory[1]:
            yield MEMORY_GROWTH, memory


def thread_columns(results):
    """How many times as fast with several threads as with one."""
    counts = sorted({row.threads for row in results.ours() if row.threads > 1})
    cells = []
    for row in results.ours():
        if row.threads == 1:
            more = [results.same_problem(row, threads=count) for count in counts]
            if any(more):
                cell = [row.shape, row.method, duration(row.time), formats.spread(row)]
                for other in more:
                    cell += [times(row.time / other.time), formats.spread(other)] if other else ["", ""]
                cells.append(cell)
    cells.sort(key=lambda cell: (cell[1], cell[0]))
    heads = ["shape", "method", "one thread", "spread"]
    for count in counts:
        heads += [f"{count} threads", "spread "]
    return heads, cells


def roofline_columns(results):
    """Rate and intensity of each bench of one thread, beside what the two limits allow."""
    cells = []
    for row in results.ours():
        if row.threads == 1 and row.flops:
            per_byte = row.flops * row.time / row.traffic
            cells.append([row.shape, row.method, f"{per_byte:.1f}", f"{row.flops / 1e9:.2f}", formats.spread(row)])
    return ["shape", "method", "operations per byte", "GF/s", "spread"], cells
