"""Several trackers of one run; one that fails is left out, and that is said once."""

import importlib.util
import json

import pytest

from textenv.algos.storage.trackers import tracking
from textenv.algos.storage.trackers.tracker import Run
from textenv.algos.storage.trackers.tracking import Tracking, default_trackers
from textenv.errors import ConfigError, MissingDependencyError


class Memory:
    """A tracker that remembers, and fails at the step that its class names."""

    fails_at = None

    def __init__(self, run):
        self.run, self.logged, self.tables, self.closed = run, [], [], None
        type(self).made = self

    def log(self, metrics, step):
        if step == self.fails_at:
            raise ConnectionError("the server\nis away")
        self.logged.append((step, metrics))

    def table(self, name, rows, step):
        self.tables.append((name, rows, step))

    def close(self, failed):
        self.closed = failed


class Failing(Memory):
    fails_at = 2


class Offline:
    def __init__(self, run):
        raise OSError("no network")


def open_all(tmp_path, *makers):
    said = []
    found = Tracking(makers, said.append)
    found.open(Run(tmp_path, {}))
    return found, said


def test_all_trackers_are_given_all_steps(tmp_path):
    class Other(Memory):
        pass

    found, said = open_all(tmp_path, Memory, Other)
    found.log({"reward": 0.5, "warnings": [{"name": "x"}], "flag": True, "count": 3}, 1)
    found.table("completions", [{"prompt": "1+1="}], 1)
    found.table("completions", [], 2)
    found.close(failed=True)
    for kind in (Memory, Other):
        assert kind.made.logged == [(1, {"reward": 0.5, "count": 3.0})]
        assert kind.made.tables == [("completions", [{"prompt": "1+1="}], 1)]
        assert kind.made.closed is True
    assert said == []


def test_a_tracker_that_fails_is_left_out_and_that_is_said_once(tmp_path):
    found, said = open_all(tmp_path, Memory, Failing, Offline)
    assert said == [
        "Offline: nothing is logged there (OSError: no network); the run's folder has all metrics"
    ]
    for step in (1, 2, 3):
        found.log({"reward": 0.5}, step)
    found.close()
    assert said[1:] == [
        "Failing: nothing from step 2 on is logged there (ConnectionError: the server is away); "
        "the run's folder has all metrics"
    ]
    assert [step for step, _ in Memory.made.logged] == [1, 2, 3]
    assert [step for step, _ in Failing.made.logged] == [1] and Failing.made.closed is None
    found.open(Run(tmp_path, {}, resumed=True))  # the training goes on: what failed stays out
    assert len(said) == 2 and Memory.made.run.resumed


def test_long_texts_are_cut_and_half_characters_replaced(tmp_path):
    found, _ = open_all(tmp_path, Memory)
    found.table("t", [{"text": "a" * 1000 + "b" * 1_000_000 + "c" * 1000, "half": "\ud800x"}], 1)
    row = Memory.made.tables[0][1][0]
    assert row["text"] == "a" * 1000 + " .. 1000000 characters .. " + "c" * 1000
    assert row["half"] == "?x"
    json.dumps(row).encode()


def test_an_unknown_name_and_a_missing_package_are_errors_before_the_training(monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown tracker 'tensorbord'; did you mean 'tensorbo"):
        Tracking(["tensorbord"], print)
    missing = {"absent": tracking._Known("to_absent:Absent", "absent_package")}
    monkeypatch.setattr(tracking, "TRACKERS", missing)
    with pytest.raises(MissingDependencyError, match=r"tracker absent needs absent_package.*\["):
        Tracking(["absent"], print)


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_is_the_default_where_it_is_installed(monkeypatch, installed):
    monkeypatch.setattr(tracking, "_is_installed", {"tensorboard": installed}.get)
    assert default_trackers() == (("tensorboard",) if installed else ())


def test_a_folder_of_a_package_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "absent_package" / "run-1").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("absent_package") is not None  # a namespace
    assert not tracking._is_installed("absent_package") and tracking._is_installed("pytest")


def test_settings_without_nesting(tmp_path):
    run = Run(tmp_path / "run", {"a": 1, "b": {"c": 0.5, "d": {"e": [1, "x"]}}, "f": True})
    assert run.name == "run"
    assert run.flat_config() == {"a": 1, "b.c": 0.5, "b.d.e": "[1, 'x']", "f": True}


def test_two_functions_of_one_name_are_two_trackers(tmp_path):
    made = [[], []]

    def maker(place):
        def make(run):
            made[place].append(Memory(run))
            return made[place][-1]

        return make

    found, said = open_all(tmp_path, maker(0), maker(1))
    found.log({"loss": 0.5}, 1)
    assert [[each.logged for each in some] for some in made] == [[[(1, {"loss": 0.5})]]] * 2
    assert said == []
