"""The metrics of runs and comparisons as columns; folders that are half-written or foreign."""

import json

import numpy as np
import pytest

from textenv.algos.cli.plot.curves import lines_of
from textenv.algos.cli.plot.series import newest_run, read_runs
from textenv.errors import DataError, MissingFileError


def lines(folder, *rows):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))
    return folder


def test_a_run_has_steps_seconds_and_tokens(tmp_path):
    rows = [
        {"step": 1.0, "step_time": 2.0, "num_tokens": 10.0, "time/total_timesteps": 4.0},
        {"step": 2.0, "step_time": 3.0, "num_tokens": 30.0, "time/total_timesteps": 8.0, "a": 1},
    ]
    [series] = read_runs([lines(tmp_path / "run", *map(json.dumps, rows))])
    assert series.columns["steps"].tolist() == [1, 2]  # of text: optimizer steps
    assert series.columns["seconds"].tolist() == [2, 5]
    assert series.columns["tokens"].tolist() == [10, 30]
    assert np.isnan(series.columns["a"][0]) and series.columns["a"][1] == 1
    for row in rows:
        del row["num_tokens"]
    [series] = read_runs([lines(tmp_path / "run", *map(json.dumps, rows))])
    assert series.columns["steps"].tolist() == [4, 8]  # of control: transitions


FIGURES = {"accuracy": 0.25, "accuracy_interval": [0.125, 0.5], "reward": 0.375, "examples": 8}
BEFORE = {"before": {"greedy": FIGURES, "sampled": {**FIGURES, "accuracy": 0.0625}}}
ROWS = [
    {"step": 1.0, "reward": 0.5, "step_time": 2.0, "num_tokens": 10.0},
    {"step": 2.0, "reward": 0.75, "step_time": 3.0, "num_tokens": 30.0, "eval/accuracy": 0.5,
     "eval/accuracy_low": 0.25, "eval/accuracy_high": 0.75, "eval/examples": 8.0},
]  # fmt: skip


def judged(folder, summary=BEFORE, samples=0, rows=ROWS):
    """A run that was evaluated before and while it trained."""
    lines(folder, *map(json.dumps, rows))
    (folder / "config.toml").write_text(f"[grpo]\neval_samples = {samples}\n")
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_the_evaluation_before_a_training_is_at_step_0(tmp_path):
    [series] = read_runs([judged(tmp_path / "run")])
    columns, none = series.columns, np.nan
    for name, values in {
        **{"steps": [0, 1, 2], "tokens": [0, 10, 30], "seconds": [0, 2, 5]},
        **{"eval/accuracy": [0.25, none, 0.5], "eval/accuracy_low": [0.125, none, 0.25]},
        **{"eval/accuracy_high": [0.5, none, 0.75], "reward": [none, 0.5, 0.75]},
        **{"step_time": [none, 2, 3], "eval/examples": [8, none, 8]},
    }.items():
        assert np.array_equal(columns[name], values, equal_nan=True), name
    assert "eval/reward" not in columns  # no evaluation during the training had it
    assert series.skipped == 0 and series.remark == "" and not any(series.lost.values())


def test_sampled_answers_are_continued_by_sampled_ones(tmp_path):
    [series] = read_runs([judged(tmp_path / "run", samples=4)])
    assert series.columns["eval/accuracy"][0] == 0.0625


@pytest.mark.parametrize(
    ("summary", "rows"),
    [
        ({"before": None}, ROWS),
        ({"before": {"greedy": 3}}, ROWS),
        ({"before": {"greedy": {"return": 9.5}}}, ROWS),  # of control
        ([], ROWS),
        (BEFORE, ROWS[:1]),  # no evaluation while it trained, so there is no curve
    ],
)
def test_a_run_without_an_evaluation_to_begin_with_begins_at_step_1(tmp_path, summary, rows):
    [series] = read_runs([judged(tmp_path / "run", summary, rows=rows)])
    assert series.columns["steps"].tolist() == [1, 2][: len(rows)]
    (tmp_path / "run" / "summary.json").write_text("{")
    assert len(read_runs([tmp_path / "run"])[0].columns["steps"]) == len(rows)


