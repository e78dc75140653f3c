"""PPO on control that is stopped and goes on ends as a run that was not stopped, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, RecordEpisodeStatistics

from tests.algos.control_envs import Bandit, choices, quick
from tests.algos.resuming import Stopped, resumed, train_until, without_times
from textenv.algos import PPOTrainer, load_rollout
from textenv.algos.storage.checkpoints.store import checkpoints, newest, read_manifest
from textenv.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
SIZES = {"n_steps": 128, "batch_size": 64, "n_epochs": 2, "total_timesteps": 8 * 128}


def normalised():
    """An environment whose wrappers keep statistics."""
    return NormalizeReward(NormalizeObservation(RecordEpisodeStatistics(gym.make("Pendulum-v1"))))


def next_step():
    return SyncVectorEnv([normalised] * 4, autoreset_mode=AutoresetMode.NEXT_STEP)


def masked():
    """The mask rules out one of three actions."""
    return Bandit(gym.spaces.Discrete(3), mask=np.array([1, 0, 1], np.int8))


KINDS = {
    "CartPole": ("CartPole-v1", {}),
    "CartPole, all switches": (
        "CartPole-v1",
        {
            **dict.fromkeys(("normalize_observations", "normalize_rewards"), True),
            **dict.fromkeys(("anneal_learning_rate", "anneal_clip_range"), True),
            **{"num_envs": 4, "target_kl": 0.003, "clip_range_vf": 0.2, "max_steps": 29},
        },
    ),
    "Pendulum": ("Pendulum-v1", {"num_envs": 2}),
    "statistics in wrappers": (normalised, {}),
    "resets take a step": (next_step, {"num_envs": 4}),
    "several choices": (choices, {"num_envs": 2}),
    "masks": (masked, {}),
}


def make(kind, **more):
    env, settings = KINDS[kind]
    config = quick(**SIZES | settings, seed=3, save_steps=1)
    return PPOTrainer("mlp", env() if env is next_step else env, config, **more)


def result(trainer):
    """All that a training leaves: its weights, its optimizer's vectors, and its metrics."""
    adam = trainer._updater._optimizer.state()
    vectors = {name: value.tobytes() for name, value in adam.arrays.items()}
    history = without_times(trainer.history)
    return trainer.policy.fingerprint(), vectors, adam.values, history


