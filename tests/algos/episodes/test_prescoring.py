"""Rewards that begin while other answers are on their way, and batches of rewards."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading

import gymnasium as gym
import pytest

from textenv.algos import RolloutRunner, create_policy, create_strategy
from textenv.algos.runtime import backend

backend.prepare()


from textenv.errors import RewardError  # noqa: E402

ALL = 20


def rewards_of(rollout):
    return [reward for trajectory in rollout for reward in trajectory.rewards]


def make_runner(reward_fn, policy, wrap=lambda env: env, **kwargs):
    env = gym.make("textenv:TextGen-v0", task="arithmetic", reward_fn=reward_fn, **kwargs)
    strategy = create_strategy("grpo", num_generations=4)
    return RolloutRunner(wrap(env), policy, strategy, max_steps=ALL)


class Numbers:
    """Answers with numbers, and tells of the first ones before it has the others."""

    batched = True

    def __init__(self, told=0, before_the_others=lambda: None):
        self.told, self.before_the_others = told, before_the_others

    def __call__(self, observation, deterministic=False, ended=None):
        answers = [f"{i}" for i in range(len(observation))]
        if ended is not None:
            for i in range(self.told):
                ended(i, answers[i], {})
        self.before_the_others()
        return answers, {"value": [0.0] * len(answers)}


def test_async_rewards_begin_while_other_answers_are_on_their_way():
    begun, three = [], threading.Event()

    async def judge(prompt, completion, example):
        begun.append(completion)
        if len(begun) == 3:
            three.set()
        return float(completion)

    def wait():
        assert three.wait(60)
        assert sorted(begun) == ["0", "1", "2"]

    rollout = make_runner(judge, Numbers(3, wait)).collect()
    assert rewards_of(rollout) == list(map(float, range(ALL)))
    assert sorted(begun, key=int) == list(map(str, range(ALL)))  # each of them once


class Half(gym.RewardWrapper, gym.utils.RecordConstructorArgs):
    def __init__(self, env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def reward(self, reward):
        return reward / 2


def halved(env):
    return Half(gym.wrappers.RecordEpisodeStatistics(env))


@pytest.mark.parametrize("told", [0, 7])
@pytest.mark.parametrize(("wrap", "share"), [(lambda env: env, 1), (halved, 0.5)])
def test_async_rewards_of_a_rollout_run_at_the_same_time(told, wrap, share):
    """Each returns when all of them have begun, and is cut off where that does not come.

    Wrappers that leave actions alone are no hindrance.
    """
    begun, every = [], []

    async def judge(prompt, completion, example):
        if not every:  # made in the loop that waits for it
            every.append(asyncio.Event())
        begun.append(completion)
        if len(begun) == ALL:
            every[0].set()
        await every[0].wait()
        return float(completion)

    runner = make_runner(judge, Numbers(told), wrap, reward_timeout=60)
    assert rewards_of(runner.collect()) == [share * i for i in range(ALL)]


def test_rewards_of_many_turns_are_begun_turn_by_turn():
    seen = []

    async def judge(prompt, completion, example):
        seen.append(prompt)
        return float(completion)

    env = gym.make("textenv:TextGen-v0", task="guess_number", reward_fn=judge)
    strategy = create_strategy("grpo", num_generations=4)
    rollout = RolloutRunner(env, Numbers(2), strategy, max_steps=4 * 6 * 2).collect()
    asked = [observation for trajectory in rollout for observation in trajectory.observations]
    assert len(asked) > len(rollout)
    assert sorted(seen) == sorted(asked)  # once a turn, for what came before it
    for trajectory in rollout:
        assert trajectory.rewards == [float(action) for action in trajectory.actions]


@pytest.mark.parametrize("process", [False, True])
def test_a_reward_that_takes_a_batch_is_called_once_a_turn(process, tmp_path, monkeypatch):
    (tmp_path / "rewards_of_batches.py").write_text(
        "def positions(prompts, completions, examples):\n"
        "    assert len(prompts) == len(completions) == len(examples)\n"
        "    return [{'number': float(c), 'of': float(len(completions))} for c in completions]\n"
        "positions.batch = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    positions = importlib.import_module("rewards_of_batches").positions
    runner = make_runner([positions, "exact_match"], Numbers(3), reward_process=process)
    rollout = runner.collect()
    runner.close()
    for i, trajectory in enumerate(rollout):
        components = trajectory.infos[0]["rewards"]
        assert (components["number"], components["of"]) == (i, ALL)
        assert components["exact_match"] in (0.0, 1.0)


def test_a_batch_of_many_turns_is_of_the_episodes_that_go_on():
    sizes = []

    def sized(prompts, completions, examples):
        sizes.append(len(completions))
        assert len({*map(len, (prompts, completions, examples))}) == 1
        return [float(completion) for completion in completions]

    sized.batch = True
    env = gym.make("textenv:TextGen-v0", task="guess_number", reward_fn=sized)
    strategy = create_strategy("grpo", num_generations=4)
    rollout = RolloutRunner(env, Numbers(), strategy, max_steps=4 * 6 * 5).collect()
    turns = max(map(len, rollout))
    assert sizes == [sum(len(t) > turn for t in rollout) for turn in range(turns)]
    for trajectory in rollout:
        assert trajectory.rewards == [float(action) for action in trajectory.actions]


def test_a_batch_of_the_wrong_length_is_named():
    def short(prompts, completions, examples):
        return [0.0]

    short.batch = True
    with pytest.raises(RewardError, match=f"must return a list of {ALL} rewards, got 1"):
        make_runner(short, Numbers()).collect()


def test_copies_share_a_process_of_rewards(tmp_path, monkeypatch):
    (tmp_path / "rewards_of_copies.py").write_text(
        "import os\ndef process_id(prompt, completion, example):\n    return float(os.getpid())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    process_id = importlib.import_module("rewards_of_copies").process_id
    runner = make_runner(process_id, Numbers(5), reward_process=True)
    found = set(rewards_of(runner.collect()))
    runner.close()
    assert len(found) == 1 and found != {float(os.getpid())}


class Shout(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    def __init__(self, env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def action(self, action):
        return f"{action}{action}"


class Stepping(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Changes actions in a way of its own."""

    def __init__(self, env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def step(self, action):
        return self.env.step(f"{action}{action}")


@pytest.mark.parametrize("wrap", [Shout, Stepping])
def test_nothing_is_begun_where_a_wrapper_may_change_actions(wrap):
    asked = []

    async def judge(prompt, completion, example):
        asked.append(completion)
        return 0.0

    make_runner(judge, Numbers(5), wrap).collect()
    assert sorted(asked) == sorted(f"{i}{i}" for i in range(ALL))


def test_a_policy_is_told_of_nothing_where_nothing_runs_elsewhere():
    class Told(Numbers):
        def __call__(self, observation, deterministic=False, ended=None):
            assert ended is None
            return super().__call__(observation)

    make_runner("correct", Told()).collect()


@pytest.mark.filterwarnings("ignore:the model's tokenizer does not know")
@pytest.mark.parametrize("parts", [[], ["turn_tree:branches=3"]], ids=["chains", "tree"])
def test_a_rollout_is_the_same_begun_early_or_not(tiny, parts):
    async def judge(prompt, completion, example):
        await asyncio.sleep(0.001 * (len(completion) % 3))
        return float(len(prompt) + len(completion))

    def plain(prompt, completion, example):
        return float(len(prompt) + len(completion))

    def collect(reward_fn):
        policy = create_policy(*tiny, {"max_tokens": 8, "seed": 3})
        settings = {"task": "guess_number", "task_kwargs": {"max_turns": 3}}
        env = gym.make("textenv:TextGen-v0", reward_fn=reward_fn, **settings)
        strategy = create_strategy("grpo", num_generations=8, parts=parts)
        return RolloutRunner(env, policy, strategy, max_steps=3 * 16).collect()

    for one, other in zip(collect(judge), collect(plain), strict=True):
        assert (one.actions, one.rewards) == (other.actions, other.rewards)
        assert (one.token_ids, one.token_logprobs) == (other.token_ids, other.token_logprobs)


def test_ctrl_c_in_a_reward_ends_the_rollout_and_the_next_is_whole(tiny):
    calls = []

    def broken(prompt, completion, example):
        calls.append(completion)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 0.0

    runner = make_runner(broken, create_policy(*tiny, {"max_tokens": 8}))
    with pytest.raises(KeyboardInterrupt):
        runner.collect()
    assert len(calls) == 3
    assert len(runner.collect()) == ALL


def test_an_async_reward_that_raises_is_an_error_of_the_rollout(tiny):
    async def broken(prompt, completion, example):
        raise ValueError("no judge")

    runner = make_runner(broken, create_policy(*tiny, {"max_tokens": 8}))
    with pytest.raises(RewardError, match="'broken' raised ValueError: no judge"):
        runner.collect()