def test_another_number_of_examples_is_said(tmp_path):
    summary = {"before": {"greedy": {**FIGURES, "examples": 200}}}
    found = read_runs([judged(tmp_path / "run", summary)])
    said = "run: the evaluation before the training had 200 examples, the later ones 8"
    assert lines_of(found, "steps", "eval/accuracy")[1] == [said]
    assert lines_of(found, "steps", "reward")[1] == []


def test_what_is_half_written_is_left_out(tmp_path):
    folder = lines(tmp_path / "run", '{"step": 1, "a": true, "b": "x", "c": 1e999}', "[1]", '{"ste')
    (folder / "config.toml").write_text("seed = [")
    [series] = read_runs([folder])
    assert series.columns.keys() == {"step", "c", "steps"} and series.skipped == 2
    assert series.lost["c"] == 1 and series.settings == {}


@pytest.mark.parametrize(
    ("files", "error", "said"),
    [
        ({}, MissingFileError, "neither metrics.jsonl nor results.json"),
        ({"metrics.jsonl": ""}, DataError, "holds no metrics yet"),
        ({"metrics.jsonl": "\x00\xff"}, DataError, "holds no metrics yet"),
        ({"results.json": "{"}, DataError, "is no comparison"),
        ({"results.json": '{"format": "textenv.compare", "version": 9}'}, DataError, "version 9"),
        ({"results.json": '{"format": "x", "version": 1}'}, DataError, "format 'x'"),
        (
            {"results.json": '{"format": "textenv.compare", "version": 1, "runs": [{}]}'},
            DataError,
            "is no comparison",
        ),
        (
            {"results.json": '{"format": "textenv.compare", "version": 1, "runs": []}'},
            DataError,
            "no finished run",
        ),
    ],
)
def test_folders_that_are_no_runs(tmp_path, files, error, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=said):
        read_runs([tmp_path])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere is not a folder"):
        read_runs([tmp_path / "nowhere"])


def test_a_comparison_has_a_run_for_each_agent_and_seed(tmp_path):
    def points(scale):
        return [{"steps": s, "seconds": s / 10, "returns": [scale * s, 0.0]} for s in (0, 10)]

    runs = [
        {"agent": agent, "evaluations": points(scale)}
        for agent, scale in (("ppo", 1), ("sb3:PPO", 2))
    ]
    whole = {"format": "textenv.compare", "version": 1, "runs": runs}
    (tmp_path / "results.json").write_text(json.dumps(whole))
    first, second = read_runs([tmp_path])
    assert (first.name, second.name) == ("ppo", "sb3:PPO")
    assert first.columns["return"].tolist() == [0, 5] and second.columns["return"].tolist() == [
        0,
        10,
    ]
    assert first.columns["seconds"].tolist() == [0, 1] and first.settings != second.settings


def test_a_comparison_of_strategies_is_over_tokens(tmp_path):
    point = {"tokens": 7, "seconds": 1.5, "steps": 2, "sampled": 0.25, "greedy": 0.5}
    run = {"strategy": "plain", "seed": 0, "points": [point]}
    whole = {"format": "textenv.compare.strategies", "version": 1, "runs": [run]}
    (tmp_path / "results.json").write_text(json.dumps(whole))
    [series] = read_runs([tmp_path])
    assert {name: column.tolist() for name, column in series.columns.items()} == {
        "steps": [2],
        "seconds": [1.5],
        "tokens": [7],
        "eval/accuracy": [0.25],
        "eval/greedy": [0.5],
    }


def test_the_newest_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match="no run in runs/"):
        newest_run()
    import os

    for number, name in enumerate(("b", "a")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        path = lines(tmp_path / "runs" / name, '{"step": 1}') / "metrics.jsonl"
        os.utime(path, (number, number))
    assert newest_run().name == "a"
