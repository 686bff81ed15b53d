#!/usr/bin/env python3
"""Turns Google Benchmark's JSON of fovea_bench into a table on the terminal and a page for the browser.

report.py RESULTS.json... [--peers PEERS.jsonl] [--recall RECALL.json] [--maps FOLDER] [--against OLD_RESULTS.json]...
          [--failed TEXT]... [--note TEXT]... [--html PAGE.html]
report.py RESULTS.json... --cases      the shapes as bench/peers/run takes them

The tables need nothing but Python 3; the page's pictures need matplotlib, and without it the page has none. A file that
is not there, or is none, is left out with a note.
"""

import argparse
import json
import pathlib

import decoding
import promises
import tables
from against import Comparison
from build import build_lines, disturbance, machine_lines
from draw_maps import Maps
from draw_recall import Recall
from results import Results
from sections import Report


def aligned(heads, cells):
    widths = [max(len(line[i]) for line in [heads] + cells) for i in range(len(heads))]
    layout = lambda line: "  ".join(
        cell.ljust(w) if head in tables.WORDS else cell.rjust(w) for head, cell, w in zip(heads, line, widths)
    ).rstrip()
    return "\n".join([layout(heads), "  ".join("-" * w for w in widths)] + [layout(line) for line in cells])


def print_tables(report):
    results = report.results
    for key, value in build_lines(results.context) + list(machine_lines(results)):
        print(f"{key:<28} {value}")
    for title, table in decoding.tables(results):
        print(f"\n{title}\n{aligned(*table)}")
    for title, rows in tables.sections(results):
        print(f"\n{title}\n{aligned(*tables.columns(results, rows))}")
    for table, inputs in results.comparisons():
        print(f"\n{tables.COMPARISONS[table]}\n{aligned(*tables.comparison_columns(results, inputs))}")
    for title, table in tables.growth_tables(results):
        print(f"\n{title}\n{aligned(*table)}")
    heads, lines = promises.table(results)
    if lines:
        print(f"\nWhat is promised\n{aligned(heads, lines)}")
    if report.comparison:
        print("\nAgainst an earlier run\n" + "\n".join(report.comparison.summary()))
        marked = report.comparison.marked()
        if marked:
            print(aligned(*report.comparison.columns(marked)))
    if report.notes:
        print("\n" + "\n".join(report.notes))
    if results.failed:
        print("\nFailed:\n  " + "\n  ".join(results.failed))


def earlier(paths):
    """The results of an earlier run: files, or the folder that bench/run wrote."""
    files = []
    for path in map(pathlib.Path, paths):
        files += sorted(path.glob("results*.json")) if path.is_dir() else [path]
    if not files:
        raise OSError(f"no results in {' '.join(paths)}")
    return Results(files)


def optional(notes, what, read):
    """What `read` gives; nothing, and a note, where the file is not there or is none."""
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError) as error:
        notes.append(f"{what} left out: {error}")
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--peers")
    parser.add_argument("--recall")
    parser.add_argument("--maps")
    parser.add_argument("--against", action="append", default=[])
    parser.add_argument("--failed", action="append", default=[])
    parser.add_argument("--html")
    parser.add_argument("--note", action="append", default=[])
    parser.add_argument("--cases", action="store_true")
    options = parser.parse_args()
    peers = options.peers if options.peers and pathlib.Path(options.peers).exists() else None
    results = Results(options.results, peers, options.failed)
    if options.cases:
        print("\n".join(dict.fromkeys(row.case for row in results.ours() if row.case)))
        return
    report = Report(results, notes=disturbance(results) + options.note)
    if options.peers and not peers:
        report.notes.append(f"Peers left out: there is no {options.peers}")
    if options.recall:
        read = lambda: Recall(json.loads(pathlib.Path(options.recall).read_text()))
        report.recall = optional(report.notes, "Recall", read)
    if options.maps:
        report.maps = optional(report.notes, "Attention maps", lambda: Maps(options.maps))
    if options.against:
        report.comparison = optional(
            report.notes, "The earlier run", lambda: Comparison(results, earlier(options.against))
        )
    print_tables(report)
    if options.html:
        from page import page

        pathlib.Path(options.html).write_text(page(report))


if __name__ == "__main__":
    main()
