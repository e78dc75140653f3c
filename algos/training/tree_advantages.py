"""Advantages in a tree: Hou et al. 2025, "TreeRL" (arXiv 2506.11902), section 3.3.

A node is the stretch of tokens between two branch points. Its value V is the mean reward of the
leaves below it. The root is the prompt; all leaves of the group are below it. A node's tokens have
the advantage

    ((V - V_root) + (V - V_parent)) / sqrt(leaves below the node).

Deviations from the paper:
- The advantage here is half of that. In place of the rewards it takes the advantages that the
  leaves have as trajectories of their group, so that they are centred and scaled as the algorithm
  does it. A chain without branches then has the same advantage as without a tree: GRPO's own.
- The authors' code (THUDM/TreeRL) subtracts from each leaf's reward the mean of the other leaves,
  and does not divide by a standard deviation. Here ``scale_rewards`` decides that.
- In a group without branches the advantages stay exactly as they are.

Shapes: N trajectories, T tokens.
"""

from __future__ import annotations

import numpy as np

from textenv.algos.lm.scoring.batch import TokenBatch


def tree_advantages(batch: TokenBatch, advantages: np.ndarray) -> np.ndarray:
    """The advantage of each token (N, T), 0 where a row shares a token with its parent.

    Args:
        batch: a batch with trees.
        advantages: (N,), of the leaves.
    """
    assert batch.parent is not None and batch.start is not None
    parent, start = batch.parent, batch.start
    out = np.repeat(advantages[:, None], batch.token_ids.shape[1], axis=1)
    out[np.arange(out.shape[1]) < start[:, None]] = 0
    children: dict[int, list[int]] = {}
    for row in np.flatnonzero(parent >= 0).tolist():
        children.setdefault(int(parent[row]), []).append(row)
    below: dict[int, tuple[int, float]] = {}  # by row, of its subtree: leaves, sum of advantages

    def count(row: int) -> tuple[int, float]:
        if row not in below:
            pairs = [(1, float(advantages[row])), *map(count, children.get(row, ()))]
            below[row] = sum(n for n, _ in pairs), sum(total for _, total in pairs)
        return below[row]

    def spread(row: int, above: float, root: float) -> None:
        """Fill in a row and the rows below it, under a node of value ``above``."""
        ends = sorted({int(start[child]) for child in children.get(row, ())})
        left, total = count(row)
        for first, end in zip([int(start[row]), *ends], [*ends, out.shape[1]]):
            value = total / left
            out[row, first:end] = (2 * value - root - above) / 2 / np.sqrt(left)
            above = value
            for child in children.get(row, ()):
                if start[child] == end:
                    spread(child, value, root)
                    left, total = left - count(child)[0], total - count(child)[1]

    for group in np.unique(batch.group_ids[parent >= 0]):
        members = np.flatnonzero(batch.group_ids == group)
        root = float(advantages[members].mean())
        for row in members[parent[members] < 0].tolist():
            spread(row, root, root)
    return out
