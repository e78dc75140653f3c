"""Rollouts one step ahead of the training."""

import threading

import numpy as np
import pytest

from tests.algos.shared import make_env, same_weights, total, weights_of
from textenv.algos import GRPOConfig, GRPOTrainer
from textenv.algos.episodes.rollout import Counts, Rollout
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.trainers.ahead import AheadRunner


class Workers:
    """Workers whose rollouts say with which weights they were begun."""

    def __init__(self):
        self.weights, self.begun, self.may_end = 0, [], threading.Event()

    def begin(self, may_end=None):
        may_end = may_end or self.may_end
        weights = self.weights
        self.begun.append(weights)

        def collect():
            assert may_end.wait(10)
            played = [Trajectory(group_id=weights), Trajectory(group_id=-1)]
            return Rollout(played[:1], played=played, counts=Counts(rounds=weights))

        return collect

    def collect(self):
        now = threading.Event()
        now.set()
        return self.begin(now)()

    def close(self):
        self.may_end.set()


def test_each_rollout_is_begun_before_the_update_that_precedes_it():
    workers, left = Workers(), iter([True, True, False])
    ahead = AheadRunner(workers, lambda: next(left))
    workers.may_end.set()
    played = []
    for update in range(3):
        played.append(ahead.collect().trajectories[0].group_id)
        workers.weights = update + 1
    assert played == [0, 0, 1] and workers.begun == [0, 0, 1]  # never older than one update
    ahead.close()


def test_the_next_rollout_is_played_while_the_caller_goes_on():
    workers, left = Workers(), iter([True])
    ahead = AheadRunner(workers, lambda: next(left))
    ahead.collect()
    assert workers.begun == [0, 0] and not ahead._next.done()
    ahead.close()


def test_its_state_is_the_rollout_that_was_begun():
    workers, left = Workers(), iter([True, False])
    ahead = AheadRunner(workers, lambda: next(left))
    workers.may_end.set()
    workers.weights = 5
    assert ahead.state().value("rollout") is None
    ahead.collect()
    other = AheadRunner(Workers(), lambda: False)
    other.load_state(ahead.state())
    found, expected = other.collect(), ahead.collect()
    assert found == expected and found.played == expected.played
    assert found.counts == expected.counts == Counts(rounds=5)
    assert found.trajectories[0] is found.played[0]
    ahead.close()
    other.close()


@pytest.fixture
def make_trainer(tmp_path, fresh):
    from textenv.algos.lm.models.saving import save_model

    save_model(*fresh, tmp_path / "model")
    trainers = []

    def make(out=None, **settings):
        config = GRPOConfig(
            max_steps=4, num_prompts=2, num_generations=4, max_completion_length=6,
            learning_rate=1e-2, warmup_steps=0, lr_scheduler_type="constant", num_workers=1,
            rollouts_ahead=1, **settings,
        )  # fmt: skip
        on_step = lambda metrics, rollout: versions.append(  # noqa: E731
            (metrics["step"], {t.policy_version for t in rollout})
        )
        versions = []
        trainer = GRPOTrainer(str(tmp_path / "model"), _Env(), config, on_step=on_step, out=out)
        trainer.versions = versions
        trainers.append(trainer)
        return trainer

    yield make
    for trainer in trainers:
        trainer.close()


class _Env:
    """Makes an environment whose rewards differ; it can be sent to a worker."""

    def __call__(self):
        return make_env(total)


def test_a_training_is_one_step_behind_its_rollouts_and_goes_on_to_the_bit(make_trainer, tmp_path):
    whole = make_trainer(tmp_path / "whole")
    metrics = whole.train()
    assert whole.versions == [(1, {0}), (2, {0}), (3, {1}), (4, {2})]
    means = [step["sampling/importance_weight/mean"] for step in metrics]
    assert means[0] == pytest.approx(1, abs=1e-4)  # the first rollout is not stale
    assert max(abs(mean - 1) for mean in means[1:]) > 1e-3
    stopped = make_trainer(tmp_path / "stopped", save_steps=1)
    on_step = stopped._on_step

    def stop(metrics, rollout):
        on_step(metrics, rollout)
        if metrics["step"] == 2:
            stopped.stop()

    stopped._on_step = stop
    stopped.train()
    assert len(stopped.history) == 2
    resumed = make_trainer(tmp_path / "stopped", save_steps=1)
    resumed.resume(tmp_path / "stopped")
    resumed.train()
    assert same_weights(weights_of(whole.model), weights_of(resumed.model))
    for one, other in zip(metrics, resumed.history, strict=True):
        names = [name for name in one if "time" not in name and "per_second" not in name]
        np.testing.assert_equal([other[name] for name in names], [one[name] for name in names])
