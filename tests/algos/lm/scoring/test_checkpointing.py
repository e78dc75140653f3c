"""Gradient checkpointing against the same gradient without it."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from tests.algos.shared import lowest_peak
from textenv.algos import GRPOConfig, GRPOTrainer, grpo
from textenv.algos.lm.models.lora import add_lora
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.checkpointing import in_chunks
from textenv.algos.lm.scoring.scorer import Scorer

SHARED = ["12+30="] * 4 + ["99-1= "] * 4
RAGGED = ["12+30=", "a", "a", "the longest prompt = ", "12+30=", "12+30=", "b", "b"]
GEMMA2 = {"model_type": "gemma2", "query_pre_attn_scalar": 8}
GEMMA3 = {
    "model_type": "gemma3_text",
    "sliding_window": 4,
    "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 8,
}
MAMBA = {
    "model_type": "mamba",
    "intermediate_size": 64,
    "state_size": 8,
    "conv_kernel": 4,
    "time_step_rank": 4,
    "use_bias": False,
    "use_conv_bias": True,
}
CASES = {
    "shared": (SHARED, {}, {}),
    "ragged": (RAGGED, {}, {}),
    "support": (RAGGED, {"top_k": 5, "temperature": 0.7}, {}),
    "unequal groups": (["12+30="] * 6 + ["a", "b"], {}, {}),
    "one token": (SHARED, {"max_tokens": 1}, {}),
    "copied prompts": (RAGGED, {}, GEMMA2),
    "window": (RAGGED, {}, GEMMA3),
    "plain path": (RAGGED, {}, MAMBA),
}


def gradient(model, batch, checkpointing, dtype):
    """Loss and gradient by name, as NumPy arrays."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    rng = np.random.default_rng(0)
    old = mx.array(batch.old_logprobs + rng.choice([-0.1, 0.1], batch.mask.shape), dtype=dtype)
    advantages = mx.array(rng.normal(0, 1, len(batch)), dtype=dtype)
    scorer = Scorer(model, checkpointing)

    def loss():
        logprobs, entropies = scorer(batch)
        return grpo.policy_loss(logprobs, old, advantages, mx.array(batch.mask))[0], entropies

    (value, _), grads = nn.value_and_grad(model, loss)()
    mx.eval(value, grads)
    return value.item(), {name: np.array(g) for name, g in tree_flatten(grads)}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:models of type")
def test_gradients_are_those_without(
    random_model, tiny_config, tiny, sample, case, precision, lora
):
    import mlx.core as mx
    from mlx.utils import tree_map

    prompts, sampling, changes = CASES[case]
    if changes.get("model_type") == "mamba" and (precision == "float64" or lora):
        pytest.skip("MLX has no convolution in float64, and mlx-lm no adapters for it")
    batch = make_batch(sample(*tiny, prompts, **sampling))
    model = random_model(**tiny_config | changes)
    dtype = getattr(mx, precision)
    with mx.stream(mx.cpu):
        if lora:
            add_lora(model, 4, 10.0, 0)
            noise = [(n, m) for n, m in model.named_modules() if hasattr(m, "lora_b")]
            for i, (_, module) in enumerate(noise):  # at zero, lora_a would have no gradient
                module.lora_b = mx.random.normal(module.lora_b.shape, key=mx.random.key(i)) * 0.1
        model.update(tree_map(lambda w: w.astype(dtype), model.parameters()))
        plain_loss, plain = gradient(model, batch, False, dtype)
        loss, grads = gradient(model, batch, True, dtype)
    tolerance = 1e-9 if precision == "float64" else 1e-5
    assert loss == pytest.approx(plain_loss, rel=tolerance, abs=1e-12)
    assert grads.keys() == plain.keys()
    for name, expected in plain.items():
        assert np.abs(expected).max() > 1e-6, name  # every weight has a part in the answer
        error = np.abs(grads[name] - expected).max()
        assert error <= tolerance * np.abs(expected).max(), name


