"""What the trainer makes of trees: advantages of nodes, groups that stay whole, whole gradients."""

from __future__ import annotations

import copy

import mlx.optimizers as optim
import numpy as np
import pytest

from textenv.algos import Buffer, Trainer, Trajectory, grpo
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.strategies import thin
from textenv.algos.training.microbatches import split
from textenv.algos.training.tree_advantages import tree_advantages


def make_group(rng, prompt, group_id, leaves=6, longest=9):
    group = []
    for i in range(leaves):
        parent = None if i < 2 else int(rng.integers(i))
        at = 0 if parent is None else int(rng.integers(len(group[parent].token_ids)))
        shared = [] if parent is None else group[parent].token_ids[:at]
        old = [] if parent is None else group[parent].token_logprobs[:at]
        own = int(rng.integers(1, longest))
        group.append(
            Trajectory(
                rewards=[float(rng.integers(2) if i > 1 else i)],
                group_id=group_id,
                prompt_ids=prompt,
                token_ids=shared + rng.integers(2, 42, own).tolist(),
                token_mask=[1] * (at + own),
                token_logprobs=old + rng.normal(-3, 0.3, own).tolist(),
                temperature=1.0,
                parent=parent,
                branch_at=None if parent is None else at,
            )
        )
    return group


@pytest.fixture
def groups():
    """Groups of two prompts in turn, some without information."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, 42, n).tolist() for n in (5, 9)]
    made = [make_group(rng, prompts[i % 2], i) for i in range(6)]
    for t in made[3]:
        t.rewards = [1.0]
    return made


def weights_after(model, rollout, **settings):
    model = copy.deepcopy(model)
    metrics = Trainer(
        model, grpo.compute_advantages, grpo.policy_loss, optim.SGD(learning_rate=0.1),
        buffer=Buffer(rollout), max_grad_norm=0, **settings,
    ).train()  # fmt: skip
    return metrics, _tensors(model)


def _tensors(model):
    from mlx.utils import tree_flatten

    return {name: np.array(value) for name, value in tree_flatten(model.parameters())}


def test_advantages_of_nodes_reach_the_loss(tiny, groups):
    """As if every token had brought its advantage along; those of a trajectory go first."""
    rollout = [t for group in groups for t in group]
    batch = make_batch(rollout)
    own = grpo.compute_advantages(batch.rewards, batch.group_ids)
    nodes = tree_advantages(batch, own)
    told = [copy.copy(t) for t in rollout]
    for row, number in enumerate(batch.order):
        told[number].token_advantages = nodes[row, : len(told[number].token_ids)].tolist()
    by_hand = weights_after(tiny[0], told, credit_fn=lambda batch, a: np.zeros(batch.mask.shape))
    by_tree = weights_after(tiny[0], rollout)
    assert by_tree[0]["grad_norm"] == pytest.approx(by_hand[0]["grad_norm"], rel=1e-5)
    for name, value in by_hand[1].items():
        np.testing.assert_allclose(by_tree[1][name], value, atol=1e-6)


@pytest.mark.parametrize("settings", [{"micro_batch_size": 4}, {"micro_batch_size": 1}])
def test_parts_have_the_gradient_of_the_whole(tiny, groups, settings):
    rollout = [t for group in groups for t in group]
    whole, parts = weights_after(tiny[0], rollout), weights_after(tiny[0], rollout, **settings)
    assert parts[0]["loss"] == pytest.approx(whole[0]["loss"], abs=1e-6)
    for name, value in whole[1].items():
        np.testing.assert_allclose(parts[1][name], value, atol=1e-5)


def test_minibatches_cover_every_token_once(tiny, groups):
    """Groups stay together but at the bounds; shared tokens count in one of the minibatches."""
    rollout = [t for group in groups for t in group]
    batch = make_batch(rollout)
    trainer = Trainer(tiny[0], grpo.compute_advantages, grpo.policy_loss, num_minibatches=4)
    parts = list(trainer._minibatches(batch))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(batch)))
    assert sum(batch.take(rows).mask.sum() for rows in parts) == batch.mask.sum()
    cut = [g for g in range(6) if sum((batch.group_ids[rows] == g).any() for rows in parts) > 1]
    assert len(cut) <= 3


@pytest.mark.parametrize("count, longest", [(1, None), (3, None), (2, 7), (40, 1)])
def test_parts_keep_groups_whole(groups, count, longest):
    batch = make_batch([t for group in groups for t in group])
    parts = split(batch, np.arange(len(batch)), count, longest)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(batch)))
    assert len(parts) >= min(count, 3)
    for group in range(6):
        assert sum((batch.group_ids[rows] == group).any() for rows in parts) == 1
    for rows in parts:
        assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_thinned_trees_stay_trees(tiny, plain_logprobs, seed):
    """What a selection leaves of a group is scored as it was, heirs of what is gone included."""
    from textenv.algos.lm.scoring.scorer import Scorer

    rng = np.random.default_rng(seed)
    group = make_group(rng, [5, 6, 7], 0, leaves=10)
    kept = thin(group, sorted(rng.choice(10, 6, replace=False).tolist()))
    batch = make_batch(kept)
    logprobs = np.array(Scorer(tiny[0])(batch)[0])
    distinct = {tuple(t.token_ids[: x + 1]) for t in kept for x in range(len(t.token_ids))}
    assert batch.mask.sum() >= len(distinct)
    for row, number in enumerate(batch.order):
        expected = plain_logprobs(tiny[0], kept[number].prompt_ids, kept[number].token_ids)
        own = batch.mask[row].nonzero()[0]
        np.testing.assert_allclose(logprobs[row, own], expected[own], atol=2e-4)
