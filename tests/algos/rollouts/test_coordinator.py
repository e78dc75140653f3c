"""Rollouts of several processes: the same as of one, and nothing left behind."""

from __future__ import annotations

import os
import signal
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from tests.algos.rollouts.shared import (
    GROUPS_OF_4,
    children,
    length_or_death,
    make_control_policy,
    make_sums,
    process_of,
)
from tests.algos.shared import SUMS, make_env, make_policy, same_weights, weights_of
from textenv.algos import RolloutCoordinator, RolloutRunner
from textenv.algos.rollouts.workers.worker import RolloutItem, WorkerError
from textenv.algos.runtime import blas
from textenv.errors import ConfigError


class Talk(gym.Env):
    """Three turns; what it says in between follows from its own generator."""

    def __init__(self):
        from textenv.spaces import UnicodeText

        self.observation_space = self.action_space = UnicodeText(200)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.text = f"{self.np_random.integers(100)}+"
        return self.text, {}

    def step(self, action):
        said = f" {self.np_random.integers(10)}="
        self.text += action + said
        return self.text, float(len(action)), False, False, {"turn": said}


def make_talk():
    return gym.make(EnvSpec("Talk-v0", entry_point=Talk, max_episode_steps=3))


class Pendulum:
    """A factory that is an object."""

    def __call__(self):
        return gym.make_vec("Pendulum-v1", num_envs=2)


@pytest.fixture(scope="module")
def by_two(coordinate):
    """A coordinator with two workers, and the two rollouts that it has collected."""
    coordinator = coordinate(2)
    return coordinator, [coordinator.collect(), coordinator.collect()]


# --- the same rollout ---------------------------------------------------------------------------


def test_rollouts_are_the_same_whatever_the_number_of_workers(coordinate, by_two):
    _, rollouts = by_two
    for num_workers in (0, 1):
        coordinator = coordinate(num_workers)
        assert [coordinator.collect(), coordinator.collect()] == rollouts
        coordinator.close()
    first, second = rollouts
    assert len(first) == len(second) == 40  # at most 41, in whole groups
    groups = [t.group_id for t in [*first, *second]]
    assert groups == [group for group in range(20) for _ in range(4)]
    assert {t.prompt for t in first} == {t.prompt for t in second} == set(SUMS)
    assert len({tuple(t.token_ids) for t in first}) > 30  # noise differs from row to row
    assert first != second


def test_a_runner_plays_the_same_at_once(tiny_folder, by_two):
    """Not in items: the sums of other batches may differ in their last bits."""
    runner = RolloutRunner(make_sums(), make_policy(tiny_folder, top_p=0.9), GROUPS_OF_4, 41)
    for rollout in by_two[1]:
        for mine, theirs in zip(runner.collect(), rollout, strict=True):
            assert mine.token_ids == theirs.token_ids and mine.prompt == theirs.prompt
            np.testing.assert_allclose(mine.token_logprobs, theirs.token_logprobs, atol=1e-5)


def test_the_seed_decides(coordinate):
    one, other = coordinate(0, seed=0).collect(), coordinate(0, seed=1).collect()
    assert [t.token_ids for t in one] != [t.token_ids for t in other]


def test_rewards_and_policies_run_in_the_workers(coordinate, by_two):
    coordinator = coordinate(2, partial(make_env, process_of, SUMS))
    workers = {float(p.pid) for p in children()}
    seen = {t.rewards[0] for _ in range(5) for t in coordinator.collect()}
    assert len(seen) == 2 and seen < workers and os.getpid() not in seen
    assert coordinator.seconds["policy"] > 0 and coordinator.seconds["environment"] > 0


def test_many_turns(coordinate):
    rollouts = []
    for num_workers in (0, 2):
        coordinator = coordinate(num_workers, make_talk, max_steps=48)
        rollouts.append(coordinator.collect())
        coordinator.close()
    assert rollouts[0] == rollouts[1]
    assert [len(t) for t in rollouts[0]] == [3] * 16
    turns = [action for t in rollouts[0] for action in t.actions]
    assert len(set(turns)) > 40  # each turn has noise of its own


# --- weights ------------------------------------------------------------------------------------


def test_new_weights_reach_all_workers(coordinate, plain_logprobs):
    import mlx.core as mx
    from mlx.utils import tree_map

    coordinator = coordinate(2, partial(make_env, process_of, SUMS))
    model = coordinator.policy.model
    before = coordinator.collect()
    assert {t.policy_version for t in before} == {0}
    model.update(tree_map(lambda w: 0.7 * w, model.parameters()))
    coordinator.policy_version = 3
    mx.eval(model.parameters())
    by_process = {}
    for _ in range(5):
        for t in coordinator.collect():
            by_process[t.rewards[0]] = t
            assert t.policy_version == 3
    assert len(by_process) == 2
    old = make_policy(model.source, top_p=0.9).model
    for t in by_process.values():
        new = plain_logprobs(model, t.prompt_ids, t.token_ids, support=t.support)
        np.testing.assert_allclose(t.token_logprobs, new, atol=1e-4)
        was = plain_logprobs(old, t.prompt_ids, t.token_ids, support=t.support)
        assert np.abs(was - new).max() > 1e-2


