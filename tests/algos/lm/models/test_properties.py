"""What is known of a model without running it."""

from types import SimpleNamespace

import pytest

from textenv.algos.lm.models.lora import add_lora
from textenv.algos.lm.models.properties import (
    check_trainable,
    context_length,
    count_parameters,
    describe_trained,
    quantized_layers,
)
from textenv.errors import ConfigError

# Embeddings; two layers of q, k, v, o, their norms, the MLP and two norms; the last norm.
NUMBERS = 42 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 2 * 8 + 3 * 32 * 64 + 2 * 32) + 32


def quantized(model):
    import mlx.nn as nn

    nn.quantize(model, group_size=32, bits=4)
    return model


def test_parameters_by_hand(random_model, tiny_config):
    model = random_model(**tiny_config)
    assert count_parameters(model) == count_parameters(model, trainable=True) == NUMBERS
    model.freeze()
    assert count_parameters(model) == NUMBERS and count_parameters(model, trainable=True) == 0


def test_adapters_are_what_is_trained(random_model, tiny_config):
    model = random_model(**tiny_config)
    add_lora(model, 2, 10.0, 0)
    # Two factors for each of a layer's products, by what goes in and comes out.
    pairs = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)]
    adapters = 2 * sum(2 * (a + b) for a, b in pairs)
    assert count_parameters(model, trainable=True) == adapters
    assert count_parameters(model) == NUMBERS + adapters


def test_rounded_weights_are_counted_as_the_numbers_that_they_stand_for(random_model, tiny_config):
    model = quantized(random_model(**tiny_config))
    assert count_parameters(model) == NUMBERS
    names = [name for name, _ in quantized_layers(model)]
    assert len(names) == 1 + 2 * 7 and "model.embed_tokens" in names
    assert quantized_layers(random_model(**tiny_config)) == []


def test_the_context_is_that_of_the_config(random_model, tiny_config):
    assert context_length(random_model(**tiny_config)) == 128
    assert context_length(SimpleNamespace(args=SimpleNamespace(n_positions=64))) == 64
    assert context_length(SimpleNamespace()) is None


def test_what_cannot_be_trained_as_it_is(random_model, tiny_config):
    model = random_model(**tiny_config)
    check_trainable(model)
    model.freeze()
    with pytest.raises(ConfigError, match="no trainable weights: set lora_rank"):
        check_trainable(model)
    model = quantized(random_model(**tiny_config))
    with pytest.raises(ConfigError, match=r"quantized.*lora_rank"):
        check_trainable(model)
    add_lora(model, 2, 10.0, 0)
    check_trainable(model)


def test_what_is_trained_in_words(random_model, tiny_config):
    model = random_model(**tiny_config)
    assert describe_trained(model) == "all weights"
    model.freeze()
    model.model.norm.unfreeze()
    assert describe_trained(model) == f"32 of {NUMBERS:,} weights"
    model = random_model(**tiny_config)
    add_lora(model, 2, 10.0, 0, layers=1, targets=("q_proj", "v_proj"))
    trained = 2 * (32 + 32) + 2 * (32 + 16)
    expected = f"LoRA rank 2 on 1 layer (q_proj, v_proj): {trained} of {NUMBERS:,} weights"
    assert describe_trained(model) == expected
    model = random_model(**tiny_config)
    add_lora(model, 2, 10.0, 0, targets=("q_proj",), dora=True)
    trained = 2 * (2 * (32 + 32) + 32)
    expected = f"DoRA rank 2 on 2 layers (q_proj): {trained} of {NUMBERS:,} weights"
    assert describe_trained(model) == expected
    model.unfreeze()  # as mlx-lm leaves a model that it loaded adapters into
    assert describe_trained(model) == "all weights"


def test_large_models_are_described_in_millions(random_model, tiny_config):
    model = random_model(**tiny_config | {"vocab_size": 320_000})
    whole = NUMBERS + (320_000 - 42) * 32
    add_lora(model, 16, 10.0, 0)
    adapters = 16 * sum(2 * (a + b) for a, b in [(32, 32), (32, 16)] * 2 + [(32, 64)] * 3)
    assert describe_trained(model).endswith(
        f": {adapters / 1e6:.3f} of {whole / 1e6:.1f} M weights"
    )
