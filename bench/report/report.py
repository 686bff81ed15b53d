#!/usr/bin/env python3
"""Turns Google Benchmark's JSON of fovea_bench into a table on the terminal and a page for the browser.

report.py RESULTS.json... [--peers PEERS.jsonl] [--failed TEXT]... [--note TEXT]... [--html PAGE.html]
report.py RESULTS.json... --cases      the shapes as bench/peers/run takes them

The tables need nothing but Python 3; the page's pictures need matplotlib, and without it the page has none.
"""

import argparse
import pathlib

import decoding
from page import page
from results import (
    COMPARISONS,
    WORDS,
    Results,
    build_lines,
    columns,
    comparison_columns,
    disturbance,
    growth_columns,
    machine_lines,
    promises,
)


def aligned(heads, cells):
    widths = [max(len(line[i]) for line in [heads] + cells) for i in range(len(heads))]
    layout = lambda line: "  ".join(
        text.ljust(w) if head in WORDS else text.rjust(w) for head, text, w in zip(heads, line, widths)
    ).rstrip()
    return "\n".join([layout(heads), "  ".join("-" * w for w in widths)] + [layout(line) for line in cells])


def print_tables(results, notes):
    for key, value in build_lines(results) + list(machine_lines(results)):
        print(f"{key:<28} {value}")
    for title, table in decoding.tables(results):
        print(f"\n{title}\n{aligned(*table)}")
    for title, rows in results.sections():
        print(f"\n{title}\n{aligned(*columns(results, rows))}")
    for table, inputs in results.comparisons():
        print(f"\n{COMPARISONS[table]}\n{aligned(*comparison_columns(results, inputs))}")
    if results.growth():
        print(f"\nGrowth with length, one thread\n{aligned(*growth_columns(results))}")
    heads, lines = promises(results)
    if lines:
        print(f"\nWhat is promised\n{aligned(heads, lines)}")
    if notes:
        print("\n" + "\n".join(notes))
    if results.failed:
        print("\nFailed:\n  " + "\n  ".join(results.failed))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--peers")
    parser.add_argument("--failed", action="append", default=[])
    parser.add_argument("--html")
    parser.add_argument("--note", action="append", default=[])
    parser.add_argument("--cases", action="store_true")
    options = parser.parse_args()
    results = Results(options.results, options.peers, options.failed)
    notes = disturbance(results) + options.note
    if options.cases:
        print("\n".join(dict.fromkeys(row.case for row in results.ours() if row.case)))
        return
    print_tables(results, notes)
    if options.html:
        pathlib.Path(options.html).write_text(page(results, notes))


if __name__ == "__main__":
    main()
