"""One update from a buffer: against a plain loss and plain SGD, and with nothing to do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.algos.shared import same_weights, weights_of
from textenv.algos import Buffer, Trainer, grpo, gspo
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.scorer import Scorer

PROMPTS = ["12+30=", "a", "a", "the longest prompt = ", "12+30=", "12+30=", "b", "b", "a"]


def make_trainer(model, trajectories, **settings):
    import mlx.optimizers as optim

    arguments = {
        "advantage_fn": grpo.compute_advantages,
        "loss_fn": grpo.policy_loss,
        "optimizer": optim.SGD(0.1),
        "buffer": Buffer(trajectories),
    }
    return Trainer(model, **arguments | settings)


def test_the_ratio_of_the_first_update_is_one(fresh, sample, sampling):
    model, tokenizer = fresh
    metrics = make_trainer(model, sample(model, tokenizer, PROMPTS, **sampling)).train()
    assert metrics["updates"] == 1
    assert metrics["sampling/logprob_difference/max"] < 1e-4
    assert metrics["clip_ratio/region_mean"] == 0
    assert metrics["grad_norm"] > 1e-3


@pytest.mark.parametrize("why", ["equal rewards", "all truncated"])
def test_without_signal_nothing_moves(fresh, sample, why):
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten

    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, PROMPTS)
    trainer = make_trainer(
        model,
        trajectories,
        optimizer=optim.AdamW(1e-3, weight_decay=0.1),
        mask_truncated_completions=why == "all truncated",
    )
    for t in trajectories[:5]:
        t.completion_truncated = False
    assert trainer.train()["updates"] == 1  # AdamW has momentum from here on
    for t in trajectories:
        t.completion_truncated = True
        t.rewards = [0.5] if why == "equal rewards" else t.rewards
    before, state = weights_of(model), tree_flatten(trainer.optimizer.state)
    state = [(name, np.array(value)) for name, value in state]
    trainer.buffer = Buffer(trajectories)
    assert trainer.train() == {"updates": 0}
    assert same_weights(before, weights_of(model))
    assert same_weights(dict(state), dict(tree_flatten(trainer.optimizer.state)))
    assert len(trainer.buffer) == 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 3),
        ({"micro_batch_size": 1}, 3),
        ({"importance_cap": 2.0}, 3 + 3),  # log-probabilities under the present weights, first
        ({"reference": lambda batch: batch.old_logprobs}, len(PROMPTS)),  # KL pulls on every row
    ],
)
def test_what_has_no_signal_is_not_computed(fresh, sample, monkeypatch, settings, expected):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, PROMPTS)
    for t, prompt in zip(trajectories, PROMPTS, strict=True):
        t.rewards = t.rewards if prompt == "a" else [1.0]
    rows, score = [], Scorer.__call__

    def watched(self, batch):
        rows.append(len(batch))
        return score(self, batch)

    monkeypatch.setattr(Scorer, "__call__", watched)
    assert make_trainer(model, trajectories, **settings).train()["updates"] == 1
    assert sum(rows) == expected


def plain_sgd(model, trajectories, rate, **settings):
    """The weights after a step on the whole batch at once, rows without signal included."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    batch = make_batch(trajectories)
    advantages = grpo.compute_advantages(batch.rewards, batch.group_ids).astype(np.float32)
    scorer = Scorer(model)

    def loss_fn():
        arrays = map(mx.array, (batch.old_logprobs, advantages, batch.mask))
        ref = mx.array(batch.old_logprobs - 0.2)
        return grpo.policy_loss(scorer(batch)[0], *arrays, ref_logprobs=ref, **settings)[0]

    loss, grads = nn.value_and_grad(model, loss_fn)()
    grads = {name: np.array(g) for name, g in tree_flatten(grads)}
    return loss.item(), {k: w - rate * grads[k] for k, w in weights_of(model).items()}


