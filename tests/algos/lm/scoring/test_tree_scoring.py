"""Training on trees: every stretch goes through the model once, as leaves computed separately."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.algos.lm.architectures import config_of
from textenv.algos import Trajectory, grpo
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.scorer import Scorer, by_parts
from textenv.errors import DataError

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


def test_shared_tokens_count_once():
    batch = make_batch(make_trees())
    # All nodes of the first group by hand: 9 + (7 - 4) + (9 - 8) + (12 - 6) + (8 - 7) + 3.
    first = [i for i, row in enumerate(batch.order) if row < 6]
    assert batch.mask[first].sum() == 23
    assert batch.parent[first].tolist() == [-1, first[0], first[0], first[1], first[3], -1]
    assert batch.start[first].tolist() == [0, 4, 8, 6, 7, 0]
    # What branches where its parent does shares nothing with it, but with what that shares with.
    third = [i for i, row in enumerate(batch.order) if 9 <= row < 13]
    assert batch.parent[third].tolist() == [-1, third[0], third[0], third[0]]
    assert batch.start[third].tolist() == [0, 2, 2, 1]
    assert make_batch(flattened(make_trees())).parent is None


def test_truncated_leaves_are_masked_alone():
    """A node is trained on where any leaf below it is."""
    trajectories = make_trees(GROUPS[:1])
    trajectories[0].completion_truncated = trajectories[3].completion_truncated = True
    mask = make_batch(trajectories, mask_truncated_completions=True).mask
    # Of leaf 0, what leaf 2 goes on from; of leaf 3, what leaf 4 does.
    assert mask.sum(axis=1).tolist() == [8, 3, 1, 1, 1, 3]
    assert mask[3].nonzero()[0].tolist() == [6]


@pytest.mark.parametrize("parent, at", [(7, 4), (0, 5)])
def test_a_parent_that_is_another(parent, at):
    trajectories = make_trees(GROUPS[:1])
    trajectories[1] = replace(trajectories[1], parent=parent, branch_at=at)
    with pytest.raises(DataError, match="thin"):
        make_batch(trajectories)


@pytest.mark.parametrize("support", [False, True])
def test_logprobs_are_those_of_a_plain_forward(tiny, plain_logprobs, support):
    model = tiny[0]
    trajectories = make_trees(support=support)
    batch = make_batch(trajectories)
    logprobs, entropies = map(np.array, Scorer(model)(batch))
    _, separate = map(np.array, Scorer(model)(make_batch(flattened(trajectories))))
    for row, number in enumerate(batch.order):
        t = trajectories[number]
        expected = plain_logprobs(model, t.prompt_ids, t.token_ids, 0.8, t.support)
        count = len(t.token_ids)  # what it shares is scored in another row, and told here too
        np.testing.assert_allclose(logprobs[row, :count], expected, atol=2e-4)
        np.testing.assert_allclose(entropies[row, :count], separate[row, :count], atol=2e-4)


@pytest.mark.parametrize("seed", range(4))
def test_any_rows_of_a_batch(tiny, seed):
    """Where a parent is missing, what it shared is computed again, and still does not count."""
    batch = make_batch(make_trees())
    whole = np.array(Scorer(tiny[0])(batch)[0])
    rows = np.sort(np.random.default_rng(seed).permutation(len(batch))[: len(batch) // 2])
    part = batch.take(rows)
    scores = np.array(Scorer(tiny[0])(part)[0])
    width = part.mask.shape[1]
    assert (part.mask == batch.mask[rows, :width]).all()
    np.testing.assert_allclose(scores * part.mask, whole[rows, :width] * part.mask, atol=2e-4)
    parts = by_parts(lambda some: Scorer(tiny[0])(some)[0], batch, 4)
    np.testing.assert_allclose(parts * batch.mask, whole * batch.mask, atol=2e-4)


@pytest.mark.filterwarnings("ignore:models of type")
@pytest.mark.parametrize("name", ["gemma3_text", "gemma2"])  # the latter copies prompts
def test_other_architectures(random_model, plain_logprobs, name):
    model = random_model(**config_of(name))
    trajectories = make_trees()
    batch = make_batch(trajectories)
    logprobs = np.array(Scorer(model)(batch)[0])
    for row, number in enumerate(batch.order):
        t = trajectories[number]
        expected = plain_logprobs(model, t.prompt_ids, t.token_ids, 0.8)
        own = batch.mask[row].nonzero()[0]
        np.testing.assert_allclose(logprobs[row, own], expected[own], atol=5e-4)


def count_tokens(scorer):
    """Tokens that go through the model, padding included, and those of prompts."""
    seen, body = [], scorer._body

    def spy(ids, caches):
        seen.append(ids.size)
        return body(ids, caches)

    scorer._body = spy
    return seen


def test_a_prefix_goes_through_once(tiny):
    groups = [(6, [(None, None, 20), (0, 15, 20), (0, 16, 20), (0, 17, 20)])]
    trajectories = make_trees(groups)
    scorer = Scorer(tiny[0])
    seen = count_tokens(scorer)
    scorer(make_batch(trajectories))
    assert seen == [6, 19, 3 * 4]  # the prompt, the chain, what the branches predict from
    seen.clear()
    scorer(make_batch(flattened(trajectories)))
    assert seen == [6 + 4 * 19]  # both in one forward


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_is_that_of_the_leaves(random_model, tiny_config, exact, checkpointing):
    """In float64: a token's weight is shared out among the leaves that are computed separately."""
    import mlx.nn as nn
    from mlx.utils import tree_flatten, tree_map

    mx = exact
    model = random_model(**tiny_config)
    model.update(tree_map(lambda w: w.astype(mx.float64), model.parameters()))
    trajectories = make_trees()
    tree, leaves = make_batch(trajectories), make_batch(flattened(trajectories))
    assert (tree.order == leaves.order).all() and tree.mask.sum() < leaves.mask.sum()
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.5, 2, tree.mask.shape) * tree.mask
    advantages = rng.normal(0, 1, tree.mask.shape)

    # Of the leaves, a token counts 1 / (leaves that have it); all leaves' advantages are its own.
    nodes = {}
    for row, number in enumerate(tree.order):
        for column in tree.mask[row].nonzero()[0]:
            nodes[node(trajectories, number, column)] = (row, column)
    spread = [np.zeros_like(weights), np.zeros_like(advantages), np.zeros_like(tree.old_logprobs)]
    holders = {}
    for row, number in enumerate(leaves.order):
        for column in leaves.mask[row].nonzero()[0]:
            holders.setdefault(node(trajectories, number, column), []).append((row, column))
    assert holders.keys() == nodes.keys() and max(map(len, holders.values())) > 3
    for key, places in holders.items():
        for place in places:
            spread[0][place] = weights[nodes[key]] / len(places)
            spread[1][place] = advantages[nodes[key]]
            spread[2][place] = tree.old_logprobs[nodes[key]]

    def gradient(batch, old, advantages, weights):
        scorer = Scorer(model, checkpointing)
        arrays = [mx.array(a, dtype=mx.float64) for a in (old, advantages, batch.mask, weights)]

        def loss():
            logprobs = scorer(batch)[0]
            assert logprobs.dtype == mx.float64
            return grpo.policy_loss(logprobs, *arrays[:3], weights=arrays[3])[0]

        value, grads = nn.value_and_grad(model, loss)()
        return value.item(), {k: np.array(g) for k, g in tree_flatten(grads)}

    ours = gradient(tree, tree.old_logprobs, advantages, weights)
    plain = gradient(leaves, spread[2], spread[1], spread[0])
    assert ours[0] == pytest.approx(plain[0], rel=1e-9)
    for name, theirs in plain[1].items():
        np.testing.assert_allclose(ours[1][name], theirs, rtol=1e-9, atol=1e-11, err_msg=name)
        assert np.abs(theirs).max() > 1e-6


def node(trajectories, number, column):
    """Whose a token is: the group, and the tokens up to it as they were drawn."""
    t = trajectories[number]
    group = [i for i, other in enumerate(trajectories) if other.group_id == t.group_id]
    while t.parent is not None and column < t.branch_at:
        number = group[t.parent]
        t = trajectories[number]
    return number, int(column)
