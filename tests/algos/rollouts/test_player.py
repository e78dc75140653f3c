"""Episodes of text that are played many at once."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.algos.shared import length
from textenv.algos import RolloutRunner, create_strategy
from textenv.algos.episodes.environments import as_dict_step
from textenv.algos.episodes.episode import PlayedTurn
from textenv.algos.episodes.policy_call import PolicyCall
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.rollouts.player import TextPlayer
from textenv.algos.strategies import Start
from textenv.errors import ConfigError
from textenv.spaces import UnicodeText
from textenv.wrappers import ChatHistory

GROUPS_OF_4 = create_strategy("grpo", num_generations=4)


SAID = ["?!", ".", ""]


REPLIES = {4: "abc", 9: "de", 12: "fgh"}  # by the length of the transcript


class Talk(gym.Env):
    """Three turns, ended by the time limit; or ended by an action with a stop in it."""

    def __init__(self):
        self.observation_space = self.action_space = UnicodeText(100)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn, self.transcript = 0, str(self.np_random.integers(1000, 10000))
        return self.transcript, {}

    def step(self, action):
        self.transcript += action + SAID[self.turn % 3]
        self.turn += 1
        return self.transcript, float(self.turn), "!" in action, False, {"turn": self.turn}


@pytest.fixture(scope="module", autouse=True)
def talk():
    gym.register("Talk-v0", entry_point=Talk, max_episode_steps=3)
    yield
    del gym.registry["Talk-v0"]


class Speaker:
    """A language model's records without one: a token is a character."""

    batched = True

    def __init__(self, stops=False, forgets=False):
        self.stops, self.forgets, self.calls = stops, forgets, []

    def __call__(self, observation, deterministic=False):
        self.calls.append(len(observation))
        replies = [REPLIES[len(o)] for o in observation]
        if self.stops:  # every second episode ends in the second turn
            replies = [r + "!" * (i % 2 and r == "de") for i, r in enumerate(replies)]
        prompts = [[ord(c) for c in o] for o in observation]
        if self.forgets:
            prompts = [[*ids[:3], 0, *ids[4:]] if len(ids) > 4 else ids for ids in prompts]
        return replies, {
            "prompt_ids": prompts,
            "token_ids": [[ord(c) for c in r] for r in replies],
            "token_logprobs": [[-float(len(o))] * len(r) for o, r in zip(observation, replies)],
            "token_entropies": [[0.5] * len(r) for r in replies],
            "support": [[np.array([ord(c), 1]) for c in r] for r in replies],
            "temperature": [0.7] * len(replies),
            "truncated": [False] * len(replies),
            "logprob": [-float(len(o)) * len(r) for o, r in zip(observation, replies)],
        }


@pytest.mark.parametrize("vector", [False, "make_vec", "direct"])
def test_many_turns(vector):
    makers = [lambda: gym.make("Talk-v0")] * 4
    env = {
        False: lambda: gym.make("Talk-v0"),
        "make_vec": lambda: gym.make_vec("Talk-v0", num_envs=4, vectorization_mode="sync"),
        "direct": lambda: SyncVectorEnv(makers),
    }[vector]()
    policy = Speaker()
    rollout = RolloutRunner(env, policy, GROUPS_OF_4, max_steps=30).collect()
    assert len(rollout) == 8  # a group may take 4 x 3 transitions
    assert rollout.num_transitions == 24
    assert policy.calls == ([8] * 3 if not vector else [4] * 6)
    for t in rollout:
        assert (len(t), t.rewards, t.total_reward) == (3, [1, 2, 3], 6)
        assert (t.terminated, t.truncated) == (False, True)
        assert t.actions == ["abc", "de", "fgh"]
        assert t.final_observation == t.prompt + "abc?!" + "de." + "fgh"
        assert t.observations == [t.prompt, t.prompt + "abc?!", t.prompt + "abc?!de."]
        assert t.prompt_ids == [ord(c) for c in t.prompt]
        assert "".join(map(chr, t.token_ids)) == "abc?!de.fgh"
        mask = [0] * len(t.prompt_ids) + t.token_mask
        assert mask == [0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 1, 1, 1]
        assert t.token_logprobs == [-4] * 3 + [0] * 2 + [-9] * 2 + [0] + [-12] * 3
        assert t.token_entropies == [0.5 * m for m in t.token_mask]
        assert t.logprobs == [-12, -18, -36]
        assert [ids[0] for ids in t.support] == t.token_ids
    batch = make_batch(rollout.trajectories)
    assert batch.mask.sum(axis=1).tolist() == [8] * 8
    assert batch.support.shape == (8, 11, 2)
    assert batch.rewards.tolist() == [6] * 8


