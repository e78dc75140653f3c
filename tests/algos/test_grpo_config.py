"""Settings of GRPO: what is refused, and edges that are taken."""

from __future__ import annotations

import math

import pytest

from textenv.algos import GRPOConfig, OfflineTextConfig, PPOConfig
from textenv.algos.config import from_table, to_table
from textenv.errors import ConfigError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 0) for name in ("max_steps", "num_prompts", "max_completion_length")),
        *((name, 0) for name in ("num_iterations", "num_minibatches", "micro_batch_size")),
        *((name, -0.1) for name in ("epsilon", "epsilon_high", "beta", "learning_rate")),
        *((name, -1) for name in ("warmup_steps", "weight_decay", "lora_rank", "seed")),
        *((name, math.nan) for name in ("epsilon", "beta", "temperature", "max_grad_norm")),
        *(("loss_type", "ppo"), ("scale_rewards", "std"), ("lr_scheduler_type", "step")),
        *(("num_generations", 1), ("temperature", -1.0), ("temperature", math.inf)),
        *(("top_p", 0.0), ("top_p", 1.5), ("top_k", -1), ("min_p", 2.0)),
        *(("max_steps", 1.5), ("max_steps", True), ("max_steps", "9"), ("epsilon", None)),
        *(("stop", "\n"), ("stop", [""]), ("stop", [3]), ("chat_template_kwargs", "think")),
        *(("save_steps", -1), ("save_steps", 2.0), ("save_minutes", -1)),
        *(("beta", "0.1"), ("mask_truncated_completions", 1), ("chat_template", "yes")),
    ],
)
def test_bad_config_values_are_named(field, value):
    with pytest.raises((ValueError, TypeError), match=rf"\b{field}\b"):
        GRPOConfig(**{field: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_layers": 0}, "lora_layers must be -1 for all layers, or at least 1, got 0"),
        ({"lora_layers": -2}, "lora_layers must be at least -1, got -2"),
        ({"lora_dropout": 1.0}, "lora_dropout must be at least 0 and at most 0.99, got 1"),
        ({"lora_scale": -1.0}, "lora_scale must be at least 0, got -1"),
        ({"lora_rank": 0, "lora_layers": 4}, "lora_layers=4 needs lora_rank above 0"),
        (
            {"lora_rank": 0, "lora_targets": ("q_proj",)},
            r"lora_targets=\('q_proj',\) needs lora_rank",
        ),
        ({"lora_rank": 0, "lora_dropout": 0.1}, "lora_dropout=0.1 needs lora_rank"),
        ({"lora_rank": 0, "dora": True}, "dora=True needs lora_rank"),
        ({"lora_targets": "q_proj"}, "lora_targets must be"),
    ],
)
@pytest.mark.parametrize("kind", [GRPOConfig, PPOConfig, OfflineTextConfig])
def test_bad_settings_of_adapters_are_named(kind, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kind(**{"lora_rank": 4} | settings)


def test_more_minibatches_than_completions():
    with pytest.raises(ValueError, match="num_minibatches=7 is more than the 6 completions"):
        GRPOConfig(num_minibatches=7, num_prompts=2, num_generations=3)
    assert GRPOConfig(num_minibatches=6, num_prompts=2, num_generations=3).num_minibatches == 6


def test_stop_strings_and_settings_of_the_template_reach_the_policy():
    config = GRPOConfig(stop=["\n\n"], chat_template_kwargs={"enable_thinking": False})
    assert config.sampling["stop"] == config.stop == ("\n\n",)
    assert config.sampling["chat_template_kwargs"] == {"enable_thinking": False}
    assert hash(config) == hash(GRPOConfig(stop=("\n\n",)))
    assert from_table(GRPOConfig, to_table(config), "a run") == config


def test_config_accepts_its_edges():
    config = GRPOConfig(epsilon=0, num_generations=2, micro_batch_size=1, beta=1, temperature=2)
    assert config.sampling["temperature"] == 2


def test_the_size_of_rollouts_may_be_left_open():
    assert GRPOConfig(num_prompts=3, num_generations=5).completions == 15
    for open_ in (GRPOConfig(), GRPOConfig(num_prompts=3), GRPOConfig(num_generations=3)):
        assert from_table(GRPOConfig, to_table(open_), "a run") == open_
        with pytest.raises(ValueError, match="chosen by a trainer"):
            open_.completions  # noqa: B018


def test_settings_of_workers():
    assert GRPOConfig(backend="ray", num_workers=2, ray_address="auto").worker_timeout is None
    assert GRPOConfig(on_reward_error=-1).on_reward_error == -1
    with pytest.raises(ConfigError, match="backend='ray' needs num_workers above 0"):
        GRPOConfig(backend="ray")
    with pytest.raises(ConfigError, match="ray_address='auto' needs backend='ray'"):
        GRPOConfig(num_workers=2, ray_address="auto")
    with pytest.raises(
        ConfigError, match=r"worker_timeout must be at least 0\.1 and at most 1e\+06, got 0"
    ):
        GRPOConfig(worker_timeout=0)
    for value in ("ignore", None, True, math.nan):
        for config in (GRPOConfig, PPOConfig):
            with pytest.raises(ConfigError, match="on_reward_error must be 'fail', 'skip' or a"):
                config(on_reward_error=value)
    with pytest.raises(ConfigError, match=r"unknown backend 'slurm'.*local, ray"):
        GRPOConfig(backend="slurm")