@pytest.mark.parametrize("loss_type", list(grpo.LOSS_TYPES))
@pytest.mark.parametrize("micro_batch_size", [None, 1, 4])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_parts_give_the_step_of_the_whole(fresh, sample, loss_type, micro_batch_size, beta):
    from functools import partial

    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, PROMPTS, top_p=0.9)
    for t in trajectories[-3:-1]:
        t.rewards = [2.0]  # group "b" has no signal, and its rows count all the same
    settings = {"loss_type": loss_type, "max_completion_length": 9, "beta": beta}
    loss, expected = plain_sgd(model, trajectories, 0.1, **settings)
    trainer = make_trainer(
        model,
        trajectories,
        loss_fn=partial(grpo.policy_loss, **settings),
        micro_batch_size=micro_batch_size,
        max_grad_norm=1e9,
        reference=(lambda batch: batch.old_logprobs - 0.2) if beta else None,
    )
    before = weights_of(model)
    metrics = trainer.train()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    moved = 0.0
    for name, value in weights_of(model).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)
        moved = max(moved, np.abs(value - before[name]).max())
    assert moved > 1e-4


def own_loss(logprobs, old_logprobs, advantages, mask):
    """A user's: four arguments, and metrics with a number and names that are taken."""
    import mlx.core as mx

    ratio = mx.exp(logprobs - old_logprobs)
    loss = -(ratio * advantages[:, None] * mask).sum() / mask.sum()
    return loss, {"loss": loss, "mine": 3.0, "rows": mx.array(float(len(mask)))}


def test_a_loss_of_ones_own(fresh, sample):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, PROMPTS)
    loss, expected = plain_sgd(model, trajectories, 0.1)  # on-policy, the clip does nothing
    trainer = make_trainer(
        model, trajectories, loss_fn=own_loss, micro_batch_size=2, max_grad_norm=1e9
    )
    metrics = trainer.train()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert (metrics["mine"], metrics["rows"]) == (3.0, len(PROMPTS))  # it gets the batch whole
    for name, value in weights_of(model).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)


def test_default_optimizer_and_gspo(fresh, sample):
    model, tokenizer = fresh
    before = weights_of(model)
    trainer = Trainer(
        model=model,
        advantage_fn=grpo.compute_advantages,
        loss_fn=gspo.policy_loss,
        optimizer=None,
        buffer=Buffer(sample(model, tokenizer, PROMPTS)),
    )
    metrics = trainer.train()
    assert metrics["learning_rate"] == pytest.approx(1e-3)  # by the model's size
    moved = max(np.abs(v - before[k]).max() for k, v in weights_of(model).items())
    assert moved == pytest.approx(1e-3, rel=0.01)  # AdamW's first step with bias correction


@pytest.mark.parametrize("on_policy", [True, False])
def test_the_buffer_is_cleared_on_policy_only(fresh, sample, on_policy):
    model, tokenizer = fresh
    buffer = Buffer(sample(model, tokenizer, PROMPTS))
    make_trainer(model, (), buffer=buffer, on_policy=on_policy).train()
    assert len(buffer) == (0 if on_policy else len(PROMPTS))


def test_later_ratios_are_finite_under_top_p(fresh, sample):
    import mlx.core as mx

    from textenv.algos.lm.generation.sampling import SamplingParams, restrict

    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, PROMPTS * 4, top_p=0.8)
    trainer = make_trainer(model, trajectories, on_policy=False, num_iterations=2)
    metrics = trainer.train()
    assert metrics["updates"] == 2
    assert math.isfinite(metrics["loss"])
    assert metrics["sampling/logprob_difference/max"] < 1e-4  # that of the first of the two
    batch = make_batch(trajectories)
    new = np.array(Scorer(model)(batch)[0])[batch.mask > 0]
    off = np.abs(new - batch.old_logprobs[batch.mask > 0])
    assert 0.01 < off.max() < 10
    outside = 0  # what a nucleus computed anew would have made infinite
    for t in trajectories:
        logits = model(mx.array([t.prompt_ids + t.token_ids]))[0, len(t.prompt_ids) - 1 : -1]
        anew = np.array(restrict(logits, SamplingParams(top_p=0.8)))
        outside += np.isinf(anew[np.arange(len(t.token_ids)), t.token_ids]).sum()
    assert outside > 0


def test_advantages_get_the_rewards_of_their_groups(fresh, sample):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, ["a", "b"] * 4)  # not in the order of the batch
    for i, t in enumerate(trajectories):
        t.rewards, t.group_id = [float(i)], 10 + i % 4  # two groups for each prompt
    for t in trajectories[:2]:
        t.group_id = None
    seen = {}

    def advantage_fn(rewards, group_ids):
        seen.update(zip(rewards.tolist(), group_ids.tolist()))
        assert rewards.shape == group_ids.shape == (8,)
        return grpo.compute_advantages(rewards, group_ids)

    make_trainer(model, trajectories, advantage_fn=advantage_fn).train()
    together: dict = {}
    for t in trajectories:
        together.setdefault(seen[t.rewards[0]], set()).add(t.rewards[0])
    assert sorted(map(sorted, together.values())) == [
        [0.0],
        [1.0],
        [2.0, 6.0],
        [3.0, 7.0],
        [4.0],
        [5.0],
    ]