def test_prompts_get_their_gradient(random_model, tiny_config, tiny, sample):
    """A token that is only in the prompts learns through their keys and values alone."""
    import mlx.core as mx

    model = random_model(**tiny_config | {"tie_word_embeddings": False})
    batch = make_batch(sample(*tiny, ["=+0="] * 4))
    batch.prompts = [[5, 6, 7, 8]]
    batch.token_ids[:] = np.where(batch.token_ids < 12, 20, batch.token_ids)
    _, grads = gradient(model, batch, True, mx.float32)
    rows = np.abs(grads["model.embed_tokens.weight"]).max(axis=1)
    assert (rows[5:9] > 1e-6).all()
    assert not rows[9:12].any()  # in neither


def test_other_models_are_left_alone(random_model, tiny_config, tiny, sample):
    import mlx.core as mx

    model, other = random_model(**tiny_config), random_model(**tiny_config)
    kinds = [type(layer) for layer in model.layers]
    seen = []

    class Spy(type(model.model.norm)):
        def __call__(self, x):
            seen.append([type(layer) for layer in other.layers] == kinds)
            return super().__call__(x)

    model.model.norm.__class__ = Spy
    gradient(model, make_batch(sample(*tiny, SHARED)), True, mx.float32)
    assert seen and all(seen)
    assert [type(layer) for layer in model.layers] == kinds


def test_layers_are_restored_after_an_error(random_model, tiny_config, tiny, sample):
    model = random_model(**tiny_config)
    kinds = [type(layer) for layer in model.layers]
    scorer = Scorer(model, gradient_checkpointing=True)

    def fail(x):
        raise ZeroDivisionError

    del model.layers[1].mlp
    model.layers[1].mlp = fail
    with pytest.raises(ZeroDivisionError):
        scorer(make_batch(sample(*tiny, SHARED)))
    assert [type(layer) for layer in model.layers] == kinds


def test_weights_are_the_models_own_after_a_step(random_model, tiny_config, tiny, sample):
    """Nothing of the graph stays in the model: its weights are those it had."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    model = random_model(**tiny_config)
    before = {name: np.array(w) for name, w in tree_flatten(model.parameters())}
    gradient(model, make_batch(sample(*tiny, RAGGED)), True, mx.float32)
    after = dict(tree_flatten(model.parameters()))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], np.array(w)) for name, w in after.items())


def test_it_takes_less_memory(random_model, tiny_config, tiny, sample):
    """Many layers: a plain backward keeps all of them, a checkpointed one little more than one."""
    import mlx.core as mx

    batch = make_batch(sample(*tiny, SHARED * 2, max_tokens=48))
    changes = {"num_hidden_layers": 24}
    model = random_model(**tiny_config | changes)
    peaks = []
    for checkpointing in (False, True):
        gradient(model, batch, checkpointing, mx.float32)
        peaks.append(lowest_peak(lambda: gradient(model, batch, checkpointing, mx.float32)))  # noqa: B023
    assert peaks[1] < 0.5 * peaks[0]


@pytest.mark.parametrize("settings", [{}, {"beta": 0.05, "lora_rank": 4, "micro_batch_size": 3}])
def test_grpo_learns_the_same(fresh, settings):
    from mlx.utils import tree_flatten

    weights = []
    for checkpointing in (False, True):
        model, tokenizer = copy.deepcopy(fresh[0]), fresh[1]
        config = GRPOConfig(
            **{"max_steps": 2, "num_prompts": 2, "num_generations": 4, "learning_rate": 0.01},
            **{"max_completion_length": 6, "gradient_checkpointing": checkpointing},
            **settings,
        )
        trainer = GRPOTrainer(
            model,
            config=config,
            tokenizer=tokenizer,
            env_kwargs={"prompts": ["1+1=", "20+3="], "reward_fn": remainder},
        )
        trainer.train()
        assert any(step.get("grad_norm", 0) > 0 for step in trainer.history)
        weights.append({name: np.array(w) for name, w in tree_flatten(model.parameters())})
    plain, ours = weights
    for name, expected in plain.items():
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-5, err_msg=name)


def remainder(prompt, completion, example, **_):
    return float(sum(map(ord, completion)) % 7)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("rows, few", [(1, 1), (4, 4), (5, 2), (13, 13), (13, 5)])
@pytest.mark.parametrize("kind", ["biased", "matrix", "embedding", "frozen", "function"])
def test_chunks_add_up(rows, few, precision, kind):
    """Thirteen rows through a layer, by chunks that divide them and by some that do not."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    dtype = getattr(mx, precision)
    rng = np.random.default_rng(0)
    with mx.stream(mx.cpu):
        inputs, factors = (mx.array(rng.normal(size=(13, 6)), dtype=dtype) for _ in range(2))
        layer = nn.Embedding(6, 6) if kind == "embedding" else nn.Linear(6, 6, kind == "biased")
        layer.update({"weight": mx.array(rng.normal(size=(6, 6)), dtype=dtype)})
        if kind == "biased":
            layer.update({"bias": mx.array(rng.normal(size=6), dtype=dtype)})
        if kind == "frozen":
            layer.freeze()
        head = layer.as_linear if kind == "embedding" else layer
        if kind == "function":
            head = mx.sin

        def function(outputs, where):
            out = mx.tanh(outputs) * factors[where]
            return out.sum(axis=1), out * out

        def loss(x, chunked):
            if chunked:
                first, second = in_chunks(head, function, x, rows, few)
            else:
                first, second = function(head(x), slice(None))
            return (first * first).sum() + second.sum()

        results = []
        for chunked in (False, True):
            value, grads = loss(inputs, chunked), {}
            if layer.trainable_parameters():
                value, grads = nn.value_and_grad(layer, loss)(inputs, chunked)
            slope = mx.grad(loss)(inputs, chunked)
            results.append(
                [np.array(a) for a in (value, slope, *dict(tree_flatten(grads)).values())]
            )
    for plain, ours in zip(*results):
        np.testing.assert_allclose(ours, plain, rtol=1e-10 if precision == "float64" else 1e-5)