@pytest.fixture(scope="module")
def whole():
    """``whole(kind)``: what a training leaves that was not stopped."""
    found = {}

    def get(kind):
        if kind not in found:
            trainer = make(kind)
            trainer.train()
            found[kind] = result(trainer)
        return found[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_resumed_ends_as_one_that_was_not_stopped(kind, whole, tmp_path):
    expected = whole(kind)
    updates = len(expected[3])
    for done in range(updates - 1):  # it is stopped after each of its updates
        train_until(partial(make, kind), tmp_path, 1)
        assert newest(tmp_path).name == f"step-{done + 1:08d}"
    trainer = resumed(partial(make, kind), tmp_path)
    assert result(trainer) == expected
    assert newest(tmp_path).name == f"step-{updates:08d}"


def test_an_update_that_was_begun_is_made_again(whole, tmp_path):
    stopped = make("CartPole", out=tmp_path)
    update, made = stopped._updater.update, []

    def fails(*args):
        found = update(*args)
        made.append(found)
        if len(made) == 4:
            raise Stopped
        return found

    stopped._updater.update = fails
    with pytest.raises(Stopped):
        stopped.train()
    stopped.checkpoints.wait()
    assert newest(tmp_path).name == "step-00000003"
    assert result(resumed(partial(make, "CartPole"), tmp_path)) == whole("CartPole")


def test_stop_finishes_the_update_and_writes_a_checkpoint(whole, tmp_path):
    trainer = make("CartPole", out=tmp_path, on_step=lambda metrics, rollout: trainer.stop())
    trainer.train()
    assert len(trainer.history) == 1 and not trainer.has_ended
    assert trainer.checkpoints.last == newest(tmp_path) == tmp_path / "checkpoints/step-00000001"
    trainer._on_step = None
    trainer.train()  # it can go on in the same process, too
    assert trainer.has_ended and result(trainer) == whole("CartPole")


def test_exported_rollouts_are_those_of_a_run_that_was_not_stopped(tmp_path):
    def exporting(to, **more):
        return make("Pendulum", export_to=to, export_every=3, **more)

    exporting(tmp_path / "whole").train()
    here = partial(exporting, tmp_path / "stopped")
    train_until(here, tmp_path, 4)
    resumed(here, tmp_path)
    expected, found = (
        [load_rollout(path) for path in sorted(folder.iterdir())]
        for folder in (tmp_path / "whole", tmp_path / "stopped")
    )
    assert len(expected) == 3 and found == expected  # of updates 1, 4 and 7


def test_checkpoints_count_updates_and_the_last_two_stay(tmp_path):
    trainer = PPOTrainer("mlp", "CartPole-v1", quick(**SIZES, save_steps=3), out=tmp_path)
    trainer.train()
    names = [path.name for path in checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000006", "step-00000008"]
    manifest = read_manifest(newest(tmp_path))
    assert manifest.step == 8 and manifest.config["n_steps"] == 128
    assert manifest.config["algorithm"] == "ppo"


def test_a_finished_training_goes_on_with_another(tmp_path):
    first = make("CartPole", out=tmp_path)
    first.train()
    again = make("CartPole", out=tmp_path)
    again.resume(tmp_path)
    assert again.has_ended
    assert len(again.train()) == 16
    first.train()
    assert result(again) == result(first)


def test_a_longer_training_if_that_is_allowed(tmp_path):
    make("CartPole", out=tmp_path).train()
    config = quick(**SIZES | {"total_timesteps": 12 * 128}, seed=3, save_steps=5)
    longer = PPOTrainer("mlp", "CartPole-v1", config, out=tmp_path)
    with pytest.raises(ConfigError, match="total_timesteps was 1024 and is 1536"):
        longer.resume(tmp_path)
    longer.resume(tmp_path, allow_changed=["total_timesteps"])
    assert not longer.has_ended
    assert len(longer.train()) == 12


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    make("CartPole", out=tmp_path).train()
    config = quick(**SIZES, seed=3)
    with pytest.raises(ConfigError, match=r"of an environment of .*CartPole.*this one has .*Acro"):
        PPOTrainer("mlp", "Acrobot-v1", config).resume(tmp_path)
    with pytest.raises(ConfigError, match="num_envs was 1 and is 2"):
        PPOTrainer("mlp", "CartPole-v1", quick(**SIZES, seed=3, num_envs=2)).resume(tmp_path)


class Unlike(gym.Wrapper):
    """Each one that is made shows other numbers."""

    made = 0

    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))
        Unlike.made += 1
        shift = np.float32(0.01 * Unlike.made)
        self.shift = lambda: shift  # a plain value would be put back

    def step(self, action):
        observation, *others = super().step(action)
        return observation + self.shift(), *others


def test_an_environment_that_does_not_come_back_begins_new_episodes(tmp_path):
    seen = []

    def unlike(**more):
        return PPOTrainer("mlp", Unlike, quick(**SIZES, save_steps=1), **more)

    train_until(unlike, tmp_path, 2)
    again = unlike(out=tmp_path, on_step=lambda metrics, rollout: seen.append(rollout))
    with pytest.warns(UserWarning, match="cannot go on, and new ones begin: it shows array"):
        again.resume(tmp_path)
    again.train()
    assert len(again.history) == 8 and again.history[-1]["time/total_timesteps"] == 1024
    assert [rollout.num_transitions for rollout in seen] == [128] * 6
    assert seen[0].trajectories[0].first_step == 0


def test_a_run_that_is_killed_at_any_moment_ends_as_one_that_was_not(tmp_path):
    """It takes some seconds, since twenty processes begin."""
    command = [sys.executable, "-m", "tests.algos.trainers.killed_control", str(tmp_path), "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, killed = json.loads(done.stdout)
    assert len(whole["metrics"]) == 80
    assert killed == whole
