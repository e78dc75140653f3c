"""One evaluation for all agents."""

import gymnasium as gym

from tests.algos.compare.shared import cartpole
from textenv.algos.compare.evaluators import EpisodeEvaluator
from textenv.algos.evaluation import episode_returns


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