def test_a_stale_version_is_refused(coordinate):
    coordinator = coordinate(1)
    pool = coordinator._workers._pool
    pool.set_weights(2, coordinator.policy.tensors())
    starts = coordinator.runner.plan()[:4]
    assert len(pool.run([RolloutItem(2, starts)])[0].trajectories) == 4
    with pytest.raises(WorkerError, match="version 1 came to a worker that has version 2"):
        pool.run([RolloutItem(1, starts)])


# --- the trainer --------------------------------------------------------------------------------


def train(folder, create_env=make_sums, **settings):
    from textenv.algos import GRPOConfig, GRPOTrainer

    defaults = {"max_steps": 3, "num_prompts": 6, "num_generations": 4, "max_completion_length": 6}
    defaults |= {"learning_rate": 1e-2, "warmup_steps": 0}
    config = GRPOConfig(**defaults | settings)
    rollouts = []
    trainer = GRPOTrainer(
        str(folder), create_env, config, on_step=lambda metrics, rollout: rollouts.append(rollout)
    )
    trainer.train()
    trainer.close()
    return trainer, rollouts


@pytest.mark.parametrize(
    "settings",
    [{}, {"lora_rank": 2, "beta": 0.1}, {"num_iterations": 2, "max_steps": 5}],
    ids=["all", "LoRA", "updates"],
)
def test_grpo_is_the_same_with_workers(tiny_folder, settings):
    (alone, plain), (by_two, parted) = (
        train(tiny_folder, num_workers=n, **settings) for n in (0, 2)
    )
    for number, (one, other) in enumerate(zip(plain, parted, strict=True)):
        assert {t.policy_version for t in other} == {number * settings.get("num_iterations", 1)}
        assert [t.token_ids for t in one] == [t.token_ids for t in other]
    assert by_two.history[-1]["grad_norm"] == pytest.approx(alone.history[-1]["grad_norm"], 1e-3)
    # The scorer knows the new weights alone: with old ones in a worker this would be large.
    assert all(m["sampling/logprob_difference/max"] < 1e-4 for m in by_two.history)
    assert [t.token_ids for t in parted[0]] != [t.token_ids for t in parted[1]]


def test_workers_sample_in_bfloat16_too(tiny_folder):
    try:
        blas.check_half()
    except ConfigError:
        pytest.skip("this machine has no products in bfloat16")
    (exact, _), (alone, plain), (by_two, parted) = (
        train(tiny_folder, num_workers=n, sampling_precision=precision)
        for n, precision in ((0, "float32"), (0, "bfloat16"), (2, "bfloat16"))
    )
    for one, other in zip(plain, parted, strict=True):
        assert [t.token_ids for t in one] == [t.token_ids for t in other]
    name = "sampling/logprob_difference/max"
    assert max(m[name] for m in exact.history) < 1e-4
    for trainer in (alone, by_two):
        assert all(1e-3 < m[name] < 0.3 for m in trainer.history)


def test_a_training_is_the_same_to_the_bit_if_workers_die(tiny_folder, tmp_path):
    """One is killed in a reward, during generation."""
    reward = partial(length_or_death, str(tmp_path / "flag"), signal.SIGKILL)
    disturbed, _ = train(tiny_folder, partial(make_env, reward, SUMS), num_workers=2)
    healthy, _ = train(tiny_folder, num_workers=2)
    assert disturbed.history[-1]["workers/restarts"] == 1
    assert "workers/restarts" not in healthy.history[-1]
    assert same_weights(weights_of(disturbed.model), weights_of(healthy.model))


def test_grpo_with_workers_needs_the_folder_of_its_model(fresh):
    from textenv.algos import GRPOConfig, GRPOTrainer

    with pytest.raises(ValueError, match="num_workers needs the model's name or folder"):
        GRPOTrainer(fresh[0], make_sums, GRPOConfig(num_workers=2), tokenizer=fresh[1])
    with pytest.raises(ValueError, match="num_workers"):
        GRPOConfig(num_workers=-1)


# --- control ------------------------------------------------------------------------------------


def test_control():
    def collect(num_workers, max_steps=120):
        coordinator = RolloutCoordinator(
            Pendulum(), make_control_policy, "ppo", num_workers, max_steps, seed=3
        )
        rollouts = [coordinator.collect()]
        weights = make_control_policy(seed=9).tensors()
        coordinator.policy.set_tensors(weights)
        coordinator.policy_version = 1
        rollouts.append(coordinator.collect())
        coordinator.close()
        return rollouts

    alone, one, two, again = collect(0), collect(1), collect(2), collect(2)
    assert alone == one and two == again
    new = make_control_policy(seed=9)
    for rollout, version in zip(two, (0, 1)):
        assert rollout.num_transitions == 120
        assert [t.env_index for t in rollout] == [0, 1, 2, 3]
        assert [len(t) for t in rollout] == [30] * 4
        assert {t.policy_version for t in rollout} == {version}
        # No two environments start alike, and no two workers draw the same noise.
        drawn = [t.unclipped_actions[0].item() for t in rollout]
        assert len(set(drawn)) == len({t.observations[0][0] for t in rollout}) == 4
    # An episode goes on where the rollout before cut it, and new weights play it.
    for before, after in zip(*two):
        np.testing.assert_array_equal(before.final_observation, after.observations[0])
        np.testing.assert_allclose(after.values, new.values(after.observations), atol=1e-6)
        assert after.last_value == pytest.approx(new.values([after.final_observation])[0], abs=1e-6)
    with pytest.raises(ValueError, match=r"max_steps=126 .*num_workers=2 x num_envs=2"):
        collect(2, 126)
