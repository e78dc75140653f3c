"""Curves of runs: which become one, what their intervals are, and what is left out."""

import json
import math

import numpy as np
import pytest

from textenv.algos.cli.plot.curves import lines_of
from textenv.algos.cli.plot.series import read_runs
from textenv.errors import DataError


@pytest.fixture
def make(tmp_path):
    """Make the folder of a run with these rows of metrics and these settings."""

    def make(name, rows, settings=None):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if settings is not None:
            text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
            (folder / "config.toml").write_text(text)
        return folder

    return make


def rising(count, slope=1.0):
    return [{"step": float(i), "reward": slope * i} for i in range(1, count + 1)]


def test_runs_that_differ_in_their_seed_are_one_curve(make):
    folders = [
        make(f"r{seed}", rising(3, slope), {"lr": 0.1, "seed": seed, "out": f"r{seed}"})
        for seed, slope in enumerate((1.0, 3.0))
    ]
    [line], notes = lines_of(read_runs(folders), "steps", "reward")
    assert notes == [] and line.runs == 2 and line.label == "r0 (2 seeds)"
    assert line.x.tolist() == [1, 2, 3] and line.middle.tolist() == [2, 4, 6]
    # Of two values, drawn again with replacement, the percentiles are the values themselves.
    assert line.low.tolist() == [1, 2, 3] and line.high.tolist() == [3, 6, 9]


def test_other_settings_are_another_curve_and_name_it(make):
    one = make("one", rising(2), {"lr": 0.1, "seed": 0})
    other = make("other", rising(2, 2.0), {"lr": 0.2, "seed": 0})
    lines, _ = lines_of(read_runs([one, other]), "steps", "reward")
    assert [(line.label, line.middle.tolist()) for line in lines] == [
        ("lr 0.1", [1, 2]),
        ("lr 0.2", [2, 4]),
    ]
    third = make("third", rising(2), {"lr": 0.3, "seed": 0, "a": 1, "b": 2})
    lines, _ = lines_of(read_runs([one, third]), "steps", "reward")
    assert [line.label for line in lines] == ["one", "third"]  # three settings differ


def test_seeds_that_ended_at_other_places_share_the_shorter_stretch(make):
    settings = {"lr": 0.1}
    a = make("a", [{"step": x, "num_tokens": 10 * x, "reward": x} for x in (1, 2, 3)], settings)
    b = make("b", [{"step": x, "num_tokens": 15 * x, "reward": x} for x in (1, 2)], settings)
    [line], _ = lines_of(read_runs([a, b]), "tokens", "reward")
    assert line.x.tolist() == [15, 20, 30]
    expected = [(1.5 + 1) / 2, (2 + 4 / 3) / 2, (3 + 2) / 2]  # straight lines between points
    assert line.middle == pytest.approx(expected)


def test_seeds_without_a_common_stretch_are_a_curve_each(make):
    a = make("a", [{"step": 1, "reward": 1.0}, {"step": 2, "reward": 1.0}], {"lr": 0.1})
    b = make("b", [{"step": 5, "reward": 1.0}], {"lr": 0.1})
    lines, notes = lines_of(read_runs([a, b]), "steps", "reward")
    assert [line.label for line in lines] == ["a", "b"] and "share no stretch" in notes[0]


def test_an_evaluation_has_the_interval_that_was_measured(make):
    rows = [
        {"step": 1, "reward": 0.5},
        {
            "step": 2,
            "eval/accuracy": 0.5,
            "eval/accuracy_low": 0.4,
            "eval/accuracy_high": 0.7,
            "reward": 0.6,
        },
    ]
    [line], _ = lines_of(read_runs([make("a", rows)]), "steps", "eval/accuracy")
    assert [line.x.tolist(), line.middle.tolist()] == [[2], [0.5]]
    assert [line.low.tolist(), line.high.tolist()] == [[0.4], [0.7]]


def test_a_noisy_metric_is_a_mean_of_ten_with_students_interval(make):
    values = np.random.default_rng(0).normal(size=25)
    rows = [{"step": i, "reward": value} for i, value in enumerate(values)]
    [line], _ = lines_of(read_runs([make("a", rows)]), "steps", "reward")
    assert line.x.tolist() == [i + 4.5 for i in range(16)]
    for i in (0, 7, 15):
        window = values[i : i + 10]
        half = (line.high[i] - line.low[i]) / 2
        assert line.middle[i] == pytest.approx(window.mean())
        assert half + line.low[i] == pytest.approx(window.mean())
        t = half / (np.std(window, ddof=1) / math.sqrt(10))
        # Between -t and t lies 95% of Student's distribution with 9 degrees of freedom.
        x = np.linspace(-t, t, 20_001)
        scale = math.gamma(5) / (math.sqrt(9 * math.pi) * math.gamma(4.5))
        assert np.trapezoid(scale * (1 + x**2 / 9) ** -5, x) == pytest.approx(0.95, abs=1e-6)
    assert line.faint[1].tolist() == values.tolist()
    [few], _ = lines_of(read_runs([make("b", rows[:19])]), "steps", "reward")
    assert few.low is None and few.middle.tolist() == values[:19].tolist()


def test_what_is_not_finite_is_left_out_and_said(make):
    rows = [{"step": i, "reward": value} for i, value in enumerate([1.0, float("nan"), 3.0])]
    rows[2]["kl"] = float("inf")
    folder = make("a", rows)
    [line], notes = lines_of(read_runs([folder]), "steps", "reward")
    assert line.x.tolist() == [0, 2] and line.middle.tolist() == [1, 3]
    assert notes == ["a: 1 value of reward not finite, left out"]
    with pytest.raises(DataError, match="no run has a finite point of kl over steps"):
        lines_of(read_runs([folder]), "steps", "kl")


def test_a_run_without_the_metric_is_left_out(make):
    folders = [make("a", rising(2)), make("b", [{"step": 1, "loss": 2.0}])]
    lines, notes = lines_of(read_runs(folders), "steps", "reward")
    assert [line.label for line in lines] == ["a"]
    assert notes == ["b has no reward over steps, left out"]


def test_names_of_folders_cannot_change_a_terminal(make):
    [line], _ = lines_of(read_runs([make("a\x1b[31m", rising(2))]), "steps", "reward")
    assert line.label == r"a\x1b[31m"