def test_one_group_id_of_two_rollouts_is_two_groups(fresh, sample):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, ["a", "a", "b", "b"])
    for t, reward in zip(trajectories, (0.0, 0.0, 1.0, 1.0)):
        t.rewards, t.group_id = [reward], 0
    assert make_trainer(model, trajectories).train()["updates"] == 0


def test_every_minibatch_is_a_step(fresh, sample):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, ["a"] * 12)
    settings = {"num_minibatches": 4, "num_iterations": 2, "on_policy": False}
    assert make_trainer(model, trajectories, **settings).train()["updates"] == 8
    assert make_trainer(model, trajectories, **settings).train(max_updates=3)["updates"] == 3
    sizes = []

    def loss_fn(logprobs, *rest):
        sizes.append(logprobs.shape[0])
        return grpo.policy_loss(logprobs, *rest)

    make_trainer(model, trajectories, loss_fn=loss_fn, **settings).train()
    assert sizes == [3] * 8


def test_a_minibatch_without_signal_is_no_update(fresh, sample):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, ["a"] * 6 + ["b"] * 2)
    for t in trajectories[:6]:
        t.rewards = [0.0]
    for seed in range(6):  # whatever order the minibatches come in
        trainer = make_trainer(model, trajectories, num_minibatches=8, on_policy=False, seed=seed)
        assert trainer.train()["updates"] == 2
        assert trainer.train(max_updates=1)["updates"] == 1


def test_the_reference_goes_to_a_loss_that_takes_it(fresh, sample):
    from functools import partial

    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, PROMPTS, top_k=6)
    scorer = Scorer(model)
    for micro_batch_size in (None, 2):
        metrics = make_trainer(
            model,
            trajectories,
            loss_fn=partial(grpo.policy_loss, beta=0.1),
            reference=lambda batch: scorer(batch)[0] + 0.1,  # k3 of .1
            micro_batch_size=micro_batch_size,
        ).train(max_updates=1)
        assert metrics["kl"] == pytest.approx(math.exp(0.1) - 1.1, rel=1e-3)
    make_trainer(
        model, trajectories, loss_fn=own_loss, reference=lambda batch: scorer(batch)[0]
    ).train()


def test_the_gradient_is_clipped(fresh, sample):
    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, PROMPTS)
    before = weights_of(model)
    metrics = make_trainer(model, trajectories, max_grad_norm=0.01).train()
    assert metrics["grad_norm"] > 0.02  # before it is clipped
    moved = sum(((v - before[k]) ** 2).sum() for k, v in weights_of(model).items())
    assert math.sqrt(moved) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_a_gradient_that_is_no_number_changes_nothing(fresh, sample):
    model, tokenizer = fresh
    before = weights_of(model)

    def broken(logprobs, old_logprobs, advantages, mask):
        return (logprobs * mask).sum() * float("inf"), {}

    with pytest.raises(FloatingPointError, match="norm"):
        make_trainer(model, sample(model, tokenizer, PROMPTS), loss_fn=broken).train()
    assert same_weights(before, weights_of(model))