def test_episodes_of_different_lengths():
    policy = Speaker(stops=True)
    rollout = RolloutRunner(gym.make("Talk-v0"), policy, GROUPS_OF_4, max_steps=24).collect()
    assert policy.calls == [8, 8, 4]
    assert [len(t) for t in rollout] == [3, 2] * 4
    assert [(t.terminated, t.truncated) for t in rollout] == [(False, True), (True, False)] * 4
    for t in rollout.trajectories[1::2]:
        assert "".join(map(chr, t.token_ids)) == "abc?!de!"
        assert t.final_observation == t.prompt + "abc?!de!."


def test_tokens_that_are_encoded_again_are_refused():
    runner = RolloutRunner(gym.make("Talk-v0"), Speaker(forgets=True), GROUPS_OF_4, max_steps=12)
    with pytest.raises(ValueError, match="must go on from the token ids that it sampled"):
        runner.collect()


class Keeper(Speaker):
    """Knows whether it was told to forget."""

    forgotten = 0

    def forget(self):
        self.forgotten += 1


def make_player(policy, env="Talk-v0", turns=3):
    seconds = {"environment": 0.0, "policy": 0.0}
    return TextPlayer(as_dict_step(gym.make(env)), None, PolicyCall(policy), turns, seconds)


def starts(*seeds):
    return [Start(i, seed, None, noise=100 * i) for i, seed in enumerate(seeds)]


def test_an_episode_follows_from_its_start_alone():
    player = make_player(Keeper())
    player.policy_version = 7
    together = player.chains(starts(3, 4, 3))
    assert [t.seed for t in together] == [3, 4, 3] and [t.group_id for t in together] == [0, 1, 2]
    assert together[0].prompt == together[2].prompt != together[1].prompt
    assert {t.policy_version for t in together} == {7}
    alone = [make_player(Keeper()).chains([start])[0] for start in starts(3, 4, 3)]
    for one, other in zip(together, alone):
        assert (one.prompt, one.actions, one.rewards) == (
            other.prompt,
            other.actions,
            other.rewards,
        )
    assert player.policy.forgotten == 1


def test_what_is_kept_is_let_go_where_an_episode_fails():
    player = make_player(Keeper(forgets=True))
    with pytest.raises(ValueError, match="got other tokens"):
        player.chains(starts(1))
    assert player.policy.forgotten == 1


def test_one_group_has_one_prompt():
    player = make_player(Keeper())
    group = [start._replace(group_id=5) for start in starts(3, 4)]
    with pytest.raises(ConfigError, match="must draw from its np_random alone"):
        player.chains(group)


def test_episodes_that_go_on_too_long_are_refused():
    with pytest.raises(ConfigError, match=r"goes on after 2 step\(s\)"):
        make_player(Keeper(), turns=2).chains(starts(1))


