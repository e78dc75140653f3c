"""Rollouts made by hand, for the tests of offline training."""

import numpy as np

from textenv.algos import Buffer, Trajectory
from textenv.algos.episodes.trajectory import RolloutSource


def part(lane, start, rewards, end="", seed=None, episode=0, first_step=0, **more):
    """Steps of an environment whose observation counts up from ``start``."""
    steps = [np.array([start + i], np.float32) for i in range(len(rewards) + 1)]
    return Trajectory(
        observations=steps[:-1],
        actions=[np.int64(i % 2) for i in range(len(rewards))],
        rewards=[float(r) for r in rewards],
        infos=[{"step": start + i} for i in range(len(rewards))],
        final_observation=steps[-1],
        terminated=end == "terminated",
        truncated=end == "truncated",
        env_index=lane,
        seed=seed,
        episode=episode,
        first_step=first_step,
        **more,
    )


SPACES = RolloutSource(
    observation_space={
        "type": "Box",
        "dtype": "float32",
        "shape": [1],
        "low": "-inf",
        "high": "inf",
    },
    action_space={"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"},
    gamma=0.5,
    gae_lambda=1.0,
)


def three_rollouts():
    """Two environments; the whole episodes have returns 6, 1, 10, 10 and 3, in this order."""
    return [
        Buffer(
            [
                part(1, 100, [1], "terminated", seed=8),  # 1
                part(0, 0, [1, 2], seed=7),  # 6, begins
                part(1, 200, [4, 0], episode=1),  # 10, begins
            ],
            SPACES,
        ),
        Buffer(
            [
                part(0, 2, [3], "truncated", first_step=2),  # 6, ends
                part(0, 50, [10], "terminated", episode=1),  # 10
                part(1, 202, [5], episode=1, first_step=2),  # 10, goes on
                part(
                    0, 70, [7, 7], episode=2
                ),  # cut at the end, and what follows is another episode
            ],
            SPACES,
        ),
        Buffer(
            [
                part(1, 203, [1], "terminated", episode=1, first_step=3),  # 10, ends
                part(
                    0, 900, [50], "terminated", episode=5, first_step=3
                ),  # nobody knows how it began
                part(0, 950, [1, 1, 1], "terminated", episode=6),  # 3
            ],
            SPACES,
        ),
    ]


def starts(episodes):
    return [int(e.trajectory.observations[0][0]) for e in episodes]
