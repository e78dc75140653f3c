"""Sides take turns, and one that fails is left out."""

import pytest

from tests.algos.bench.shared import two_sides
from textenv.algos.bench import plan, runs
from textenv.algos.bench.plan import OURS
from textenv.algos.bench.report import to_markdown
from textenv.algos.bench.results import Results


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(runs, "missing", lambda peer: "")


class Recorder(runs.Watcher):
    def __init__(self):
        self.seen, self.left = [], []

    def on_start(self, planned, number, total, left):
        self.left.append(left)

    def on_end(self, planned, number, total, measurement):
        self.seen.append((*planned.key, planned.round, number, total, measurement.error))


def test_sides_take_turns(monkeypatch, installed, tmp_path):
    monkeypatch.setattr(runs, "measure", lambda side, folder, seed: {"seconds": 2.0})
    rows, watcher = [two_sides(), two_sides(warm=True)], Recorder()
    results = Results(rows, seed=0)
    assert runs.estimate(rows, rounds=2) == 2 * 5 + 3 * 5
    runs.run_plan(results, rows, 2, tmp_path, watcher)
    assert [seen[:3] for seen in watcher.seen] == [
        *((0, name, n) for n in (1, 2) for name in (OURS, "trl")),
        *((1, name, n) for n in (0, 1, 2) for name in (OURS, "trl")),
    ]
    assert [seen[3:5] for seen in watcher.seen] == [(i, 10) for i in range(1, 11)]
    assert watcher.left[0] == 25 and watcher.left[1] == pytest.approx(24 - 1, abs=0.1)
    # The round that warms up is not among the results.
    assert [o.round for o in results.measurements(1, OURS)] == [1, 2]


def test_a_side_that_fails_is_left_out_and_the_rest_goes_on(monkeypatch, installed, tmp_path):
    def measure(side, folder, seed):
        if side.peer:
            raise runs.ProbeError("RuntimeError: no room")
        return {"seconds": 2.0}

    monkeypatch.setattr(runs, "measure", measure)
    rows, watcher = [two_sides()], Recorder()
    results = Results(rows, seed=0)
    runs.run_plan(results, rows, 3, tmp_path, watcher)
    assert [(name, number, total) for _, name, _, number, total, _ in watcher.seen] == [
        (OURS, 1, 6),
        ("trl", 2, 4),
        (OURS, 3, 4),
        (OURS, 4, 4),
    ]
    assert results.failed(0, "trl") == "RuntimeError: no room"
    text = to_markdown(results)
    assert (
        "- GRPO step, tiny, 2 prompts of 8 to 12 tokens, 4 x 4, trl: RuntimeError: no room" in text
    )


def test_a_peer_that_is_not_installed_is_reported(monkeypatch, tmp_path):
    found = plan.importlib.util.find_spec
    hidden = {"trl", "torch"}
    monkeypatch.setattr(
        plan.importlib.util, "find_spec", lambda name: None if name in hidden else found(name)
    )
    monkeypatch.setattr(runs, "measure", lambda side, folder, seed: {"seconds": 2.0})
    rows, watcher = [two_sides()], Recorder()
    results = Results(rows, seed=0)
    runs.run_plan(results, rows, 1, tmp_path, watcher)
    assert [name for _, name, *_ in watcher.seen] == [OURS]
    assert runs.estimate(rows, 1) == 1.0
    assert "| not installed: the extra textenv[trl] brings it, " in to_markdown(results)


def test_the_last_line_of_a_process_that_failed(tmp_path):
    with pytest.raises(runs.ProbeError, match=r"^KeyError: 'no-such-probe'$"):
        runs.run_probe("no-such-probe", {}, tmp_path)
