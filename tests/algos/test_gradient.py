"""The gradient of the trained loss against finite differences, in float64, on two layers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from textenv.algos import grpo
from textenv.algos.batch import make_batch
from textenv.algos.scoring import Scorer

PROMPTS = ["12+30=", "a", "a", "the longest prompt = ", "12+30=", "12+30=", "b", "b"]


@pytest.fixture
def exact(monkeypatch):
    """MLX in float64 with float64's precision.

    On the CPU, MLX 0.32 computes exp, and all that is made of it, as well as rms_norm and rope,
    to the precision of float32, whatever the type; `power`, `tanh` and `rsqrt` are exact.
    """
    import mlx.core as mx
    from mlx_lm.models import qwen3

    def exp(x):
        return mx.power(mx.array(math.e, x.dtype), x)

    def softmax(x, axis=-1, **_):
        weights = exp(x - mx.stop_gradient(x.max(axis, keepdims=True)))
        return weights / weights.sum(axis, keepdims=True)

    def logsumexp(x, axis=-1, keepdims=False):
        top = mx.stop_gradient(x.max(axis, keepdims=True))
        total = mx.log(exp(x - top).sum(axis, keepdims=True)) + top
        return total if keepdims else total.squeeze(axis)

    def rms_norm(x, weight, eps):
        return x * mx.rsqrt((x * x).mean(-1, keepdims=True) + mx.array(eps, x.dtype)) * weight

    def rope(x, dims, *, base, offset, **_):
        half = dims // 2
        first = np.array(offset, np.float64).reshape(-1, 1, 1, 1)
        angles = (np.arange(x.shape[2])[:, None] + first) * base ** (-np.arange(half) / half)
        cos, sin = (mx.array(f(angles), dtype=x.dtype) for f in (np.cos, np.sin))
        a, b = x[..., :half], x[..., half:]
        return mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    def attention(queries, keys, values, *, scale, mask, **_):
        repeats = queries.shape[1] // keys.shape[1]
        keys, values = (mx.repeat(x, repeats, axis=1) for x in (keys, values))
        scores = scale * (queries @ keys.swapaxes(-1, -2))
        if isinstance(mask, str):  # "causal"
            mask = mx.tri(scores.shape[-1], dtype=mx.bool_)
        return softmax(mx.where(mask, scores, mx.array(-1e30, scores.dtype))) @ values

    monkeypatch.setattr(mx, "exp", exp)
    monkeypatch.setattr(mx, "logsumexp", logsumexp)
    monkeypatch.setattr(mx.fast, "rms_norm", rms_norm)
    monkeypatch.setattr(mx.fast, "rope", rope)
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", attention)
    silu = lambda x: x * 0.5 * (1 + mx.tanh(x / 2))  # noqa: E731
    monkeypatch.setattr(qwen3, "swiglu", lambda gate, x: silu(gate) * x)
    with mx.stream(mx.cpu):
        yield mx


def frozen_cispo(logprobs, old, advantages, mask, *, beta, ref_logprobs, high=0.2, **_):
    """The function whose gradient CISPO takes: its weights are those of the first call."""
    import mlx.core as mx

    if not frozen_cispo.weights:
        frozen_cispo.weights.append(mx.minimum(mx.exp(logprobs - old), 1 + high))
    difference = ref_logprobs - logprobs
    per_token = beta * (mx.exp(difference) - difference - 1)
    per_token = per_token - frozen_cispo.weights[0] * advantages[:, None] * logprobs
    return (per_token * mask).sum() / mask.sum(), {}


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_p": 0.9}], ids=["all", "top_p"])
@pytest.mark.parametrize("loss_type", list(grpo.LOSS_TYPES))
def test_gradient(random_model, tiny_config, tiny, sample, exact, loss_type, settings):
    import mlx.nn as nn
    from mlx.utils import tree_flatten, tree_map, tree_unflatten

    mx = exact
    model = random_model(**tiny_config)
    batch = make_batch(sample(*tiny, PROMPTS, **settings))
    assert (batch.support is None) == (not settings)
    rng = np.random.default_rng(0)
    # Ratios away from the kinks at the clip, some clipped and some not.
    old = batch.old_logprobs + rng.choice([-0.3, -0.1, 0.1, 0.3], batch.mask.shape)
    ref = batch.old_logprobs + rng.normal(0, 0.2, batch.mask.shape)
    advantages = rng.normal(0, 1, len(batch))
    case = [mx.array(x, dtype=mx.float64) for x in (old, advantages, batch.mask)]
    common = {"beta": 0.1, "ref_logprobs": mx.array(ref, dtype=mx.float64)}
    model.update(tree_map(lambda w: w.astype(mx.float64), model.parameters()))
    scorer = Scorer(model)

    def loss(policy_loss=grpo.policy_loss):
        logprobs, _ = scorer(batch)
        assert logprobs.dtype == mx.float64
        return policy_loss(logprobs, *case, loss_type=loss_type, max_completion_length=9, **common)[
            0
        ]

    _, grads = nn.value_and_grad(model, loss)()
    grads, weights = (dict(tree_flatten(tree)) for tree in (grads, model.parameters()))
    assert grads.keys() == weights.keys()
    function = loss
    if loss_type == "cispo":
        frozen_cispo.weights = []
        function = lambda: loss(frozen_cispo)  # noqa: E731
        assert function().item() == pytest.approx(loss().item(), rel=1e-12)

    for names in [list(weights), *([name] for name in weights)]:
        steps = {k: mx.array(rng.normal(0, 1, weights[k].shape), dtype=mx.float64) for k in names}
        slope = sum((grads[k] * steps[k]).sum().item() for k in names)
        h, values = 1e-6, []
        for sign in (1, -1):
            moved = [(k, weights[k] + sign * h * steps[k]) for k in names]
            model.update(tree_unflatten(moved))
            values.append(function().item())
        model.update(tree_unflatten(list(weights.items())))
        assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6, abs=1e-8), names
        assert abs(slope) > 1e-5, names
