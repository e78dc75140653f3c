"""Settings that are left open are chosen by the model and the memory, and explicit ones stay."""

from types import SimpleNamespace

import mlx.core as mx
import pytest

from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig
from textenv.algos.lm.memory.estimate import ModelSizes, Workload, estimate_memory
from textenv.algos.lm.memory.limits import MemoryLimit
from textenv.algos.training import fitting
from textenv.algos.training.fitting import LARGE_ROLLOUT, SHARE, fit
from textenv.errors import ConfigError

GB = 10**9


class Env:
    """An environment without a task that is known."""


def needs(config, model):
    """The estimate for completions as long as they may be."""
    work = Workload.of(config, 64, config.max_completion_length)
    on_cpu = mx.default_device() == mx.cpu
    return sum(estimate_memory(ModelSizes.of(model), work, on_cpu).values())


def test_a_small_model_has_the_rollouts_it_always_had(tiny):
    config, said = fit(GRPOConfig(), tiny[0], Env(), tiny[1], MemoryLimit(16 * GB, "room"))
    assert (config.num_prompts, config.num_generations, config.micro_batch_size) == (32, 16, None)
    assert "num_prompts=32, num_generations=16" in said and "16.0 GB" in said


def test_tiny_lm_too_whatever_the_machine_has():
    trainer = GRPOTrainer("tiny-lm")
    config = trainer.config
    assert (config.num_prompts, config.num_generations, config.micro_batch_size) == (32, 16, None)
    assert trainer.chosen.startswith("chosen for 0.5 million weights")


def test_a_large_model_has_smaller_rollouts(tiny, monkeypatch):
    monkeypatch.setattr(fitting, "SMALL", 10)
    config, _ = fit(GRPOConfig(), tiny[0], Env(), tiny[1], MemoryLimit(16 * GB, "room"))
    assert (config.num_prompts, config.num_generations) == LARGE_ROLLOUT
    parts = GRPOConfig(strategy=("pods:keep=12",))
    config, _ = fit(parts, tiny[0], Env(), tiny[1], MemoryLimit(16 * GB, "room"))
    assert (config.num_prompts, config.num_generations) == (LARGE_ROLLOUT[0], 16)


def test_what_is_said_wins(tiny):
    said = GRPOConfig(num_prompts=3, num_generations=5, micro_batch_size=7)
    for room in (16 * GB, 10**6):
        assert fit(said, tiny[0], Env(), tiny[1], MemoryLimit(room, "room")) == (said, "")
    one = GRPOConfig(num_prompts=3)
    assert fit(one, tiny[0], Env(), tiny[1], MemoryLimit(16 * GB, "room")).config.num_prompts == 3


def test_the_micro_batch_is_the_largest_half_that_fits(random_model, tiny_config, tiny):
    model = random_model(**tiny_config | {"num_hidden_layers": 16})
    asked = GRPOConfig(num_prompts=32, num_generations=16, max_completion_length=512)
    room = MemoryLimit(2 * GB, "room")
    assert needs(asked, model) > room.size
    config, said = fit(asked, model, Env(), tiny[1], room)
    assert (config.num_prompts, config.num_generations) == (32, 16)
    size = config.micro_batch_size
    assert f"micro_batch_size={size}" in said and size in (256, 128, 64, 32, 16, 8, 4, 2, 1)
    assert needs(config, model) <= SHARE * room.size
    twice = GRPOConfig(
        num_prompts=32, num_generations=16, max_completion_length=512, micro_batch_size=2 * size
    )
    assert needs(twice, model) > SHARE * room.size


def test_prompts_go_too_if_they_are_open(random_model, tiny_config, tiny):
    """Of a model with much in its cache, the rollout itself is too large."""
    model = random_model(**tiny_config | {"num_hidden_layers": 16, "head_dim": 128})
    config = GRPOConfig(max_completion_length=512)
    room = MemoryLimit(3 * GB, "room")
    fitted, _ = fit(config, model, Env(), tiny[1], room)
    assert fitted.num_prompts < 32 and fitted.num_generations == 16
    assert needs(fitted, model) <= SHARE * room.size


def test_where_nothing_fits_everything_stays_for_the_watch_to_refuse(tiny):
    config, _ = fit(GRPOConfig(), tiny[0], Env(), tiny[1], MemoryLimit(10**6, "room"))
    assert (config.num_prompts, config.micro_batch_size) == (32, None)


def test_of_ppo_the_micro_batch_alone_is_open(random_model, tiny_config, tiny):
    model = random_model(**tiny_config | {"num_hidden_layers": 16})
    asked = PPOConfig(n_steps=512, batch_size=512, max_completion_length=512)
    config, said = fit(asked, model, Env(), tiny[1], MemoryLimit(2 * GB, "room"))
    assert config.micro_batch_size < 512 and said.endswith(
        f": micro_batch_size={config.micro_batch_size}"
    )
    assert fit(asked, model, Env(), tiny[1], MemoryLimit(10**12, "room")) == (asked, "")


def test_more_minibatches_than_completions_are_refused(tiny):
    with pytest.raises(ConfigError, match="num_minibatches=600 is more than the 512"):
        fit(GRPOConfig(num_minibatches=600), tiny[0], Env(), tiny[1], MemoryLimit(GB, "room"))


def test_nothing_is_chosen_by_a_limit_that_nobody_knows(tiny, monkeypatch):
    monkeypatch.setattr(fitting, "memory_limit", lambda: None)
    config, said = fit(GRPOConfig(), tiny[0], SimpleNamespace(), tiny[1])
    assert config.num_prompts == 32 and "memory" not in said
