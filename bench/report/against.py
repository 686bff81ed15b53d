"""A second run beside the first: ratios of times and of shares of the limit, marked where they leave the noise."""

import statistics

import formats
from build import build_lines

DIFFERENT = ("processor", "compiler", "flags", "instruction set", "libraries", "fovea", "date")


class Change:
    """One bench of both runs."""

    def __init__(self, new, old):
        self.new, self.old = new, old
        self.time = new.time / old.time
        self.share = new.share / old.share if new.share and old.share else None

    @property
    def repeated(self):
        return min(len(self.new.times), len(self.old.times)) > 1

    @property
    def time_apart(self):
        """No sample of one run lies among those of the other."""
        return self.repeated and apart(self.new.times, self.old.times)

    @property
    def share_apart(self):
        return self.repeated and self.share is not None and apart(self.new.shares, self.old.shares)

    @property
    def verdict(self):
        """Of the share of the limit, which does not see that a machine became slower."""
        if not self.repeated:
            return "one sample"
        if not self.share_apart:
            return ""
        return "better" if self.share > 1 else "worse"


def apart(these, those):
    return min(these) > max(those) or max(these) < min(those)


class Comparison:
    def __init__(self, new, old):
        self.context, self.old_context = new.context, old.context
        before = {row.name: row for row in old.rows}
        self.changes = [Change(row, before[row.name]) for row in new.rows if row.name in before]
        now = {row.name for row in new.rows}
        self.added = [row.name for row in new.rows if row.name not in before]
        self.gone = [row.name for row in old.rows if row.name not in now]
        self.failed = [text for text in new.failed if text not in old.failed]

    def marked(self):
        """Those outside both spreads, the largest change first."""
        found = [change for change in self.changes if change.share_apart]
        return sorted(found, key=lambda change: -max(change.share, 1 / change.share))

    def summary(self):
        """A few sentences."""
        if not self.changes:
            return ["No bench of the earlier run is in this one."]
        marked = self.marked()
        better = [change for change in marked if change.share > 1]
        lines = [
            f"{len(self.changes)} benches are in both runs. At the median they take "
            f"{statistics.median(change.time for change in self.changes):.2f} times as long as before, and their share "
            f"of the limit is {statistics.median(c.share for c in self.changes if c.share):.2f} times what it was. "
            f"Outside the spread of both runs: better {len(better)}, worse {len(marked) - len(better)}."
        ]
        if self.added:
            lines.append(f"New: {len(self.added)}.")
        if self.gone:
            lines.append(f"Not there any more: {len(self.gone)}.")
        if self.failed:
            lines.append(f"New failures: {len(self.failed)}.")
        return lines

    def differences(self):
        """(what, before, now) of the machine and the build."""
        old, new = dict(build_lines(self.old_context)), dict(build_lines(self.context))
        return [(key, old.get(key, ""), new.get(key, "")) for key in DIFFERENT if old.get(key) != new.get(key)]

    def columns(self, changes=None):
        heads = [
            "shape",
            "method",
            "threads",
            "before",
            "spread",
            "now",
            "spread ",
            "time",
            "share of limit",
            "verdict",
        ]
        cells = []
        for change in self.changes if changes is None else changes:
            new, old = change.new, change.old
            cells.append(
                [new.shape, new.method, str(new.threads), formats.duration(old.time), formats.spread(old)]
                + [formats.duration(new.time), formats.spread(new)]
                + [f"{change.time:.2f}x{'*' if change.time_apart else ''}"]
                + [f"{change.share:.2f}x" if change.share else "", change.verdict]
            )
        return heads, cells
