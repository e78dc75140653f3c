"""Tianshou's collector on text environments.

The collected actions are taken again by hand with the same seeds. Observations may be text, but
actions may not, because a policy of Tianshou handles only numbers.
"""

import gymnasium as gym
import numpy as np
import pytest

from tests.wrappers.shared import TOKENS, bandit
from textenv.tokenizers import load_tokenizer
from textenv.wrappers import ByteObservation, ChoiceAction

torch = pytest.importorskip("torch")
pytest.importorskip("tianshou")

from tianshou.algorithm.algorithm_base import Policy  # noqa: E402
from tianshou.data import Batch, Collector, VectorReplayBuffer  # noqa: E402
from tianshou.env import DummyVectorEnv, SubprocVectorEnv  # noqa: E402


def guess():
    """An environment whose observations are text that grows at each turn."""
    numbers = [str(i) for i in range(1, 21)]
    env = gym.make("TextGen-v0", task="guess_number", task_kwargs={"max_turns": 3})
    return ChoiceAction(env, numbers)


def guess_bytes():
    return ByteObservation(guess(), 48)


def tokens():
    return gym.make("TextGenTokens-v0", **TOKENS)


class Scripted(Policy):
    """Chooses by a function of the observations."""

    def __init__(self, env, choose):
        super().__init__(action_space=env.action_space)
        self._choose = choose

    def forward(self, batch, state=None, **kwargs):
        return Batch(act=np.array([self._choose(obs) for obs in batch.obs]))


def at_random(env, seed=0):
    rng = np.random.default_rng(seed)
    return Scripted(env, lambda obs: rng.integers(env.action_space.n))


def collected(collector, lane, lanes):
    """What one environment gave, in order."""
    part = collector.buffer.maxsize // lanes
    held = collector.buffer.buffers[lane]
    return collector.buffer[np.arange(len(held)) + lane * part]


def plain(observation):
    if isinstance(observation, (dict, Batch)):
        return {key: plain(observation[key]) for key in ("ids", "mask")}
    return np.asarray(observation).tolist()


def assert_same(batch, env, seed):
    """Step the collected actions by hand."""
    observation, _ = env.reset(seed=seed)
    for i, action in enumerate(batch.act):
        assert plain(batch.obs[i]) == plain(observation), i
        observation, reward, terminated, truncated, info = env.step(action)
        assert plain(batch.obs_next[i]) == plain(observation), i
        assert (batch.rew[i], batch.terminated[i], batch.truncated[i]) == (
            (reward, terminated, truncated)
        ), i
        if "completion" in info:
            assert batch.info.completion[i] == info["completion"]
        if terminated or truncated:
            observation, _ = env.reset()


@pytest.mark.parametrize(
    ("make", "vector"),
    [(make, DummyVectorEnv) for make in (bandit, guess, guess_bytes, tokens)]
    + [(guess, SubprocVectorEnv)],
)
def test_a_collector_sees_what_stepping_by_hand_gives(make, vector):
    lanes = 3
    envs = vector([make] * lanes)
    collector = Collector(at_random(make()), envs, VectorReplayBuffer(300, lanes))
    collector.reset(gym_reset_kwargs={"seed": 4})  # the same for each of them
    stats = collector.collect(n_step=240)
    envs.close()
    assert stats.n_collected_steps == 240
    batches = [collected(collector, lane, lanes) for lane in range(lanes)]
    for batch in batches:
        assert len(batch) == 80
        assert_same(batch, make(), 4)
    ends = sum(int(batch.done.sum()) for batch in batches)
    assert ends == stats.n_collected_episodes > 30
    if make is not tokens:  # random tokens earn nothing
        assert sum(batch.rew.sum() for batch in batches) > 0


def test_the_collectors_returns_are_the_environments():
    """With a policy that knows the things that are white or red: two questions in four."""
    env = bandit()
    words = {}
    for i in range(4):
        observation, _ = env.reset(options={"example_id": i})
        words[observation.tobytes()] = i
    assert len(words) == 4
    policy = Scripted(env, lambda obs: words[obs.tobytes()] | 1)
    collector = Collector(policy, DummyVectorEnv([bandit] * 2), VectorReplayBuffer(400, 2))
    collector.reset(gym_reset_kwargs={"seed": 0})
    stats = collector.collect(n_episode=200)
    asked = [words[obs.tobytes()] for obs in collector.buffer[:].obs]
    assert sorted(set(asked)) == [0, 1, 2, 3]
    assert stats.returns.sum() == sum(i in (1, 3) for i in asked)
    assert (stats.lens == 1).all()


def test_an_answer_token_by_token():
    tokenizer = load_tokenizer("tiny-lm")
    (eos,) = tokenizer.eos_token_ids

    def right(obs):
        question, said = tokenizer.decode(obs.ids[obs.mask == 1].tolist()).split("=")
        answer = [*tokenizer.encode(str(sum(map(int, question.split("+"))))), eos]
        return answer[len(said)]

    collector = Collector(Scripted(tokens(), right), DummyVectorEnv([tokens] * 2))
    collector.reset(gym_reset_kwargs={"seed": 1})
    stats = collector.collect(n_episode=20)
    assert (stats.returns == 1).all() and set(stats.lens) <= {2, 3, 4}
    for lane in range(2):
        assert_same(collected(collector, lane, 2), tokens(), 1)