def test_turns_of_others_are_played_again(clock):
    player = make_player(Keeper())
    (first,) = player.chains(starts(3))
    seen = [
        PlayedTurn(first.actions[i], {"logprob": first.logprobs[i]}, first.observations[i + 1])
        for i in range(2)
    ]
    asked = []

    def answer(lanes, on_answer):
        asked.append([len(lane.trajectory) for lane in lanes])
        return ["last"] * len(lanes), [{}] * len(lanes)

    # One goes on after two turns of the first, one after one, and one begins anew.
    played = player.together(starts(3, 3, 3), answer, [seen, seen[:1], []])
    assert asked == [[2, 1, 0], [2, 1], [2]]
    assert [t.actions for t in played] == [
        ["abc", "de", "last"],
        ["abc", "last", "last"],
        ["last"] * 3,
    ]
    assert played[0].observations == first.observations
    assert played[0].logprobs == first.logprobs[:2]
    with pytest.raises(ConfigError, match="was played again"):
        player.together(starts(4), answer, [seen])  # from another seed


def test_seconds_of_the_policy_and_of_the_environment(clock):
    class Slow(Keeper):
        def __call__(self, observation, deterministic=False):
            clock(3)
            return super().__call__(observation, deterministic)

    class Waits(Talk):
        def step(self, action):
            clock(0.5)
            return super().step(action)

    gym.register("Waits-v0", entry_point=Waits, max_episode_steps=3)
    try:
        player = make_player(Slow(), "Waits-v0")
        player.chains(starts(1, 2))
    finally:
        del gym.registry["Waits-v0"]
    assert player._seconds == {"policy": 3 * 3.0, "environment": 2 * 3 * 0.5}


def test_a_tree_needs_copies():
    class Bare(Talk):
        spec = None

    player = TextPlayer(as_dict_step(Bare()), None, PolicyCall(Keeper()), 3, {})
    with (
        pytest.warns(UserWarning, match="copies of Bare cannot be made"),
        pytest.raises(ConfigError, match="a tree needs copies"),
    ):
        player.together(starts(1, 2), None)


class OneDict(Talk):
    """Gives out one list at every step, and changes it in place."""

    def __init__(self):
        super().__init__()
        self.said = []

    def reset(self, *, seed=None, options=None):
        prompt, _ = super().reset(seed=seed)
        self.said.clear()
        return prompt, {"said": self.said}

    def step(self, action):
        self.said.append(self.turn)
        return *super().step(action)[:4], {"said": self.said}


@pytest.mark.parametrize("mode", [None, *AutoresetMode], ids=str)
def test_infos_do_not_change_afterwards(mode):
    gym.register("OneDict-v0", entry_point=OneDict, max_episode_steps=3)
    makers = [lambda: gym.make("OneDict-v0")] * 4
    env = makers[0]() if mode is None else SyncVectorEnv(makers, autoreset_mode=mode)
    del gym.registry["OneDict-v0"]
    runner = RolloutRunner(env, Speaker(), GROUPS_OF_4, max_steps=12)
    for trajectory in [*runner.collect(), *runner.collect()]:
        assert [info["said"] for info in trajectory.infos] == [[0], [0, 1], [0, 1, 2]]
        assert trajectory.reset_info == {"said": []}


@pytest.mark.parametrize("mode", AutoresetMode, ids=str)
def test_a_vector_of_conversations_gives_each_lane_its_own(mode):
    """A batch of conversations is a tuple of tuples of dicts."""
    seen = []

    def policy(observation):
        seen.extend(observation)
        return ["x"] * len(observation), {}

    policy.batched = True
    env = SyncVectorEnv(
        [lambda: ChatHistory(gym.make("textenv:TextGen-v0", prompts=["a", "b"], reward_fn=length))]
        * 2,
        autoreset_mode=mode,
    )
    rollout = RolloutRunner(env, policy, create_strategy("grpo", num_generations=2), 4).collect()
    starts = [({"role": "user", "content": prompt},) for prompt in "ab"]
    assert all(chat in starts for chat in seen) and len(seen) == 4
    for trajectory in rollout:
        (start,) = trajectory.observations
        assert start in starts
        assert trajectory.final_observation[1] == {"role": "assistant", "content": "x"}
