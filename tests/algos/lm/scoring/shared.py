"""Groups of trajectories that branch, made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from textenv.algos import Trajectory

# Of each group: the prompt's length, and of each leaf (parent, branch_at, tokens).
GROUPS = [
    (5, [(None, None, 9), (0, 4, 7), (0, 8, 9), (1, 6, 12), (3, 7, 8), (None, None, 3)]),
    (11, [(None, None, 2), (0, 1, 2), (0, 1, 9)]),
    (3, [(None, None, 6), (0, 2, 5), (1, 2, 8), (1, 1, 3)]),  # 2 from 0, and at the same place
    (7, [(None, None, 4)] * 3),
    (3, [(None, None, 5), (0, 0, 4), (1, 2, 4)]),  # shares nothing; a prompt of the same length
]


def make_trees(groups=GROUPS, seed=0, support=False):
    rng = np.random.default_rng(seed)
    trajectories = []
    for group_id, (length, leaves) in enumerate(groups):
        prompt = rng.integers(2, 42, length).tolist()
        group = []
        for parent, at, count in leaves:
            shared = group[parent] if parent is not None else None
            tokens = [] if shared is None else shared.token_ids[:at]
            old = [] if shared is None else shared.token_logprobs[:at]
            tokens = tokens + rng.integers(2, 42, count - len(tokens)).tolist()
            group.append(
                Trajectory(
                    rewards=[float(rng.integers(3))],
                    group_id=group_id,
                    prompt_ids=prompt,
                    token_ids=tokens,
                    token_mask=[1] * count,
                    token_logprobs=old + rng.normal(-3, 1, count - len(old)).tolist(),
                    temperature=0.8,
                    parent=parent,
                    branch_at=at,
                    completion_truncated=False,
                )
            )
        trajectories += group
    if support:
        for t in trajectories:
            t.support = []
            for x, token in enumerate(t.token_ids):  # by the tokens so far: of a node, one
                drawn = np.random.default_rng(t.token_ids[: x + 1]).integers(2, 42, 4)
                t.support.append(np.unique([token, *drawn]))
    return trajectories


def flattened(trajectories):
    """The leaves as trajectories that know nothing of each other."""
    return [replace(t, parent=None, branch_at=None) for t in trajectories]
