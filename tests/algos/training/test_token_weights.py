"""Weights and advantages of single tokens: the loss by hand, the update against plain SGD."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tests.algos.shared import same_weights, weights_of
from textenv.algos import Buffer, Trainer, grpo
from textenv.algos.lm.scoring.batch import BatchSize, make_batch
from textenv.algos.lm.scoring.scorer import Scorer
from textenv.errors import ConfigError, DataError

PROMPTS = ["12+30=", "a", "a", "the longest prompt = ", "12+30=", "12+30=", "b", "b", "a"]
MASK = np.array([[1, 1, 1], [1, 0, 0]], np.float32)
WEIGHTS = np.array([[1, 0.5, 0], [1, 7, 7]], np.float32)  # beyond the mask anything may stand


def on_policy(advantages, **settings):
    """On-policy, the loss of a token is minus its advantage."""
    zeros = np.zeros((2, 3), np.float32)
    advantages = np.array(advantages, np.float32)
    loss, _ = grpo.policy_loss(
        zeros, zeros, advantages, MASK, weights=WEIGHTS, max_completion_length=4, **settings
    )
    return loss.item()


@pytest.mark.parametrize(
    ("loss_type", "by_row", "by_token"),
    [
        # advantages 2 and -1: (-2 - 1 + 1) / (1 + .5 + 1)
        # advantages 2 4 8 and -1: (-2 - 2 + 1) / 2.5
        ("dapo", -0.8, -1.2),
        ("bnpo", -0.8, -1.2),
        # the mean of -3 / 1.5 and 1; of -4 / 1.5 and 1
        ("grpo", -0.5, -5 / 6),
        ("gspo", -0.5, -5 / 6),
        # over 2 sequences of 4: -2 / 8; -3 / 8
        ("dr_grpo", -0.25, -0.375),
    ],
)
def test_aggregation_by_hand(loss_type, by_row, by_token):
    assert on_policy([2, -1], loss_type=loss_type) == pytest.approx(by_row, rel=1e-6)
    own = [[2, 4, 8], [-1, 5, 5]]
    assert on_policy(own, loss_type=loss_type) == pytest.approx(by_token, rel=1e-6)


@pytest.mark.parametrize("loss_type", list(grpo.LOSS_TYPES))
def test_weights_of_one_change_nothing_and_of_zero_stop_the_gradient(loss_type):
    import mlx.core as mx

    rng = np.random.default_rng(2)
    logprobs, old = rng.normal(-1, 0.3, (2, 4, 6)).astype(np.float32)
    mask = (np.arange(6) < np.array([[6], [2], [4], [1]])).astype(np.float32)
    ref = old - 0.1
    settings = {
        "loss_type": loss_type,
        "beta": 0.2,
        "max_completion_length": 5,
        "ref_logprobs": mx.array(ref),
    }

    def run(weights):
        def loss_fn(x):
            rest = map(mx.array, (old, rng_advantages, mask))
            return grpo.policy_loss(x, *rest, weights=weights, **settings)[0]

        loss, gradient = mx.value_and_grad(loss_fn)(mx.array(logprobs))
        return loss.item(), np.array(gradient)

    rng_advantages = rng.normal(0, 1, 4).astype(np.float32)
    loss, gradient = run(None)
    again, same = run(mx.ones((4, 6)))
    assert again == loss
    np.testing.assert_array_equal(same, gradient)
    if loss_type == "gspo":  # its ratio is of the whole sequence
        return
    weights = mask * rng.integers(0, 2, mask.shape)
    weights[0] = [1, 0, 1, 1, 0, 0.25]
    gradient = run(mx.array(weights))[1]
    assert ((gradient != 0) == ((weights * mask) != 0)).sum() >= 20
    assert not gradient[weights == 0].any()
    nothing, gradient = run(mx.zeros((4, 6)))
    assert nothing == 0 and not gradient.any()


@pytest.mark.parametrize("loss_type", list(grpo.LOSS_TYPES))
def test_parts_sum_to_the_whole(loss_type):
    rng = np.random.default_rng(4)
    logprobs, old = rng.normal(-1, 0.3, (2, 5, 6)).astype(np.float32)
    mask = (np.arange(6) < rng.integers(1, 7, 5)[:, None]).astype(np.float32)
    weights = mask * rng.random(mask.shape).astype(np.float32)
    advantages = rng.normal(0, 1, mask.shape).astype(np.float32)
    common = {"loss_type": loss_type, "max_completion_length": 6}
    whole = grpo.policy_loss(logprobs, old, advantages, mask, weights=weights, **common)[0].item()
    size = BatchSize(5, weights.sum())
    parts = [
        grpo.policy_loss(
            *(logprobs[rows], old[rows], advantages[rows], mask[rows]),
            weights=weights[rows],
            batch_size=size,
            **common,
        )[0].item()
        for rows in (slice(0, 1), slice(1, 3), slice(3, 5))
    ]
    assert sum(parts) == pytest.approx(whole, rel=1e-5, abs=1e-7)


# --- the trainer --------------------------------------------------------------------------------


def train(model, trajectories, loss_fn=grpo.policy_loss, **settings):
    import mlx.optimizers as optim

    trainer = Trainer(
        *(model, grpo.compute_advantages, loss_fn, optim.SGD(0.1), Buffer(trajectories)),
        max_grad_norm=1e9,
        **settings,
    )
    return trainer.train()


def dress(trajectories):
    """Weights for some, advantages for others, both for one, neither for the rest."""
    rng = np.random.default_rng(0)
    for i in (0, 2, 5):
        trajectories[i].token_weights = rng.random(len(trajectories[i].token_ids)).tolist()
    for i in (2, 6):  # the group of 6 and 7 has no signal but this
        count = len(trajectories[i].token_ids)
        trajectories[i].token_advantages = rng.normal(0, 1, count).tolist()
    trajectories[4].token_weights = [0.0] * len(trajectories[4].token_ids)
    for t in trajectories[-3:-1]:
        t.rewards = [2.0]


def expected_step(model, trajectories, loss_type):
    """A step of SGD whose arrays a plain loop over the trajectories makes."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    batch = make_batch(trajectories)
    group = grpo.compute_advantages(batch.rewards, batch.group_ids)
    weights, advantages = np.zeros(batch.mask.shape), np.zeros(batch.mask.shape)
    for row, index in enumerate(batch.order):
        t = trajectories[index]
        for j in range(len(t.token_ids)):
            weights[row, j] = 1 if t.token_weights is None else t.token_weights[j]
            own = t.token_advantages
            advantages[row, j] = group[row] if own is None else own[j]
    scorer = Scorer(model)

    def loss_fn():
        arrays = [mx.array(a.astype(np.float32)) for a in (batch.old_logprobs, advantages, weights)]
        per_token = -mx.exp(scorer(batch)[0] - arrays[0]) * arrays[1] * arrays[2]
        per_token = mx.where(mx.array(batch.mask) > 0, per_token, 0.0)
        if loss_type == "dapo":
            return per_token.sum() / float(weights.sum())
        rows = weights.sum(axis=1)
        divisors = mx.array(np.where(rows > 0, rows, 1).astype(np.float32))
        return (per_token.sum(axis=1) / divisors).mean()

    loss, grads = nn.value_and_grad(model, loss_fn)()
    grads = {name: np.array(g) for name, g in tree_flatten(grads)}
    return loss.item(), {k: w - 0.1 * grads[k] for k, w in weights_of(model).items()}


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
@pytest.mark.parametrize("micro_batch_size", [None, 1, 4])
def test_the_update_against_plain_sgd(fresh, sample, loss_type, micro_batch_size):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, PROMPTS)
    dress(trajectories)
    before = weights_of(model)
    loss, expected = expected_step(model, trajectories, loss_type)
    metrics = train(
        model,
        trajectories,
        partial(grpo.policy_loss, loss_type=loss_type),
        micro_batch_size=micro_batch_size,
    )
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    moved = 0.0
    for name, value in weights_of(model).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)
        moved = max(moved, np.abs(value - before[name]).max())
    assert moved > 1e-4


