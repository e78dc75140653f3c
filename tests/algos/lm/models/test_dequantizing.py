"""Quantized models on a CPU: plain weights in place of rounded ones, where memory allows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.algos.shared import total
from textenv.algos import GRPOConfig, GRPOTrainer, load_model
from textenv.algos.lm.memory.limits import MemoryLimit
from textenv.algos.lm.models import dequantizing
from textenv.algos.lm.models.dequantizing import dequantize_on_cpu
from textenv.algos.lm.models.properties import count_parameters, quantized_layers
from textenv.algos.trainers.grpo_workers import sources

MIXTURE = {
    **{"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2},
    **{"mlp_only_layers": [], "moe_intermediate_size": 32, "decoder_sparse_step": 1},
    **{"norm_topk_prob": True, "hidden_size": 64},
}


@pytest.fixture(autouse=True)
def on_cpu():
    import mlx.core as mx

    if mx.default_device() != mx.cpu:
        pytest.skip("on a GPU a quantized model stays as it is")


def dtypes(model):
    from mlx.utils import tree_flatten

    return {str(w.dtype).split(".")[-1] for _, w in tree_flatten(model.parameters())}


@pytest.mark.parametrize(
    ("bits", "dtype", "changes"),
    [
        (4, "float32", {}),
        (4, "bfloat16", {"tie_word_embeddings": False}),
        (6, "float32", {"attention_bias": True}),
        (8, "float32", MIXTURE),
    ],
    ids=["4 bits", "bfloat16 scales", "6 bits", "experts"],
)
def test_plain_weights_compute_the_same_function(quantized, bits, dtype, changes):
    import mlx.core as mx

    folder = quantized(bits, getattr(mx, dtype), **changes)
    rounded, _ = load_model(folder, dequantize=False)
    with pytest.warns(UserWarning, match=r"quantized, which is slow on a CPU: .* made float32"):
        plain, _ = load_model(folder)
    assert quantized_layers(rounded) and not quantized_layers(plain)
    assert dtypes(plain) == {"float32"} and "uint32" in dtypes(rounded)
    ids = mx.array([[3, 4, 12, 7, 2, 14, 30]])
    assert float(mx.abs(rounded(ids)).max()) > 1
    np.testing.assert_allclose(plain(ids), rounded(ids), atol=1e-3)
    assert count_parameters(plain) == count_parameters(rounded)


def test_one_that_has_no_room_stays_and_says_what_to_do(quantized):
    folder = quantized(4)
    model, _ = load_model(folder, dequantize=False)
    size = 4 * count_parameters(model)
    with pytest.warns(UserWarning, match=r"stays so, .* more than half of .*free memory, or take"):
        dequantize_on_cpu(model, folder, MemoryLimit(2 * size - 1, "what is free"))
    assert quantized_layers(model)
    with pytest.warns(UserWarning, match="made float32"):
        dequantize_on_cpu(model, folder, MemoryLimit(2 * size, "what is free"))
    assert not quantized_layers(model)


def test_plain_models_are_left_alone(fresh, recwarn):
    before = dtypes(fresh[0])
    dequantize_on_cpu(fresh[0], "a", MemoryLimit(1, "nothing"))
    assert dtypes(fresh[0]) == before and not recwarn.list


@pytest.mark.filterwarnings("ignore:.*is quantized")
def test_workers_have_plain_weights_if_the_trainer_has(quantized, monkeypatch):
    """A worker does not decide anew, by the memory that is left then."""
    size = {"num_prompts": 2, "num_generations": 4, "max_completion_length": 4, "max_steps": 1}
    more = {"env_kwargs": {"prompts": ["1", "2"], "reward_fn": total}}
    config = GRPOConfig(**size, num_workers=1)
    trainer = GRPOTrainer(str(quantized(4)), config=config, **more)
    try:
        [metrics] = trainer.train()
    finally:
        trainer.close()
    assert metrics["grad_norm"] > 0 and not quantized_layers(trainer.model)
    assert sources(trainer.model, None)[1:] == (None, True)
    rounded, _ = load_model(trainer.model.source, dequantize=False)
    assert sources(rounded, None)[2] is False
    monkeypatch.setattr(dequantizing, "memory_limit", lambda: MemoryLimit(1, "nothing"))
    assert not quantized_layers(load_model(trainer.model.source, dequantize=True)[0])
    assert quantized_layers(load_model(trainer.model.source)[0])


@pytest.mark.filterwarnings("ignore:.*is quantized")
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_it_is_trained_and_saved_in_plain_weights(quantized, tmp_path, lora_rank):
    """All weights can be trained now, and no reader takes the saved ones for rounded ones."""
    import mlx.core as mx
    import mlx_lm

    folder = quantized(4)
    assert json.loads((folder / "config.json").read_text())["quantization"]["bits"] == 4
    settings = {"num_prompts": 2, "num_generations": 4, "max_completion_length": 4}
    config = GRPOConfig(**settings, max_steps=2, lora_rank=lora_rank, learning_rate=1e-2)

    trainer = GRPOTrainer(
        str(folder), env_kwargs={"prompts": ["1", "2"], "reward_fn": total}, config=config
    )
    ids = mx.array([[3, 4, 12]])
    before = np.array(trainer.model(ids))
    trainer.train()
    assert float(np.abs(np.array(trainer.model(ids)) - before).max()) > 1e-3
    trainer.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "quantization" not in config and "quantization_config" not in config
    weights = mx.load(str(tmp_path / "saved" / "model.safetensors"))
    assert {str(w.dtype) for w in weights.values()} == {"mlx.core.float32"}
    for read in (mlx_lm.load(str(tmp_path / "saved"))[0], load_model(tmp_path / "saved")[0]):
        np.testing.assert_allclose(read(ids), trainer.model(ids), atol=1e-4)