def test_chunks_are_not_held_at_once():
    """Sixty-four chunks take the memory of a few; less, if their rows are judged in parts."""
    import mlx.core as mx
    import mlx.nn as nn

    head = nn.Linear(8, 16384, bias=False)
    inputs = mx.random.normal((1024, 8), key=mx.random.key(0))
    mx.eval(head.parameters(), inputs)

    def judged(logits, where):
        return [mx.logsumexp(mx.tanh(mx.sin(mx.exp(mx.cos(logits)))), axis=-1)]

    def peak(rows, few):
        def loss(x):
            return in_chunks(head, judged, x, rows, few)[0].sum()

        return lowest_peak(lambda: mx.eval(nn.value_and_grad(head, loss)(inputs)))

    assert peak(16, 16) < 0.5 * 1024 * 16384 * 4
    chunk = 128 * 16384 * 4
    assert peak(128, 128) > 2 * peak(128, 16)  # what `judged` and its gradient go through
    assert peak(128, 16) < 9 * chunk  # the outputs and their gradient are whole


def test_what_adapters_drop_is_dropped_again(random_model, tiny_config, tiny, sample):
    """The backward computes a layer again by the same seed, or its gradient would be wrong."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from textenv.algos import grpo
    from textenv.algos.training.gradient import LocalGradient
    from textenv.algos.training.microbatches import MicroBatch

    batch = make_batch(sample(*tiny, SHARED))
    model = random_model(**tiny_config)
    add_lora(model, 4, 10.0, 0, dropout=0.3)
    for name, layer in model.named_modules():
        if "lora_b" in layer:
            key = mx.random.key(sum(name.encode()))
            layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape, key=key)
    advantages = np.random.default_rng(0).normal(size=len(batch)).astype(np.float32)

    def gradient_of(checkpointing, seed):
        local = LocalGradient(model, grpo.policy_loss, checkpointing)
        parts = [MicroBatch(batch, advantages, None, None, seed)] * 2
        return dict(tree_flatten(local.gradient(parts)[1]))

    plain, again = gradient_of(False, 5), gradient_of(True, 5)
    without = gradient_of(False, None)
    for name, expected in plain.items():
        most = float(mx.abs(expected).max())
        np.testing.assert_allclose(again[name], expected, atol=1e-4 * most, err_msg=name)
        assert float(mx.abs(without[name] - expected).max()) > 1e-2 * most, name
