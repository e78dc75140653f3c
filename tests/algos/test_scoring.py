"""The scorer against plain forwards, its gradients against the plain way and finite differences."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from textenv.algos import Trajectory, create_policy, grpo, scoring
from textenv.algos.batch import make_batch
from textenv.algos.scoring import Scorer

UNEVEN = ["12+30=", "a", "a", "the longest prompt = ", "12+30=", "12+30=", "b"]
EVEN = ["12+30=", "12+30=", "a", "a", "hello there", "hello there"]


def make_trajectories(model, tokenizer, prompts, seed=1, **settings):
    policy = create_policy(model, tokenizer, {"max_tokens": 9, "seed": seed, **settings})
    _, extras = policy(prompts)
    return [
        Trajectory(
            rewards=[float(i % 3)],
            group_id=0,
            prompt_ids=extras["prompt_ids"][i],
            token_ids=extras["token_ids"][i],
            token_mask=[1] * len(extras["token_ids"][i]),
            token_logprobs=extras["token_logprobs"][i],
            support=extras["support"][i],
            temperature=extras["temperature"][i],
            completion_truncated=extras["truncated"][i],
        )
        for i in range(len(prompts))
    ]


def by_prompt(trajectories):
    """In the order of the batch: equal prompts stand together."""
    first = [t.prompt_ids for t in trajectories]
    return sorted(trajectories, key=lambda t: first.index(t.prompt_ids))


def plain_scores(model, batch):
    """(N, T) log-probabilities, each row by a forward of its own, differentiable."""
    import mlx.core as mx

    rows = []
    for i in range(len(batch)):
        prompt, ids = batch.prompts[batch.prompt_index[i]], batch.token_ids[i]
        logits = model(mx.array([[*prompt, *ids.tolist()]]))[0, len(prompt) - 1 : -1]
        logits = logits / batch.temperature[i].item()
        if batch.support is not None:
            kept = np.zeros(logits.shape, bool)
            for t, support in enumerate(batch.support[i]):
                kept[t, support[support >= 0]] = True
                kept[t, ids[t]] = True
            logits = mx.where(mx.array(kept), logits, -mx.inf)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        rows.append(mx.take_along_axis(logprobs, mx.array(ids)[:, None], axis=-1)[:, 0])
    return mx.stack(rows)


@pytest.mark.parametrize("prompts", [UNEVEN, EVEN], ids=["uneven", "even"])
def test_scores_are_those_of_plain_forwards(tiny, plain_logprobs, sampling, prompts):
    model, tokenizer = tiny
    trajectories = make_trajectories(model, tokenizer, prompts, **sampling)
    batch = make_batch(trajectories)
    logprobs, entropies = Scorer(model)(batch)
    assert len(batch.prompts) == len(set(prompts))
    for i, t in enumerate(by_prompt(trajectories)):
        count = len(t.token_ids)
        expected = plain_logprobs(model, t.prompt_ids, t.token_ids, t.temperature, t.support)
        np.testing.assert_allclose(logprobs[i, :count], expected, rtol=1e-5, atol=1e-5)
        assert batch.mask[i].tolist() == [1] * count + [0] * (batch.mask.shape[1] - count)
    assert np.isfinite(np.array(logprobs)).all()  # in the padding too
    sampled = [e for t in by_prompt(trajectories) for e in t.token_logprobs]
    np.testing.assert_allclose(np.array(logprobs)[batch.mask > 0], sampled, atol=1e-4)
    assert (np.array(entropies)[batch.mask > 0] >= -1e-6).all()


def test_entropies_are_those_of_the_sampler(tiny, sampling):
    model, tokenizer = tiny
    policy = create_policy(model, tokenizer, {"max_tokens": 9, **sampling})
    _, extras = policy(UNEVEN)
    trajectories = make_trajectories(model, tokenizer, UNEVEN, seed=0, **sampling)
    assert [t.token_ids for t in trajectories] == extras["token_ids"]
    batch = make_batch(trajectories)
    _, entropies = Scorer(model)(batch)
    for t, own in zip(trajectories, extras["token_entropies"]):
        t.token_entropies = own
    expected = [e for t in by_prompt(trajectories) for e in t.token_entropies]
    np.testing.assert_allclose(np.array(entropies)[batch.mask > 0], expected, atol=1e-4)


def gradients(model, scores, batch):
    """Gradients of a weighted sum of log-probabilities, by parameter."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    weights = np.random.default_rng(0).normal(0, 1, batch.mask.shape).astype(np.float32)
    weights = mx.array(weights * batch.mask)

    def loss(*_):
        return (weights * scores(batch)).sum()

    value, grads = nn.value_and_grad(model, loss)()
    return value.item(), {name: np.array(g) for name, g in tree_flatten(grads)}


def assert_close(ours, expected, rtol=1e-5):
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = np.abs(gradient).max()
        assert scale > 0, name
        np.testing.assert_allclose(ours[name], gradient, atol=rtol * scale, err_msg=name)


