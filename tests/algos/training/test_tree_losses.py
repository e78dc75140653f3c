"""All losses on trees: as chains without branches, and with them as leaves scored one by one."""

from __future__ import annotations

import copy
from dataclasses import replace

import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from textenv.algos import Buffer, GRPOConfig, Trainer, Trajectory, create_strategy, grpo
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.scorer import Scorer
from textenv.algos.strategies import Generation
from textenv.algos.training.tree_advantages import tree_advantages
from textenv.errors import ConfigError

LOSSES = list(grpo.LOSS_TYPES)
# Of each group's leaves: parent, what it shares, how many tokens it has.
GROUPS = [
    [(None, None, 7), (0, 3, 6), (0, 6, 7), (1, 5, 9), (None, None, 2)],
    [(None, None, 4), (0, 1, 2), (1, 1, 8), (None, None, 5)],
]
LONGEST = 11  # what dr_grpo divides by


@pytest.fixture
def leaves():
    rng = np.random.default_rng(0)
    made = []
    for group_id, tree in enumerate(GROUPS):
        prompt, group = rng.integers(2, 42, 4 + group_id).tolist(), []
        for i, (parent, at, count) in enumerate(tree):
            shared = 0 if parent is None else at
            above = group[parent] if shared else Trajectory(token_ids=[], token_logprobs=[])
            own = rng.integers(2, 42, count - shared).tolist()
            old = rng.normal(-3.7, 0.3, count - shared).tolist()
            group.append(
                Trajectory(
                    rewards=[float(i % 3 == 0)],
                    group_id=group_id,
                    prompt_ids=prompt,
                    token_ids=above.token_ids[:shared] + own,
                    token_mask=[1] * count,
                    token_logprobs=above.token_logprobs[:shared] + old,
                    temperature=1.0,
                    parent=parent,
                    branch_at=at,
                )
            )
        made += group
    return made


def trained(model, trajectories, loss_type):
    """The loss, and the weights after a step of plain SGD."""
    model = copy.deepcopy(model)

    def loss_fn(logprobs, old_logprobs, advantages, mask, batch_size=None):
        return grpo.policy_loss(
            *(logprobs, old_logprobs, advantages, mask),
            loss_type=loss_type,
            max_completion_length=LONGEST,
            batch_size=batch_size,
        )

    trainer = Trainer(
        model, grpo.compute_advantages, loss_fn, optim.SGD(0.1), Buffer(trajectories),
        max_grad_norm=0,
    )  # fmt: skip
    return trainer.train(), dict(tree_flatten(model.parameters()))


@pytest.mark.parametrize("loss_type", LOSSES)
def test_branches_that_share_nothing_are_chains(tiny, leaves, loss_type):
    chains = [replace(t, parent=None, branch_at=None) for t in leaves]
    apart = [replace(t, branch_at=None if t.parent is None else 0) for t in leaves]
    expected, weights = trained(tiny[0], chains, loss_type)
    metrics, moved = trained(tiny[0], apart, loss_type)
    assert metrics == expected and metrics["grad_norm"] > 0
    for name, value in weights.items():
        np.testing.assert_array_equal(moved[name], value)
    assert trained(tiny[0], leaves, loss_type)[0]["loss"] != expected["loss"]


def shares(loss_type, group):
    """By hand: what one token counts that each leaf of a group has of its own."""
    own = [count - (at or 0) for _, at, count in group]
    rows = sum(map(len, GROUPS))
    if loss_type == "grpo":  # its mean over these, then over all leaves
        return [1 / count / rows for count in own]
    if loss_type == "dr_grpo":
        return [1 / LONGEST / rows for _ in own]
    return [1 / sum(count - (at or 0) for tree in GROUPS for _, at, count in tree) for _ in own]


@pytest.mark.parametrize("loss_type", [name for name in LOSSES if name != "gspo"])
def test_branches_count_what_is_their_own(random_model, tiny_config, exact, leaves, loss_type):
    """In float64, each leaf alone: its whole text is scored, and its own tokens are summed."""
    mx = exact
    model = random_model(**tiny_config)
    model.update(tree_map(lambda w: w.astype(mx.float64), model.parameters()))
    batch = make_batch(leaves)
    assert batch.order.tolist() == list(range(9)) and batch.mask.sum() == 34
    outcomes = grpo.compute_advantages(batch.rewards, batch.group_ids)
    advantages = tree_advantages(batch, outcomes)

    def ours():
        logprobs = Scorer(model)(batch)[0]
        arrays = (batch.old_logprobs, advantages, batch.mask)
        arrays = [mx.array(a, dtype=mx.float64) for a in arrays]
        return grpo.policy_loss(
            logprobs, *arrays, loss_type=loss_type, max_completion_length=LONGEST
        )[0]

    def by_hand():
        total, row = mx.array(0, dtype=mx.float64), 0
        for tree in GROUPS:
            for (_, at, _), share in zip(tree, shares(loss_type, tree)):
                t = leaves[row]
                logits = model(mx.array([t.prompt_ids + t.token_ids[:-1]]))[0]
                logits = logits[len(t.prompt_ids) - 1 :]
                picked = logits[mx.arange(len(t.token_ids)), mx.array(t.token_ids)]
                scores = picked - mx.logsumexp(logits, axis=-1)
                for i in range(at or 0, len(t.token_ids)):
                    ratio = mx.exp(scores[i] - float(np.float32(t.token_logprobs[i])))
                    value = float(advantages[row, i])
                    bounded = mx.clip(ratio, 0.8, 1.2)
                    if loss_type == "cispo":
                        gain = mx.stop_gradient(mx.minimum(ratio, 1.2)) * value * scores[i]
                    else:
                        gain = mx.minimum(ratio * value, bounded * value)
                    total = total - share * gain
                row += 1
        return total

    (loss, gradient), (expected, theirs) = (nn.value_and_grad(model, f)() for f in (ours, by_hand))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    theirs = dict(tree_flatten(theirs))
    for name, value in tree_flatten(gradient):
        np.testing.assert_allclose(value, theirs[name], rtol=1e-8, atol=1e-11, err_msg=name)
        assert np.abs(np.array(value)).max() > 1e-6


TREES = ["tree", "tree:earliest=0.5", "segment_tree", "turn_tree"]


@pytest.mark.parametrize("part", TREES)
def test_one_ratio_a_completion_is_not_for_trees(part):
    settings = {"num_generations": 8, "strategy": (part, "pods:keep=4")}
    with pytest.raises(ConfigError, match=f"loss_type='gspo' has one ratio.*{part.split(':')[0]}"):
        GRPOConfig(loss_type="gspo", **settings)
    for loss_type in LOSSES[:-1]:
        GRPOConfig(loss_type=loss_type, **settings)
    GRPOConfig(loss_type="gspo", num_generations=8, strategy=("dapo", "tree:rounds=0"))


def test_what_has_trees():
    assert not Generation().has_trees
    has = {part: create_strategy("grpo", parts=[part]).generation.has_trees for part in TREES}
    assert all(has.values())
