"""Tests of bench/report: numbers, rows, and pages of complete and of incomplete results."""

import contextlib
import copy
import importlib.util
import io
import json
import pathlib
import re
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(ROOT / "bench" / "report")]

import against  # noqa: E402
import drawing  # noqa: E402
import lengths  # noqa: E402
import made  # noqa: E402
import methods  # noqa: E402
import report  # noqa: E402
import tables  # noqa: E402
from page import page  # noqa: E402
from results import DENSE, Results, Row  # noqa: E402

MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


def results_of(entries, context=None):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "results.json"
        path.write_text(json.dumps({"context": context or made.CONTEXT, "benchmarks": list(entries)}))
        return Results([path])


def one(name="top_k/top_k/f32/causal/needles/B:1/H:4/G:2/N:8/M:8/d:64/threads:2", table="synthetic", **more):
    return list(made.bench(name, table, 0.5, 1e9, **more))


class EfficiencyLength(unittest.TestCase):
    """The published measurements of CAB and the lengths that follow from them."""

    def length(self, dense, method, **more):
        dense, method = (dict(zip(lengths.CAB_LENGTHS, costs)) for costs in (dense, method))
        return lengths.efficiency_length(dense, method, **more)

    def test_memory(self):
        found = self.length((81, 265, 952, 3604, 14020, 55300), (42, 80, 156, 308, 612, 1220))
        self.assertAlmostEqual(found.length, 69.5066, 4)
        self.assertGreater(found.dense_r2, 0.9999)
        self.assertGreater(found.method_r2, 0.9999)

    def test_time_goes_without_the_first_length(self):
        dense, method = (0.472, 0.628, 0.721, 0.981, 3.67, 18.437), (0.648, 0.59, 0.602, 0.91, 1.006, 1.509)
        self.assertAlmostEqual(self.length(dense, method, skip=(256,)).length, 1877.26, 2)

    def test_undefined_where_the_parabola_opens_downwards(self):
        found = self.length((1, 2, 3, 4, 5, 5.5), (1, 1, 1, 1, 1, 1))
        self.assertIsNone(found.length)

    def test_undefined_where_they_do_not_meet(self):
        dense = [100 + (n / 8192) ** 2 for n in lengths.CAB_LENGTHS]
        self.assertIsNone(self.length(dense, [1] * 6).length)

    def test_undefined_where_dense_costs_do_not_grow(self):
        self.assertIsNone(self.length([7] * 6, [1, 2, 3, 4, 5, 6]).length)

    def test_needs_all_lengths(self):
        self.assertIsNone(lengths.efficiency_length({256: 1, 512: 2}, {256: 1, 512: 2}))


class Lengths(unittest.TestCase):
    def test_crossing_lies_between_two_measured_lengths(self):
        dense, method = {1024: 1.0, 2048: 4.0, 4096: 16.0}, {1024: 2.0, 2048: 4.0 / 2, 4096: 8.0}
        self.assertAlmostEqual(lengths.crossing(dense, method)[0], 1024 * 2**0.5)

    def test_crossing_counts_the_last_time(self):
        dense, method = {1: 2.0, 2: 2.0, 4: 2.0, 8: 9.0}, {1: 1.0, 2: 1.0, 4: 4.0, 8: 1.0}
        self.assertGreater(lengths.crossing(dense, method)[0], 4)

    def test_never_and_always(self):
        self.assertIsNone(lengths.crossing({1: 1.0, 2: 1.0}, {1: 0.5, 2: 2.0}))
        self.assertEqual(lengths.crossing({1: 1.0, 2: 1.0}, {1: 0.5, 2: 0.5}), (None, None))

    def test_power(self):
        self.assertAlmostEqual(lengths.power({n: n**1.5 for n in (128, 256, 512, 1024)}), 1.5)
        self.assertIsNone(lengths.power({128: 0, 256: 0}))


class Rows(unittest.TestCase):
    def test_parts_of_a_name(self):
        row = Row(one()[0]["name"].split("/iterations")[0], one())
        self.assertEqual((row.method, row.family, row.name_in_family), ("top_k/top_k", "top_k", "top_k"))
        self.assertEqual((row.type, row.pattern, row.data, row.threads), ("f32", "causal", "needles", 2))
        self.assertEqual(row.sizes, {"B": 1, "H": 4, "G": 2, "N": 8, "M": 8, "d": 64})
        self.assertEqual(row.shape, "needles causal (1,4,2,8,8,64)")

    def test_median_and_spread(self):
        entries = one(samples=3)
        for entry, time in zip(entries, (100, 110, 140)):
            entry["real_time"] = time
        row = Row(entries[0]["name"].split("/iterations")[0], entries)
        self.assertAlmostEqual(row.time, 0.11)
        self.assertAlmostEqual(row.spread, 20 / 110)

    def test_memory_may_be_zero_or_absent(self):
        self.assertEqual(results_of(one(memory=0)).rows[0].memory, 0)
        entries = one()
        for entry in entries:
            del entry["memory"]
        self.assertIsNone(results_of(entries).rows[0].memory)

    def test_traffic_counts_each_array_once(self):
        row = results_of(one()).rows[0]
        self.assertEqual(row.traffic, 4 * (4 * 8 * 128 + 2 * 8 * 128))

    def test_failures_are_kept_once(self):
        found = results_of([*one(), made.failed(), made.failed()])
        self.assertEqual(len(found.failed), 1)
        self.assertEqual(len(found.rows), 1)


