"""The gradient of the trained loss against finite differences, in float64, on two layers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.algos.shared import lowest_peak
from textenv.algos import grpo
from textenv.algos.lm.kernels.linear import gradients_by_rows
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.scorer import Scorer
from textenv.algos.training.gradient import accumulate

PROMPTS = ["12+30=", "a", "a", "the longest prompt = ", "12+30=", "12+30=", "b", "b"]


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

    with gradients_by_rows(model):  # as in a training
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


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "again"])
def test_all_matrices_have_gradients_by_rows(
    random_model, tiny_config, tiny, sample, checkpointing, tied
):
    """As the weights lie in memory, beside those of MLX, which do not."""
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    model = random_model(**(tiny_config | {"tie_word_embeddings": tied}))
    batch = make_batch(sample(*tiny, PROMPTS))
    scorer = Scorer(model, checkpointing)

    def loss():
        return (scorer(batch)[0] * batch.mask).sum(), {}

    _, found = accumulate(model, loss, [()])
    _, expected = nn.value_and_grad(model, loss)()
    pairs = zip(tree_flatten(found), tree_flatten(expected), strict=True)
    matrices = [(name, np.asarray(a), np.asarray(b)) for (name, a), (_, b) in pairs if a.ndim == 2]
    for name, own, theirs in matrices:
        np.testing.assert_allclose(own, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())
        assert own.flags.c_contiguous, name
    assert sum(not theirs.flags.c_contiguous for _, _, theirs in matrices) > 4


def test_a_summed_gradient_is_held_once():
    """What a microbatch adds is freed array by array, so that the sum takes no second gradient."""
    import mlx.core as mx
    import mlx.nn as nn

    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(120)))
    parts = [(mx.random.normal((2, 64), key=mx.random.key(i)),) for i in range(3)]
    mx.eval(model.parameters(), parts)

    def loss(x):
        return (model(x) ** 2).sum(), {}

    _, expected = nn.value_and_grad(model, lambda: sum(loss(*part)[0] for part in parts))()
    mx.eval(expected)
    gradient = 120 * 64 * 64 * 4
    peak = lowest_peak(lambda: accumulate(model, loss, parts))
    assert gradient < peak < 1.6 * gradient  # some thirty arrays are on their way
    _, found = accumulate(model, loss, parts)
    for own, theirs in zip(found["layers"], expected["layers"], strict=True):
        assert mx.allclose(own["weight"], theirs["weight"], rtol=1e-4, atol=1e-6).item()