@pytest.mark.parametrize("prompts", [UNEVEN, EVEN], ids=["uneven", "even"])
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7, "top_p": 0.9}], ids=["full", "top_p"]
)
def test_gradients_are_those_of_plain_forwards(fresh, prompts, settings):
    model, tokenizer = fresh
    batch = make_batch(make_trajectories(model, tokenizer, prompts, **settings))
    scorer = Scorer(model)
    value, ours = gradients(model, lambda b: scorer(b)[0], batch)
    expected_value, expected = gradients(model, partial(plain_scores, model), batch)
    assert value == pytest.approx(expected_value, rel=1e-5)
    assert_close(ours, expected)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("settings", [{}, {"top_k": 5}], ids=["full", "top_k"])
def test_chunks_change_neither_values_nor_gradients(
    random_model, tiny_config, tiny, monkeypatch, tied, settings
):
    model = random_model(**tiny_config | {"tie_word_embeddings": tied})
    batch = make_batch(make_trajectories(model, tiny[1], UNEVEN, **settings))
    scorer = Scorer(model)
    value, expected = gradients(model, lambda b: scorer(b)[0], batch)
    monkeypatch.setattr(scoring, "_CHUNK", 4 * tiny_config["vocab_size"])  # four tokens at a time
    chunked_value, chunked = gradients(model, lambda b: scorer(b)[0], batch)
    assert chunked_value == pytest.approx(value, rel=1e-5)
    assert_close(chunked, expected)
    assert ("lm_head.weight" in expected) == (not tied)


def test_the_chunks_bound_the_logits_that_exist(tiny, monkeypatch):
    model, tokenizer = tiny
    batch = make_batch(make_trajectories(model, tokenizer, UNEVEN))
    scorer, shapes = Scorer(model), []
    head = scorer._head
    monkeypatch.setattr(scorer, "_head", lambda hidden: shapes.append(hidden.shape) or head(hidden))
    monkeypatch.setattr(scoring, "_CHUNK", 4 * 42)
    scorer(batch)
    assert max(shape[0] for shape in shapes) == 4
    assert sum(shape[0] for shape in shapes) >= batch.mask.size


def test_turns_of_the_environment_are_read_and_not_scored(tiny, plain_logprobs):
    model, tokenizer = tiny
    start = tokenizer.encode("12+30=")
    ids, mask = [12, 13, 20, 21, 14], [1, 1, 0, 0, 1]
    trajectory = Trajectory(
        rewards=[1.0], prompt_ids=start, token_ids=ids, token_mask=mask, token_logprobs=[0.0] * 5
    )
    batch = make_batch([trajectory])
    assert batch.mask.tolist() == [mask]
    expected = plain_logprobs(model, start, ids)
    np.testing.assert_allclose(Scorer(model)(batch)[0][0], expected, atol=1e-5)


@pytest.mark.parametrize("loss_type", list(grpo.LOSS_TYPES))
def test_gradient_against_finite_differences(random_model, tiny_config, tiny, loss_type):
    """Of the trained loss, in float64, over the support that was sampled from."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten, tree_map, tree_unflatten

    model = random_model(**tiny_config)
    sampled = make_trajectories(model, tiny[1], UNEVEN, temperature=0.9, top_p=0.95)
    batch = make_batch(sampled)
    rng = np.random.default_rng(0)
    # Away from the ratios' kinks at 1 and at the clip.
    old = batch.old_logprobs + rng.choice([-0.3, -0.1, 0.1, 0.3], batch.mask.shape)
    ref = batch.old_logprobs + rng.normal(0, 0.2, batch.mask.shape)
    advantages = grpo.compute_advantages(batch.rewards, batch.group_ids)
    model.update(tree_map(lambda w: w.astype(mx.float64), model.parameters()))
    with mx.stream(mx.cpu):
        scorer = Scorer(model)

        def loss_fn():
            logprobs, _ = scorer(batch)
            assert logprobs.dtype == mx.float64
            as64 = (mx.array(x, dtype=mx.float64) for x in (old, advantages, batch.mask))
            return grpo.policy_loss(
                *(logprobs, *as64),
                loss_type=loss_type,
                beta=0.1,
                ref_logprobs=mx.array(ref, dtype=mx.float64),
                max_completion_length=9,
            )[0]

        _, grads = nn.value_and_grad(model, loss_fn)()
        grads = dict(tree_flatten(grads))
        weights = dict(tree_flatten(model.parameters()))
        for _ in range(4):
            step = {
                k: mx.array(rng.normal(0, 1, v.shape), dtype=mx.float64) for k, v in weights.items()
            }
            slope = sum((grads[k] * step[k]).sum().item() for k in weights)
            h, values = 1e-6, []
            for sign in (1, -1):
                moved = [(k, weights[k] + sign * h * step[k]) for k in weights]
                model.update(tree_unflatten(moved))
                values.append(loss_fn().item())
            model.update(tree_unflatten(list(weights.items())))
            assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6)
            assert abs(slope) > 1e-3
