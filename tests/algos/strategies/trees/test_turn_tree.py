"""Trees of many turns: episodes that go on from a turn of another, played again up to there."""

from __future__ import annotations

from functools import partial
from itertools import count

import gymnasium as gym
import numpy as np
import pytest

from tests.algos.shared import groups_of, make_policy
from textenv.algos import (
    RolloutCoordinator,
    RolloutRunner,
    Trainer,
    create_policy,
    create_strategy,
    grpo,
)
from textenv.errors import ConfigError
from textenv.spaces import UnicodeText

SETTINGS = {"max_tokens": 6, "temperature": 1.5, "seed": 1}


class Talk(gym.Env):
    """Four turns at most; an answer with a 7 in it ends the episode, and what is said pays."""

    steps = 0  # of all environments of this kind

    def __init__(self):
        self.observation_space = self.action_space = UnicodeText(1000)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.transcript = str(self.np_random.integers(10 ** int(self.np_random.integers(1, 9))))
        return self.transcript, {}

    def said(self, action):
        return f"{self.np_random.integers(10)}+{len(action)}="

    def step(self, action):
        Talk.steps += 1
        turn = self.said(action)
        self.transcript += action + turn
        return self.transcript, float(action > "a"), "7" in action, False, {"turn": turn}


class Fickle(Talk):
    """What it says follows from nothing that can be played again."""

    numbers = count()

    def said(self, action):
        return f"{next(self.numbers)}="


@pytest.fixture(scope="module", autouse=True)
def talks():
    gym.register("TreeTalk-v0", entry_point=Talk, max_episode_steps=4)
    gym.register("Fickle-v0", entry_point=Fickle, max_episode_steps=4)
    yield
    del gym.registry["TreeTalk-v0"], gym.registry["Fickle-v0"]


def collect(tiny, part, env="TreeTalk-v0", size=6, groups=3, **settings):
    policy = create_policy(*tiny, SETTINGS | settings)
    strategy = create_strategy("grpo", num_generations=size, parts=[part] if part else [])
    runner = RolloutRunner(gym.make(env), policy, strategy, size * groups * 4, seed=2)
    return runner.collect(), policy


PARTS = ["turn_tree:branches=2", "turn_tree:chains=2,rounds=2,branches=1", "turn_tree:branches=5"]


@pytest.mark.parametrize("part", PARTS)
def test_branches_share_turns(tiny, plain_logprobs, part):
    rollout, policy = collect(tiny, part)
    deep = 0
    for group in groups_of(rollout, 6):
        for i, t in enumerate(group):
            assert t.group_id == group[0].group_id and len(t) <= 4
            assert t.terminated == ("7" in t.actions[-1])
            assert len(t.rewards) == len(t.infos) == len(t.observations) == len(t.actions)
            expected = plain_logprobs(tiny[0], t.prompt_ids, t.token_ids, 1.5)
            mask = np.array(t.token_mask, bool)
            np.testing.assert_allclose(np.array(t.token_logprobs)[mask], expected[mask], atol=2e-4)
            if t.parent is None:
                continue
            theirs = group[t.parent]
            assert t.parent < i
            assert t.token_ids[: t.branch_at] == theirs.token_ids[: t.branch_at]
            if not t.branch_at:
                continue
            deep += 1
            # A turn of the policy begins there, after what the environment said.
            assert t.token_mask[t.branch_at] == 1 and t.token_mask[t.branch_at - 1] == 0
            shared = sum(b > a for a, b in zip(t.token_mask, t.token_mask[1 : t.branch_at + 1]))
            assert t.actions[:shared] == theirs.actions[:shared]
            assert t.observations[: shared + 1] == theirs.observations[: shared + 1]
            assert t.rewards[:shared] == theirs.rewards[:shared]
    assert deep > 3
    assert len(policy._generator._kept) == 0


