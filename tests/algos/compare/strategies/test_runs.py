"""textenv compare --strategies: equal tokens, where curves cross, runs that are not repeated."""

import numpy as np
import pytest

from textenv.algos.compare.strategies import runs as strategy_runs
from textenv.algos.compare.strategies.runs import StrategyArena, parse_entrant, train
from textenv.algos.episodes.environments import make_env
from textenv.errors import ConfigError

ARENA = StrategyArena(
    {}, tokens=200, eval_every=1, eval_examples=4, num_prompts=2, num_generations=4
)


@pytest.fixture
def trainers(monkeypatch):
    """All trainers that are made."""
    made = []

    class Recorded(strategy_runs.GRPOTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(strategy_runs, "GRPOTrainer", Recorded)
    return made


@pytest.mark.parametrize("strategy", ["plain", "dapo", "pods:keep=2", "num_iterations=2"])
def test_a_run_ends_at_the_step_that_spends_its_tokens(strategy, trainers):
    entrant = parse_entrant(strategy)
    config = entrant.config(ARENA, 1e-3, 3)
    run = train(ARENA, strategy, config, 300, ARENA.examples()[0], 1)
    (trainer,) = trainers
    generated = np.cumsum([m["strategy/tokens_generated"] for m in trainer.history])
    assert generated[-2] < 300 <= generated[-1] == run.totals["tokens_generated"]
    # Evaluated every token: a point for each step, and the one before all of them.
    assert [p.tokens for p in run.points] == [0, *generated]
    assert [p.steps for p in run.points] == [0, *(m["step"] for m in trainer.history)]
    seconds = np.cumsum([m["step_time"] for m in trainer.history])
    assert [p.seconds for p in run.points[1:]] == pytest.approx(seconds)
    rates = [m["learning_rate"] for m in trainer.history if "learning_rate" in m]
    assert len(rates) > 5 and set(np.round(rates[5:], 9)) == {1e-3}  # after the warm-up
    assert trainer.config.num_generations * 2 <= run.totals["trajectories"] / len(generated)


def test_evaluations_come_at_their_places():
    config = parse_entrant("plain").config(ARENA, 1e-3, 0)
    ids = ARENA.examples()[0]
    every = train(ARENA, "plain", config, 300, ids, 1).points
    places = [p.tokens for p in train(ARENA, "plain", config, 300, ids, 100).points]
    wanted = [0, *(next(p.tokens for p in every if p.tokens >= at) for at in (100, 200, 300))]
    assert places == list(dict.fromkeys(wanted))
    assert [p.tokens for p in train(ARENA, "plain", config, 300, ids, None).points] == places[-1:]


def test_the_learning_rate_is_chosen_on_other_examples():
    arena = StrategyArena({"task": "countdown"}, eval_examples=40)
    report, validation = arena.examples()
    task = make_env("TextGen-v0", {"task": "countdown", "split": "test"}).unwrapped.task
    keys = [{task.split_key(task.example(i)) for i in side} for side in (report, validation)]
    assert len(report) == len(validation) == 40 and not keys[0] & keys[1]
    assert arena.examples() == (report, validation)


def test_entrants():
    found = parse_entrant("greso+dapo:cap=4,at_cap=raise+num_iterations=2+epsilon_high=0.28")
    assert found.parts == ("greso", "dapo:cap=4,at_cap=raise")
    config = found.config(ARENA, 1e-3, 7)
    assert (config.num_iterations, config.epsilon_high, config.seed) == (2, 0.28, 7)
    assert (config.num_prompts, config.num_generations) == (2, 4)
    assert parse_entrant("num_generations=8").config(ARENA, 1e-3, 0).num_generations == 8
    assert "cap=4" in found.describe(ARENA) and "num_iterations=2" in found.describe(ARENA)


def test_settings_of_a_comparison_are_checked():
    with pytest.raises(ConfigError, match="named twice"):
        StrategyArena({}, learning_rates=(1e-3, 1e-3))
    with pytest.raises(ConfigError, match="learning_rates"):
        StrategyArena({}, learning_rates=())
