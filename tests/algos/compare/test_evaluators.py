"""One evaluation for all agents."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.algos.compare.shared import cartpole
from tests.algos.control_envs import Bandit, Steps
from textenv.algos.compare.evaluators import EpisodeEvaluator
from textenv.algos.evaluation import measure
from textenv.algos.evaluation.measure import episode_returns
from textenv.errors import ConfigError


def test_evaluation_is_that_of_playing_one_episode_after_another():
    starts = [(50 + i, None) for i in range(6)]
    player = EpisodeEvaluator(lambda: gym.make("CartPole-v1"), starts)
    for policy in (cartpole(0), cartpole(1)):
        alone = episode_returns(policy, gym.make("CartPole-v1"), 6, seed=50)
        assert player(policy) == alone.tolist() == player(policy)
        assert len(set(alone)) > 1


def test_a_policy_that_takes_one_observation_gets_one():
    def policy(observation, deterministic=False, episode_start=None, infos=None):
        assert deterministic and observation.shape == (4,) and infos == {}
        starts.append(episode_start)
        return int(observation[2] > 0), {}

    starts = []
    returns = EpisodeEvaluator(lambda: gym.make("CartPole-v1"), [(3, None)])(policy)
    assert len(returns) == 1 and len(starts) == returns[0] and starts[0] is True
    assert not any(starts[1:])


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_a_policy_only_sees_masks_of_what_goes_on(batched, own):
    """Games of 2, 5 and 1 steps, in which nothing is allowed when they are over."""
    lengths = iter([2, 5, 1])

    def policy(observation, deterministic=False, infos=None):
        rows = infos if batched else [infos]
        masks = np.array([info["action_mask"] for info in rows])
        assert masks.sum(axis=1).tolist() == [1] * len(rows)
        asked.append(len(rows))
        actions = masks.argmax(axis=1)  # `Steps` refuses all but the allowed one
        return (actions if batched else actions[0]), {}

    asked = []
    policy.batched = batched
    player = EpisodeEvaluator(lambda: Steps(next(lengths), masked=True, own=own), [(1, None)] * 3)
    assert player(policy) == [2, 5, 1]
    assert asked == ([3] * 5 if batched else [1] * (2 + 5 + 1))


def test_actions_are_cut_by_their_space():
    """Batches of tuples and dicts, which look like one action for each environment."""
    space = spaces.Tuple([spaces.Discrete(9), spaces.Dict(a=spaces.Box(0, 9, (2,), np.float64))])

    class Taken(Bandit):
        def step(self, action):
            assert space.contains(action)
            return self.state, 100 * action[0] + action[1]["a"][1], True, False, {}

    def policy(observation, deterministic=False):
        return (np.array([3, 4]), {"a": np.array([[0.0, 1.0], [0.0, 2.0]])}), {}

    policy.batched = True
    assert EpisodeEvaluator(lambda: Taken(space), [(0, None)] * 2)(policy) == [301, 402]


def test_one_environment_for_all_episodes_is_refused():
    one = Steps(3)
    with pytest.raises(ConfigError, match="gave the same Steps more than once"):
        EpisodeEvaluator(lambda: one, [(0, None), (1, None)])


def test_an_episode_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(measure, "MOST_STEPS", 7)
    policy = lambda observation, deterministic=False: (0, {})  # noqa: E731
    lengths = iter([7, 8])
    assert EpisodeEvaluator(lambda: Steps(next(lengths)), [(0, None)])(policy) == [7]
    player = EpisodeEvaluator(lambda: Steps(next(lengths)), [(0, None)])
    with pytest.raises(ConfigError, match=r"Steps goes on after 7 steps.*TimeLimit"):
        player(policy)
