"""PPO on text: advantages of tokens, against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.algos import Trajectory
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.trainers.ppo_text_advantages import token_advantages, turn_rewards, whiten
from textenv.errors import DataError


def two_turns(**changes):
    fields = {
        "rewards": [1.0, 2.0],
        "prompt_ids": [5, 6],
        "token_ids": [12, 13, 20, 21, 14],
        "token_mask": [1, 1, 0, 0, 1],
        "token_logprobs": [-1.0, -1.0, 0.0, 0.0, -1.0],
    }
    return Trajectory(**fields | changes)


@pytest.mark.parametrize(
    ("gamma", "gae_lambda", "expected"),
    [
        # deltas 0 + 1 - .5, 1 + 1.5 - 1, 2 - 1.5 = .5, 1.5, .5
        (1.0, 0.5, [1.375, 1.75, 0, 0, 0.5]),
        # deltas 0 + .5 - .5, 1 + .75 - 1, 2 - 1.5 = 0, .75, .5
        (0.5, 1.0, [0.5, 1.0, 0, 0, 0.5]),
    ],
)
def test_advantages_step_over_what_the_environment_said(gamma, gae_lambda, expected):
    trajectories = [two_turns()]
    batch = make_batch(trajectories)
    rewards = turn_rewards(trajectories, batch)
    assert rewards.tolist() == [[0, 1, 0, 0, 2]]
    values = np.array([[0.5, 1.0, 99.0, np.nan, 1.5]])
    advantages = token_advantages(rewards, values, batch.mask, gamma, gae_lambda)
    np.testing.assert_allclose(advantages, [expected])


def test_a_turn_that_ends_without_a_word_of_the_environment():
    trajectories = [two_turns(token_mask=[1, 1, 1, 1, 1])]
    with pytest.raises(DataError, match=r"2 turn\(s\).*fall into 1"):
        turn_rewards(trajectories, make_batch(trajectories))


def test_whitening_is_over_the_tokens_of_the_mask():
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    advantages = np.array([[1.0, 2.0, 50.0], [3.0, np.nan, 0.0]])
    np.testing.assert_allclose(whiten(advantages, mask), [[-1, 0, 0], [1, 0, 0]], atol=1e-7)
    rounding = np.array([[0.1, 0.1 + 6e-8, 0.0], [0.1, 0.0, 0.0]])
    assert not whiten(rounding, mask).any()