@pytest.mark.parametrize("part", PARTS)
def test_no_turn_is_computed_again(tiny, part):
    rollout, policy = collect(tiny, part)
    generator = policy._generator
    own = [(t.token_mask[t.branch_at or 0 :], t) for t in rollout]
    assert generator.tokens_decoded == sum(sum(mask) for mask, _ in own)
    prompts = sum(len(ids) for ids in {t.group_id: t.prompt_ids for t in rollout}.values())
    told = sum(len(mask) - sum(mask) for mask, _ in own)
    turns = sum(len(t) for t in rollout)  # the last token of each may not have gone through
    # A branch's first answer follows what was said to its parent, which is fed once more.
    again = sum(
        t.branch_at - max(i for i in range(t.branch_at) if t.token_mask[i])
        for t in rollout
        if t.branch_at
    )
    anew = sum(len(t.prompt_ids) for t in rollout if t.branch_at == 0)
    assert generator.tokens_prefilled <= prompts + told + turns + again + anew


def test_chains_are_those_without_a_tree(tiny):
    plain, _ = collect(tiny, None)
    for part in ("turn_tree:rounds=0", "turn_tree:branches=2"):
        rollout, _ = collect(tiny, part)
        for a, b in zip(rollout, plain):
            if a.parent is None:
                assert (a.token_ids, a.actions, a.rewards) == (b.token_ids, b.actions, b.rewards)
                np.testing.assert_allclose(a.token_logprobs, b.token_logprobs, atol=1e-5)
        if "rounds" in part:
            assert all(t.parent is None for t in rollout)


def test_batches_make_no_difference(tiny):
    whole, _ = collect(tiny, "turn_tree:branches=2")
    small, _ = collect(tiny, "turn_tree:branches=2", batch_size=4)
    assert [(t.token_ids, t.branch_at) for t in small] == [
        (t.token_ids, t.branch_at) for t in whole
    ]


def test_an_environment_that_says_something_else(tiny):
    with pytest.raises(ConfigError, match="played again and the environment answered"):
        collect(tiny, "turn_tree:branches=2", env="Fickle-v0")


def test_a_built_in_task(tiny):
    """guess_number answers by its seed and the guesses."""
    policy = create_policy(*tiny, SETTINGS | {"max_tokens": 3})
    strategy = create_strategy("grpo", num_generations=6, parts=["turn_tree:branches=2"])
    env = gym.make("textenv:TextGen-v0", task="guess_number")
    rollout = RolloutRunner(env, policy, strategy, 6 * 2 * 6, seed=0).collect()
    assert sum(t.parent is not None and t.branch_at > 0 for t in rollout) >= 6


def make_game():
    return gym.make("textenv:TextGen-v0", task="guess_number")


def test_workers_make_the_same_tree(tiny_folder):
    rollouts = []
    for workers in (0, 2):
        strategy = create_strategy("grpo", num_generations=6, parts=["turn_tree:branches=2"])
        coordinator = RolloutCoordinator(
            make_game,
            partial(make_policy, tiny_folder, **SETTINGS | {"max_tokens": 3}),
            strategy,
            workers,
            max_steps=6 * 3 * 6,
        )
        try:
            rollouts.append([coordinator.collect() for _ in range(2)])
        finally:
            coordinator.close()
    assert rollouts[0] == rollouts[1] and len(rollouts[0][1]) == 18
    assert rollouts[0][0] != rollouts[0][1]
    for alone, shared in zip(*rollouts):
        assert alone.counts.metrics() == shared.counts.metrics()
        assert sum(t.parent is not None and t.branch_at > 0 for t in alone) >= 9


def test_training(fresh):
    rollout, _ = collect(fresh, "turn_tree:branches=2")
    trainer = Trainer(fresh[0], grpo.compute_advantages, grpo.policy_loss, buffer=rollout)
    metrics = trainer.train()
    assert metrics["updates"] == 1 and metrics["grad_norm"] > 0
    assert metrics["sampling/logprob_difference/max"] < 1e-3
