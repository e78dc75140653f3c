"""Quantized models: loaded, sampled, scored, trained by adapters, saved."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, Trainer, grpo, load_model
from textenv.algos.lm.models.lora import add_lora, has_lora, lora_layers
from textenv.algos.lm.models.properties import count_parameters
from textenv.algos.lm.models.saving import save_model
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.scorer import Scorer

PROMPTS = ["12+30=", "a", "a", "the longest prompt = ", "12+30=", "12+30="]
MIXTURE = {
    **{
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mlp_only_layers": [],
    },
    **{"moe_intermediate_size": 32, "decoder_sparse_step": 1, "norm_topk_prob": True},
    "hidden_size": 64,
}


def arrays(tree):
    from mlx.utils import tree_flatten

    return dict(tree_flatten(tree))


@pytest.fixture
def unquantized():
    """``unquantized(model)``: a copy of the same function in plain weights."""
    import mlx_lm.utils

    return lambda model: mlx_lm.utils.dequantize_model(copy.deepcopy(model))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampled_and_scored_as_the_weights_that_it_stands_for(
    quantized, unquantized, sample, plain_logprobs, bits, dtype
):
    import mlx.core as mx

    model, tokenizer = load_model(quantized(bits, getattr(mx, dtype)), dequantize=False)
    types = {str(w.dtype).split(".")[-1] for w in arrays(model.parameters()).values()}
    assert types == {"uint32", "float32" if mx.default_device() == mx.cpu else dtype}
    plain = unquantized(model)
    trajectories = sample(model, tokenizer, PROMPTS, top_p=0.9)
    batch = make_batch(trajectories)
    scores = np.array(Scorer(model)(batch)[0])
    for row, place in zip(scores, batch.order):
        t = trajectories[place]
        expected = plain_logprobs(plain, t.prompt_ids, t.token_ids, 1.0, t.support)
        np.testing.assert_allclose(t.token_logprobs, expected, atol=1e-4)
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-4)
    assert count_parameters(model) == count_parameters(plain)


@pytest.mark.parametrize("changes", [{}, MIXTURE], ids=["dense", "experts"])
def test_gradients_reach_the_adapters_alone(quantized, unquantized, sample, changes):
    """They are those of the same adapters on plain weights."""
    import mlx.core as mx
    import mlx.nn as nn

    model, tokenizer = load_model(quantized(4, **changes), dequantize=False)
    plain = unquantized(model)
    batch = make_batch(sample(model, tokenizer, PROMPTS))
    weights = mx.array(np.random.default_rng(0).normal(0, 1, batch.mask.shape) * batch.mask)
    gradients = []
    for each in (model, plain):
        add_lora(each, rank=4, scale=2.0, seed=0)
        for name, value in arrays(each.trainable_parameters()).items():
            if name.endswith("lora_b"):  # they start at zero, where half the gradients are zero
                key = mx.random.key(sum(name.encode()))
                noise = 0.1 * mx.random.normal(value.shape, key=key)
                each.load_weights([(name, noise)], strict=False)
        scorer = Scorer(each)
        loss = lambda *_, s=scorer: (weights.astype(mx.float32) * s(batch)[0]).sum()  # noqa: E731
        gradients.append(arrays(nn.value_and_grad(each, loss)()[1]))
    ours, expected = gradients
    assert ours.keys() == expected.keys()
    assert all(name.split(".")[-1] in ("lora_a", "lora_b") for name in ours)
    for name, wanted in expected.items():
        most = float(mx.abs(wanted).max())
        assert most > 0, name
        np.testing.assert_allclose(ours[name], wanted, atol=1e-5 * most, err_msg=name)


@pytest.mark.parametrize(
    ("mixed", "changes"),
    [(False, {}), (True, {}), (False, MIXTURE)],
    ids=["4 bits", "4 and 8 bits", "experts"],
)
def test_what_was_learnt_is_saved_unrounded(quantized, sample, tmp_path, mixed, changes):
    import mlx.core as mx

    model, tokenizer = load_model(quantized(4, mixed=mixed, **changes), dequantize=False)
    frozen = {name: np.array(w) for name, w in arrays(model.parameters()).items()}
    start = model(mx.array([[3, 4, 12]]))
    add_lora(model, rank=4, scale=2.0, seed=0)
    trainer = Trainer(model, grpo.compute_advantages, grpo.policy_loss)
    for seed in range(3):
        for t in sample(model, tokenizer, PROMPTS, seed=seed):
            trainer.buffer.add(t)
        assert trainer.train()["sampling/logprob_difference/max"] < 1e-4
    save_model(model, tokenizer, tmp_path / "saved")
    assert has_lora(model)  # it goes on being trained
    with pytest.MonkeyPatch.context() as patch:
        for _, layer in lora_layers(model):
            patch.setattr(layer, "scale", 0.0)
        np.testing.assert_allclose(model(mx.array([[3, 4, 12]])), start, atol=1e-5)
    now = {n.replace(".linear.", "."): w for n, w in arrays(model.parameters()).items()}
    assert all(np.array_equal(now[name], weight) for name, weight in frozen.items())
    read, _ = load_model(tmp_path / "saved", dequantize=False)
    assert not has_lora(read)
    for t in sample(model, tokenizer, PROMPTS, seed=9):
        ids = mx.array([t.prompt_ids + t.token_ids])
        logprobs = [
            each(ids) - mx.logsumexp(each(ids), -1, keepdims=True) for each in (model, read)
        ]
        np.testing.assert_allclose(*logprobs, atol=1e-4)
    assert float(mx.abs(model(mx.array([[3, 4, 12]])) - start).max()) > 1e-2
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["quantization"] == {"bits": 4, "group_size": 32, "mode": "affine"}
    assert "scales" in read.model.embed_tokens  # what had no adapter stays as it was


def test_a_model_that_is_quantized_in_memory_is_saved_as_such(fresh, tmp_path):
    import mlx.core as mx
    import mlx.nn as nn

    model, tokenizer = fresh
    nn.quantize(model, group_size=32, bits=8)
    save_model(model, tokenizer, tmp_path / "saved")
    read, _ = load_model(tmp_path / "saved", dequantize=False)
    ids = mx.array([[3, 4, 12]])
    np.testing.assert_array_equal(read(ids), model(ids))


@pytest.mark.parametrize("algo", ["grpo", "ppo"])
def test_full_training_is_refused_and_adapters_are_not(quantized, algo):
    model, tokenizer = load_model(quantized(8), dequantize=False)
    trainer, config = {
        "grpo": (GRPOTrainer, {"num_prompts": 2, "num_generations": 2, "max_steps": 1}),
        "ppo": (PPOTrainer, {"n_steps": 8, "batch_size": 8, "total_timesteps": 8}),
    }[algo]
    config_type = {"grpo": GRPOConfig, "ppo": PPOConfig}[algo]
    more = config | {"max_completion_length": 4}
    with pytest.raises(ValueError, match=r"quantized.*set lora_rank"):
        trainer(model, env="TextGen-v0", config=config_type(**more), tokenizer=tokenizer)
    adapted = config_type(**more, lora_rank=2)
    trainer(model, env="TextGen-v0", config=adapted, tokenizer=tokenizer).train()
