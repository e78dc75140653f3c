"""What is read of a run's folder: columns and axes by hand, and folders that are broken."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests.algos.cli.page.conftest import episode, make_run
from textenv.algos.cli.page.run import MOST_ROLLOUTS, read_run
from textenv.errors import DataError, MissingFileError


def test_columns_and_axes(tmp_path):
    rows = [
        {"step": 2.0, "reward": 0.5, "step_time": 0.25, "num_tokens": 10.0},
        {"step": 4.0, "reward": 1.0, "step_time": 0.5, "num_tokens": 30.0, "eval/accuracy": 0.1},
    ]
    run = read_run(make_run(tmp_path / "run", [], rows))
    columns = run.columns()
    assert columns["axes"] == {"steps": [2.0, 4.0], "seconds": [0.25, 0.75], "tokens": [10.0, 30.0]}
    assert columns["metrics"]["reward"] == [0.5, 1.0]
    assert columns["metrics"]["eval/accuracy"] == [None, 0.1]


def test_the_evaluation_before_a_training_is_at_step_0(tmp_path):
    rows = [
        {"step": 3.0, "step_time": 0.25, "num_tokens": 10.0, "eval/accuracy": 0.5},
        {
            "loss": 1.0,
            "step_time": 0.5,
            "num_tokens": 30.0,
            "eval/examples": 4,
            "eval/best_step": 3,
        },
    ]
    figures = {"accuracy": 0.25, "accuracy_interval": [0, 1], "reward": 0.25, "examples": 9}
    summary = {"before": {"greedy": figures}}
    config = "[grpo]\neval_samples = 0\n"
    run = read_run(make_run(tmp_path / "run", [], rows, config, summary=summary))
    assert run.columns() == {
        "axes": {"steps": [0, 3.0, 2], "seconds": [0.0, 0.25, 0.75], "tokens": [0.0, 10.0, 30.0]},
        "metrics": {  # the best step is a counter, and no curve
            **{"step": [0.0, 3.0, None], "step_time": [None, 0.25, 0.5]},
            **{"num_tokens": [0.0, 10.0, 30.0], "eval/accuracy": [0.25, 0.5, None]},
            **{"loss": [None, None, 1.0], "eval/examples": [None, None, 4]},
        },
    }
    assert run.notes == ["the evaluation before the training had 9 examples, the later ones 4"]
    (tmp_path / "run" / "summary.json").unlink()
    assert read_run(tmp_path / "run").columns()["axes"]["steps"] == [3.0, 2]


def test_a_rollout_belongs_to_the_step_that_trained_on_it(tmp_path):
    """Two updates on each rollout: versions 0, 2 and 4 were trained on by steps 2, 4 and 6."""
    run = read_run(make_run(tmp_path / "run", [], [{"step": step} for step in (2, 4)]))
    assert [run.step_of(version) for version in (0, 2, 4, None)] == [2, 4, 5, None]
    assert read_run(make_run(tmp_path / "new", [])).step_of(0) == 1


def test_numbers_that_json_does_not_have(tmp_path):
    run = make_run(tmp_path / "run", [])
    lines = '{"kl": NaN, "loss": -Infinity, "a": 1e999, "b": true, "c": "x"}\n{"kl": 1}\n'
    (run / "metrics.jsonl").write_text(lines)
    read = read_run(run)
    assert read.steps == [1, 2]
    assert read.columns()["metrics"] == {
        "kl": ["NaN", 1], "loss": ["-Infinity", None], "a": ["Infinity", None],
    }  # fmt: skip


def test_a_step_that_is_no_number_is_counted_by_its_line(tmp_path):
    run = make_run(tmp_path / "run", [])
    (run / "metrics.jsonl").write_text('{"step": NaN}\n{"step": 1e999, "epoch": 7}\n{"step": 9}\n')
    assert read_run(run).columns()["axes"] == {"steps": [1, 7, 9]}


def test_a_run_that_is_half_written(tmp_path):
    run = make_run(tmp_path / "run", [[episode("2")]], [{"step": 1, "warnings": [{"what": "x"}]}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')
    (run / "summary.json").write_text('{"state": ')
    (run / "config.toml").write_text("algo = ")
    read = read_run(run)
    assert read.steps == [1] and read.summary == {} and read.config == {}
    assert read.warnings() == [{"name": "", "step": "", "what": "x", "remedy": ""}]
    assert [note.split(":")[0] for note in read.notes if "config" not in note] == [
        "metrics.jsonl", "summary.json is cut off, or not an object",
    ]  # fmt: skip
    assert any("config.toml" in note for note in read.notes)


def test_settings_have_dotted_names(tmp_path):
    run = make_run(tmp_path / "run", [], config='a = 1\n[grpo]\nb = [1, "x"]\nc = "t"\n')
    assert read_run(run).config == {"a": "1", "grpo.b": '[1, "x"]', "grpo.c": "t"}


def test_the_answers_of_evaluations(tmp_path):
    records = [{"example_id": 3, "completions": ["4"], "rewards": [float("nan")]}]
    run = make_run(tmp_path / "run", [], before={"records": records}, after={"records": [1]})
    assert read_run(run).answers == {
        "before": [{"example_id": 3, "completions": ["4"], "rewards": ["NaN"]}], "after": [],
    }  # fmt: skip


def test_of_many_rollouts_some_are_shown(tmp_path):
    run = make_run(tmp_path / "run", [])
    (run / "rollouts").mkdir()
    for number in range(200):
        (run / "rollouts" / f"rollout_{number}_20260101_000000.json").write_text("")
    read = read_run(run)
    numbers = [int(path.name.split("_")[1]) for path in read.rollouts]
    assert len(numbers) == MOST_ROLLOUTS and (numbers[0], numbers[-1]) == (0, 199)
    assert numbers == sorted(numbers) and max(b - a for a, b in pairwise(numbers)) <= 4
    assert read.notes == ["the page has 64 of the 200 saved rollouts, evenly spread"]


def test_one_rollout_is_a_run_of_its_own(tmp_path):
    make_run(tmp_path / "run", [[episode("2")]])
    (file,) = (tmp_path / "run" / "rollouts").iterdir()
    read = read_run(file)
    assert read.rollouts == [file] and read.rows == []


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere is not there"):
        read_run(Path("nowhere"))
    with pytest.raises(DataError, match="is not the folder of a run"):
        read_run(tmp_path)
    (tmp_path / "config.toml").write_text("")
    assert read_run(tmp_path).rows == []


def test_a_whole_number_that_no_float_holds(tmp_path):
    run = make_run(tmp_path / "run", [])
    (run / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "big": 10**400, "step_time": 10**400})
    )
    columns = read_run(run).columns()
    assert columns["metrics"]["big"] == ["Infinity"] and "seconds" not in columns["axes"]