class Against(unittest.TestCase):
    def test_a_slower_machine_changes_no_share(self):
        new = results_of(one())
        slow = one(slower=1.5)
        for entry in slow:  # the machine's limit sank with it
            entry["peak"] /= 1.5
            entry["peak_share"] *= 1.5
        found = against.Comparison(new, results_of(slow))
        change = found.changes[0]
        self.assertAlmostEqual(change.time, 1 / 1.5, 2)
        self.assertAlmostEqual(change.share, 1, 2)
        self.assertTrue(change.time_apart)
        self.assertEqual((change.verdict, found.marked()), ("", []))

    def test_marked_only_outside_both_spreads(self):
        new, old = one(), one(slower=1.4)
        found = against.Comparison(results_of(new), results_of(old))
        self.assertEqual([change.verdict for change in found.marked()], ["better"])
        old[0]["real_time"], old[0]["peak_share"] = new[1]["real_time"], new[1]["peak_share"]
        self.assertEqual(against.Comparison(results_of(new), results_of(old)).marked(), [])

    def test_one_sample_proves_nothing(self):
        found = against.Comparison(results_of(one(samples=1)), results_of(one(samples=1, slower=2)))
        self.assertEqual((found.changes[0].verdict, found.marked()), ("one sample", []))

    def test_largest_change_first_and_what_is_new(self):
        names = [f"top_k/{name}/f32/full/B:1/H:1/G:1/N:8/M:8/d:64/threads:1" for name in "abcd"]
        new = [e for name in names[:3] for e in one(name)]
        old = [e for name, slower in zip(names[1:], (1.2, 0.4, 1)) for e in one(name, slower=slower)]
        found = against.Comparison(results_of(new), results_of(old))
        self.assertEqual([c.new.name_in_family for c in found.marked()], ["c", "b"])
        self.assertEqual(
            ([n.split("/")[1] for n in found.added], [n.split("/")[1] for n in found.gone]), (["a"], ["d"])
        )

    def test_nothing_in_common(self):
        found = against.Comparison(results_of(one()), results_of([]))
        self.assertIn("No bench", found.summary()[0])

    def test_another_compiler_is_named(self):
        other = made.CONTEXT | {"compiler": "clang 14"}
        found = against.Comparison(results_of(one()), results_of(one(), other))
        self.assertEqual([line[0] for line in found.differences()], ["compiler"])


class Repository(unittest.TestCase):
    def test_opening_comment(self):
        found = methods.opening_comment(
            "// A title. A paper,\n// arXiv:1.\n//\n//   o_i = x\n//     y\n//\n// Exact.\n#pragma once\n// no\n"
        )
        self.assertEqual(
            found, [("words", "A title. A paper, arXiv:1."), ("equation", "  o_i = x\n    y"), ("words", "Exact.")]
        )

    def test_every_bench_has_its_header(self):
        own = methods.Repository()
        names = {
            n for text in own.files.values() for n in re.findall(r'add(?:<[^>]*>)?\(\s*"([a-z_]+/[a-z_0-9]+)"', text)
        }
        self.assertGreater(len(names), 30)
        for name in sorted(names):
            with self.subTest(name):
                self.assertTrue(own.about(name).paragraphs)
                if not name.startswith(("engine/", "dense/plain")):
                    self.assertTrue(own.about(name).row.get("cost"))

    def test_the_row_that_names_the_method(self):
        own = methods.Repository()
        self.assertIn("`sink_key_value`", own.about("sink/sink_key_value").row["method"])
        self.assertIn("`chunk_gated_delta`", own.about("linear/chunk_gated_delta_by_channel").row["method"])
        self.assertEqual(own.about("cache/decode").header, "fovea/dense/cached_attention.hpp")

    def test_without_sources(self):
        with tempfile.TemporaryDirectory() as folder:
            found = methods.Repository(pathlib.Path(folder)).about("top_k/top_k")
            self.assertEqual((found.header, found.paragraphs, found.row), (None, [], {}))


