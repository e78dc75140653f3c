"""What GRPO makes from its settings: the loss, its gradient, the policy, and the optimizer."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

from textenv.algos.grpo_config import GRPOConfig
from textenv.algos.runtime import backend

backend.prepare()

from textenv.algos.grpo import policy_loss  # noqa: E402
from textenv.algos.lm.generation.policy import LanguageModelPolicy, create_policy  # noqa: E402
from textenv.algos.lm.models.loading import load_model  # noqa: E402
from textenv.algos.lm.models.lora import adapt  # noqa: E402
from textenv.algos.lm.models.properties import quantized_layers  # noqa: E402
from textenv.algos.training.gradient import LocalGradient, LossFn  # noqa: E402
from textenv.algos.training.optimizer import make_adamw  # noqa: E402


def make_loss(config: GRPOConfig) -> LossFn:
    """Make the loss of these settings."""
    return partial(
        policy_loss,
        loss_type=config.loss_type,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        beta=config.beta,
        use_bias_correction_kl=config.use_bias_correction_kl,
        max_completion_length=config.max_completion_length,
    )


def make_gradient(config: GRPOConfig, policy: LanguageModelPolicy) -> LocalGradient:
    """Make the function that computes gradients in a worker."""
    return LocalGradient(policy.model, make_loss(config), config.gradient_checkpointing)


def sources(model: Any, adapters: str | Path | None) -> tuple[str, str | None, bool]:
    """The folders that a worker reads, and whether it dequantizes: as it was done here."""
    path = None if adapters is None else str(Path(adapters).resolve())
    return str(model.source.resolve()), path, not quantized_layers(model)


def make_policy(
    folder: str, adapters: str | None, dequantize: bool, config: GRPOConfig
) -> LanguageModelPolicy:
    """Make the policy of a worker; its weights are sent later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of these folders were said by the trainer
        model, tokenizer = load_model(folder, adapters, dequantize=dequantize)
    adapt(model, config)
    return create_policy(model, tokenizer, config.sampling)


def make_optimizer(config: GRPOConfig, learning_rate: float) -> Any:
    """Make the optimizer of these settings, with its schedule."""
    return make_adamw(
        learning_rate,
        config.max_steps,
        schedule=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
    )
