"""What a training takes: by hand, and against what a backward takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.algos.shared import lowest_peak
from textenv.algos import GRPOConfig, PPOConfig
from textenv.algos.lm.memory.estimate import PROCESS, ModelSizes, Workload, estimate_memory
from textenv.algos.lm.models.lora import add_lora

SIZES = ModelSizes(
    1000, 1000, 4, layers=3, d=8, q=8, kv=4, f=16, vocabulary=10, shares_prompts=True
)


def test_sizes_of_a_model(random_model, tiny_config):
    model = random_model(**tiny_config)
    sizes = ModelSizes.of(model)
    # 42 x 32 embeddings; two layers of 32 x (32 + 16 + 16 + 32) + 3 x 32 x 64; norms
    numbers = 42 * 32 + 2 * (32 * 96 + 3 * 32 * 64 + 2 * 32 + 2 * 8) + 32
    assert sizes.weights == sizes.trainable == 4 * numbers
    assert sizes[2:] == (4, 2, 32, 32, 32, 64, 42, True)


def test_adapters_are_counted_as_they_are_made(random_model, tiny_config):
    model = random_model(**tiny_config)
    load = Workload.of(GRPOConfig(num_prompts=32, num_generations=16, lora_rank=4), 10, 10)
    before = estimate_memory(ModelSizes.of(model), load)
    add_lora(model, 4, 10.0, 0)
    assert before["optimizer"] == 2 * ModelSizes.of(model).trainable


def test_parts_of_a_rollout():
    """By hand: 512 completions at once of 64 prompts, three layers of keys and values."""
    load = Workload(128, 1024, prompt_tokens=100, completion_tokens=50, micro_batch=1, parts=True)
    parts = estimate_memory(SIZES, load)
    assert parts["keys and values"] == (64 * 100 + 512 * 50) * 3 * 4 * 4
    assert parts["optimizer"] == 2000 and parts["the process itself"] == PROCESS
    unshared = estimate_memory(SIZES._replace(shares_prompts=False), load)
    assert unshared["keys and values"] == 512 * 150 * 3 * 4 * 4


def test_oversampling_generates_more_at_once():
    """By hand: 512 completions of 256 prompts, in place of 256 of 128."""
    config = GRPOConfig(num_prompts=128, num_generations=2, micro_batch_size=1)
    for prompts, part in ((128, "dapo:cap=2"), (256, "dapo:cap=2,oversample=true")):
        work = Workload.of(replace(config, strategy=(part,)), 100, 50)
        parts = estimate_memory(SIZES, work)
        assert parts["keys and values"] == (prompts * 100 + 2 * prompts * 50) * 3 * 4 * 4


def test_a_reference_and_workers_have_weights_of_their_own():
    config = GRPOConfig(num_prompts=32, num_generations=16, beta=0.1, num_workers=2)
    parts = estimate_memory(SIZES, Workload.of(config, 10, 10))
    assert parts["reference model"] == 1000
    assert parts["worker processes"] == 2 * (1000 + PROCESS)
    assert not estimate_memory(SIZES, Workload.of(replace(config, lora_rank=2), 10, 10))[
        "reference model"
    ]


def test_load_of_ppo():
    load = Workload.of(PPOConfig(n_steps=512, batch_size=64, micro_batch_size=16), 10, 20)
    assert (load.completions, load.micro_batch, load.parts) == (512, 16, True)
    assert not Workload.of(PPOConfig(n_steps=512, batch_size=64), 10, 20).parts


@pytest.mark.parametrize("checkpointing", [False, True])
def test_growth_by_layers_is_what_is_measured(
    random_model, tiny_config, tiny, sample, checkpointing
):
    """What more layers add to the peak of a backward; all else is the same.

    With checkpointing, few layers add less than the next one that is computed again.
    """
    import mlx.core as mx
    import mlx.nn as nn

    from textenv.algos.lm.scoring.batch import make_batch
    from textenv.algos.lm.scoring.scorer import Scorer

    batch = make_batch(sample(*tiny, ["12+30="] * 24 + ["1+1="] * 24, max_tokens=33))
    measured, expected = [], []
    for layers in (8, 24) if checkpointing else (4, 12):
        model = random_model(**tiny_config | {"num_hidden_layers": layers})
        scorer = Scorer(model, checkpointing)
        gradient = nn.value_and_grad(model, lambda: scorer(batch)[0].sum())  # noqa: B023
        mx.eval(gradient())
        peak = lowest_peak(lambda: mx.eval(gradient()), times=10)  # noqa: B023
        sizes = ModelSizes.of(model)
        measured.append(peak - sizes.trainable)
        load = Workload(2, 48, 6, batch.token_ids.shape[1], 48, False, checkpointing)
        expected.append(estimate_memory(sizes, load)["kept for the backward"])
    growth = (expected[1] - expected[0]) / (measured[1] - measured[0])
    assert 0.65 < growth < 1.35


def test_half_precision_weights_are_trained_in_float32():
    """Two moments and a copy of each weight, and gradients of four bytes."""
    sizes = ModelSizes(4000, 4000, 4, 1, 8, 8, 8, 8, 10, True)
    half = sizes._replace(weights=2000, trainable=2000, item=2)
    work = Workload(1, 1, 1, 1, 1, parts=False)
    assert estimate_memory(sizes, work)["optimizer"] == 2 * 4000
    assert estimate_memory(half, work)["optimizer"] == 3 * 4000
    assert estimate_memory(half, work)["gradient"] == estimate_memory(sizes, work)["gradient"]
    adapters = replace(work, lora_rank=2)
    expected = estimate_memory(sizes, adapters)["optimizer"]
    assert estimate_memory(half, adapters)["optimizer"] == expected