class Growth(unittest.TestCase):
    def test_tables(self):
        found = results_of(made.benches())
        heads, lines = tables.growth_columns(found)
        self.assertEqual([line[0] for line in lines][0], DENSE)
        hip = dict(zip(heads, next(line for line in lines if line[0] == "hierarchical/hip")))
        self.assertTrue(hip["efficiency length"].isdigit())
        self.assertTrue(1024 < float(hip["beats dense from"]) < 2048)
        self.assertGreater(float(hip["R² dense"]), 0.99)
        self.assertEqual(len(tables.memory_columns(found)[1]), len(lines))


@contextlib.contextmanager
def run(*arguments, pictures=False):
    """The text that report.py prints, and its page; pictures take seconds, so without them unless asked for."""
    start = drawing.start
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        folder = pathlib.Path(name)
        out, html = io.StringIO(), folder / "page.html"
        old, sys.argv = sys.argv, ["report.py", *map(str, arguments), "--html", str(html)]
        drawing.start = start if pictures else lambda: None
        try:
            with contextlib.redirect_stdout(out):
                report.main()
        finally:
            sys.argv, drawing.start = old, start
        yield out.getvalue(), html.read_text()


class Pages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = made.write(pathlib.Path(cls.temporary.name) / "new")
        cls.old = made.write(pathlib.Path(cls.temporary.name) / "old", with_failure=False, slower=1.3)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_everything(self):
        new = self.folder
        with run(
            new / "results.json", "--peers", new / "peers.jsonl",
            "--recall", new / "recall.json", "--maps", new / "maps",
            "--against", self.old, "--failed", "a/b: ended with status 9", "--note", "left out <x>", pictures=True,
        ) as (text, html):  # fmt: skip
            for words in (
                "Failed",
                "ended with status 9",
                "wrong result: relative error &lt;0.5&gt;",
                "left out &lt;x&gt;",
            ):
                self.assertIn(words, html)
            self.assertIn("Against an earlier run", text)
            self.assertIn("Google Benchmark 1.7.1", html)
            self.assertIn('id="method-top_k-gathered"', html)
            self.assertIn("No attention map: no map of this one", html)
            if MATPLOTLIB:
                names = re.findall(r'data-picture="([^"]+)"', html)
                self.assertEqual(len(names), len(set(names)))
                for name in ("shares", "roofline", "recall", "threads", "memory", "time-against-length-full"):
                    self.assertIn(name, names)
                self.assertEqual(sum(name.startswith("pareto-") for name in names), 4)
                self.assertEqual(sum(name.startswith("map-") for name in names), 3)

    def test_only_results(self):
        with run(self.folder / "results.json") as (_, html):
            self.assertNotIn('id="recall"', html)
            self.assertNotIn("map-", html)
            self.assertNotIn("fastest peer</th>", html)

    def test_files_that_are_not_there_are_noted(self):
        absent = self.folder / "absent"
        with run(
            self.folder / "results.json", "--peers", absent, "--recall", absent, "--maps", absent, "--against", absent
        ) as (text, html):
            for what in ("Peers left out", "Recall left out", "Attention maps left out", "The earlier run left out"):
                self.assertIn(what, html)
                self.assertIn(what, text)

    def test_all_failed(self):
        path = self.folder / "failed.json"
        path.write_text(json.dumps({"context": made.CONTEXT, "benchmarks": [made.failed()]}))
        with run(path) as (_, html):
            self.assertIn("wrong result", html)
            self.assertIn('id="method-top_k-gathered"', html)

    def test_an_older_run_without_the_newer_counters(self):
        entries = copy.deepcopy(list(made.benches(growth=False)))
        for entry in entries:
            entry.pop("memory", None)
        context = {key: made.CONTEXT[key] for key in ("date", "num_cpus", "compiler", "flags", "instruction_set")}
        path = self.folder / "older.json"
        path.write_text(json.dumps({"context": context, "benchmarks": entries}))
        with run(path) as (_, html):
            self.assertNotIn("<th>memory</th>", html)

    def test_without_matplotlib(self):
        start, drawing.start = drawing.start, lambda: None
        try:
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                html = page(report.Report(Results([self.folder / "results.json"])))
        finally:
            drawing.start = start
        self.assertIn("no matplotlib", errors.getvalue())
        self.assertNotIn("<svg", html)
        self.assertIn("top_k/top_k_block", html)

    def test_cases_for_peers(self):
        old, sys.argv = sys.argv, ["report.py", str(self.folder / "results.json"), "--cases"]
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                report.main()
        finally:
            sys.argv = old
        cases = out.getvalue().splitlines()
        self.assertIn("full:1,8,8,2048,2048,64", cases)
        self.assertIn("window256:1,8,8,4096,4096,64", cases)


if __name__ == "__main__":
    unittest.main()