def test_without_a_weight_nothing_moves(fresh, sample):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, PROMPTS)
    for t in trajectories:
        t.token_weights = [0.0] * len(t.token_ids)
    before = weights_of(model)
    assert train(model, trajectories) == {"updates": 0}
    assert same_weights(before, weights_of(model))


def test_rows_are_taken_with_what_is_theirs(tiny, sample):
    trajectories = sample(*tiny, PROMPTS)
    dress(trajectories)
    batch = make_batch(trajectories)
    small = batch.take(np.array([1, 4, 8]))
    width = small.token_ids.shape[1]
    np.testing.assert_array_equal(small.weights, batch.weights[[1, 4, 8], :width])
    np.testing.assert_array_equal(small.token_advantages, batch.token_advantages[[1, 4, 8], :width])
    assert make_batch(sample(*tiny, PROMPTS)).weights is None
    assert make_batch(sample(*tiny, PROMPTS)).token_advantages is None


def test_what_cannot_be_weighed(fresh, sample):
    model, tokenizer = fresh

    def own_loss(logprobs, old_logprobs, advantages, mask):
        return (logprobs * mask).sum(), {}

    for weights, loss_fn, error, words in [
        ([1.0] * 9, own_loss, ConfigError, "loss_fn takes no weights="),
        ([1.0] * 2, grpo.policy_loss, DataError, "token_weights has 2 items for 9 token_ids"),
        ([-1.0] * 9, grpo.policy_loss, DataError, "finite and at least 0"),
        ([float("nan")] * 9, grpo.policy_loss, DataError, "finite and at least 0"),
    ]:
        trajectories = sample(model, tokenizer, PROMPTS)
        chosen = next(t for t in trajectories if len(t.token_ids) == 9)
        chosen.token_weights = weights
        with pytest.raises(error, match=words):
            train(model, trajectories, loss_fn)
