"""Spaces of control that several tests use."""

import numpy as np
from gymnasium import spaces

BOX = spaces.Box(-1, 1, (3,))


ACTIONS = {
    "discrete": spaces.Discrete(4),
    "shifted": spaces.Discrete(3, start=5),
    "multi": spaces.MultiDiscrete([2, 3, 4]),
    "box": spaces.Box(-0.5, np.array([0.5, 2.0], np.float32)),
    "matrix": spaces.Box(-1, 1, (2, 2)),
}


OBSERVATIONS = {
    "box": BOX,
    "image": spaces.Box(0, 255, (2, 3), np.uint8),
    "dict": spaces.Dict({"b": spaces.Box(-1, 1, (2,)), "a": spaces.Box(-1, 1, (1, 2))}),
}


def lively(policy, seed=0):
    """The same policy with weights of a size that matters everywhere."""
    rng = np.random.default_rng(seed)
    policy.set_weights(
        {k: rng.normal(size=v.shape).astype(np.float32) * 0.5 for k, v in policy.weights.items()}
    )
    return policy
