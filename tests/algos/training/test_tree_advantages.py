"""Advantages of nodes against a tree worked by hand, and against the definition for each token."""

from __future__ import annotations

import math

import numpy as np
import pytest

from textenv.algos import Trajectory, grpo
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.training.tree_advantages import tree_advantages


def grow(leaves, group_id=0):
    """Leaves (parent, branch_at, tokens, reward) of a group; every token is another."""
    group = []
    for parent, at, count, reward in leaves:
        shared = [] if parent is None else group[parent].token_ids[:at]
        tokens = shared + [1000 * len(group) + x for x in range(count - len(shared))]
        group.append(
            Trajectory(
                rewards=[float(reward)],
                group_id=group_id,
                prompt_ids=[1, 2],
                token_ids=tokens,
                token_mask=[1] * count,
                token_logprobs=[0.0] * count,
                parent=parent,
                branch_at=at,
            )
        )
    return group


def advantages_of(group):
    batch = make_batch(group)
    assert batch.order.tolist() == list(range(len(group)))
    return batch, tree_advantages(batch, batch.rewards.astype(np.float32))


def test_a_tree_worked_by_hand():
    r"""Two chains; the first branches at 2 and at 4, that branch at 5.

    chain 0: tokens 0-1 | 2-3 | 4-5   reward 1
      leaf 2 from 4: tokens 4 | 5     reward 0
        leaf 3 from 5: token 5        reward 1
      leaf 4 from 2: tokens 2-3       reward 0
    chain 1: tokens 0-2               reward 0
    V_root = 2/5. Below the node 0-1: four leaves, V 2/4; below 2-3: three, V 2/3;
    below token 4 of leaf 2: two, V 1/2; all others are leaves.
    """
    group = grow([(None, None, 6, 1), (None, None, 3, 0), (0, 4, 6, 0), (2, 5, 6, 1), (0, 2, 4, 0)])
    _, got = advantages_of(group)
    root, trunk, middle, low = 2 / 5, 2 / 4, 2 / 3, 1 / 2
    half = 0.5  # so that a chain has its own advantage
    first = half * ((trunk - root) + (trunk - root)) / math.sqrt(4)
    second = half * ((middle - root) + (middle - trunk)) / math.sqrt(3)
    last = half * ((1 - root) + (1 - middle))
    fork = half * ((low - root) + (low - middle)) / math.sqrt(2)
    expected = [
        [first, first, second, second, last, last],
        [0 - root] * 3,
        [0, 0, 0, 0, fork, half * ((0 - root) + (0 - low))],
        [0, 0, 0, 0, 0, half * ((1 - root) + (1 - low))],
        [0, 0, *[half * ((0 - root) + (0 - trunk))] * 2],
    ]
    for row, values in zip(got, expected):
        np.testing.assert_allclose(row[: len(values)], values, atol=1e-6)
    assert first == pytest.approx(0.05) and fork == pytest.approx(-0.0235702, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_any_tree_by_the_definition(seed):
    """Leaf by leaf: which leaves have a token, and which have the one before its node."""
    rng = np.random.default_rng(seed)
    leaves = []
    for i in range(12):
        if i < 3:
            leaves.append((None, None, int(rng.integers(2, 12)), rng.normal()))
        else:
            parent = int(rng.integers(i))
            at = int(rng.integers(0, leaves[parent][2]))
            leaves.append((parent, at, at + int(rng.integers(1, 9)), rng.normal()))
    group = grow(leaves)
    batch, got = advantages_of(group)
    rewards = [leaf[3] for leaf in leaves]

    def having(tokens):
        """The leaves that begin with these tokens: every token is another, so they share them."""
        return [i for i, t in enumerate(group) if t.token_ids[: len(tokens)] == tokens]

    value = lambda some: np.mean([rewards[i] for i in some])  # noqa: E731
    root = value(range(len(group)))
    for row, t in enumerate(group):
        for x in batch.mask[row].nonzero()[0].tolist():
            below = having(t.token_ids[: x + 1])
            begin = x  # of the node: the longest stretch that the same leaves have
            while begin and having(t.token_ids[:begin]) == below:
                begin -= 1
            above = value(having(t.token_ids[:begin])) if begin else root
            expected = (2 * value(below) - root - above) / 2 / math.sqrt(len(below))
            assert got[row, x] == pytest.approx(expected, abs=1e-5), (row, x)


def test_a_group_without_branches_keeps_its_advantages():
    """Beside a tree of another group: to the last bit, whatever they are."""
    chains = grow([(None, None, 4, r) for r in (1, 0, 0.5)], group_id=1)
    batch = make_batch([*grow([(None, None, 4, 1), (0, 2, 4, 0)]), *chains])
    own = np.random.default_rng(0).normal(size=5).astype(np.float32)
    got = tree_advantages(batch, own)
    assert (got[2:] == own[2:, None]).all()


def test_chains_beside_a_tree_have_grpos():
    """In one group with branches, a chain that none leaves has GRPO's own advantage."""
    group = grow([(None, None, 5, 1), (None, None, 3, 0), (0, 2, 5, 0)])
    batch = make_batch(group)
    own = grpo.compute_advantages(batch.rewards, batch.group_ids)
    got = tree_advantages(batch, own)
    np.testing.assert_allclose(got[1, :3], own[1], rtol=1e-12)