def test_with_a_guard_such_a_step_is_skipped_and_counted(fresh, sample):
    """The second and the third of four minibatches; the others make the steps that they make."""
    from textenv.algos.training.guard import MOST_SKIPPED, NotFiniteError, StepGuard

    model, tokenizer = fresh
    trajectories = sample(model, tokenizer, PROMPTS)
    calls = []

    def sometimes(logprobs, old_logprobs, advantages, mask):
        calls.append(weights_of(model))
        factor = math.nan if len(calls) in (2, 3) else 1.0
        return factor * (logprobs * mask).sum(), {}

    settings = {"loss_fn": sometimes, "num_minibatches": 4, "on_policy": False}
    trainer = make_trainer(model, trajectories, guard=StepGuard(), **settings)
    metrics = trainer.train()
    assert (metrics["updates"], metrics["skipped_steps"]) == (2, 2)
    assert math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
    assert not same_weights(calls[0], calls[1])
    assert same_weights(calls[1], calls[2]) and same_weights(calls[2], calls[3])
    assert not same_weights(calls[3], weights_of(model))
    assert "skipped_steps" not in trainer.train()
    calls.clear()
    assert trainer.train(3)["skipped_steps"] == 2 and len(calls) == 3

    def never(logprobs, old_logprobs, advantages, mask):
        return (logprobs * mask).sum() * math.nan, {}

    trainer = make_trainer(model, trajectories, guard=StepGuard(), **settings | {"loss_fn": never})
    before = weights_of(model)
    assert trainer.train() == {"updates": 0.0, "skipped_steps": 4.0} and MOST_SKIPPED == 5
    with pytest.raises(NotFiniteError, match="norm is nan") as ended:
        trainer.train()
    ours = {id(t) for t in trajectories}
    assert len(ended.value.batch) == 3
    assert {id(t) for t in ended.value.batch} < ours
    assert same_weights(before, weights_of(model))


def test_a_loss_that_is_no_number_is_no_step_even_if_its_gradient_is_one(fresh, sample):
    model, tokenizer = fresh
    before = weights_of(model)

    def broken(logprobs, old_logprobs, advantages, mask):
        return (logprobs * mask).sum() + math.inf, {}

    with pytest.raises(FloatingPointError, match="the loss is inf"):
        make_trainer(model, sample(model, tokenizer, PROMPTS), loss_fn=broken).train()
    assert same_weights(before, weights_of(model))


def test_what_cannot_be_trained_on(fresh, sample):
    from textenv.algos import Trajectory

    model, tokenizer = fresh
    with pytest.raises(ValueError, match="no trajectories"):
        make_trainer(model, ()).train()
    with pytest.raises(ValueError, match="trajectory 0 has no token ids"):
        make_trainer(model, [Trajectory(observations=[0], actions=[0], rewards=[1.0])]).train()
    trajectories = sample(model, tokenizer, ["a"] * 2)
    with pytest.raises(ValueError, match=r"num_minibatches=3.*2 trajectories"):
        make_trainer(model, trajectories, num_minibatches=3).train()
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(1,\)"):
        make_trainer(model, trajectories, advantage_fn=lambda r, g: r[:1]).train()
    with pytest.raises(TypeError, match="holds trajectories, got dict"):
        Buffer([{}])
    model.freeze()
    with pytest.raises(ValueError, match="no trainable weights"):
        make_trainer(model, trajectories)


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
def test_bfloat16_weights_move_as_float32_ones_do(fresh, sample, lora):
    """At a learning rate of 1e-6, in steps far below the distance of two bfloat16 numbers."""
    import copy

    import mlx.core as mx
    from mlx.utils import tree_flatten

    from textenv.algos.lm.models.lora import add_lora
    from textenv.algos.training.optimizer import make_adamw

    model, tokenizer = fresh
    if lora:
        add_lora(model, 4, 10.0, 0)
        factors = [(n, w) for n, w in weights_of(model).items() if n.endswith("lora_b")]
        model.load_weights([(n, mx.array(w + 0.01)) for n, w in factors], strict=False)
    model.set_dtype(mx.bfloat16)
    exact = copy.deepcopy(model)
    exact.set_dtype(mx.float32)
    start, trained = weights_of(exact), dict(tree_flatten(exact.trainable_parameters()))
    trajectories = sample(exact, tokenizer, PROMPTS)
    for each in (model, exact):
        trainer = make_trainer(
            each, trajectories, optimizer=make_adamw(1e-6), num_iterations=10, on_policy=False
        )
        assert trainer.train()["updates"] == 10
        if each is model:
            ours = {name: np.array(copy) for name, copy in trainer._step._copies.items()}
    theirs = weights_of(exact)
    assert set(ours) == set(trained)
    model.set_dtype(mx.float32)
    now = weights_of(model)
    for name, copied in ours.items():
        change, expected = copied - start[name], theirs[name] - start[name]
        share, wanted = (np.mean(x != 0) for x in (change, expected))
        assert share > 0.9 * wanted, name
        assert np.corrcoef(change.ravel(), expected.ravel())[0, 1] > 0.8, name
        rounded = np.array(mx.array(copied).astype(mx.bfloat16).astype(mx.float32))
        np.testing.assert_array_equal(now[name], rounded)
