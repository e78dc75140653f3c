"""Training on trees: every stretch goes through the model once, as leaves computed separately."""

from __future__ import annotations

import numpy as np
import pytest

from tests.algos.lm.architectures import config_of
from tests.algos.lm.scoring.shared import flattened, make_trees
from textenv.algos import grpo
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.scorer import Scorer, by_parts


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
