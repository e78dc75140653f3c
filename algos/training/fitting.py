"""Chooses the settings that were left open, by the size of the model and the free memory.

A rollout has 32 prompts x 16 completions for a small model, whose answers cost next to nothing, and
fewer for a larger one, so that a step takes seconds on a CPU and not minutes. The micro-batch is
the largest one that fits in memory if all completions are as long as they may be.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from textenv.algos.lm.memory.estimate import ModelSizes, Workload, estimate_memory
from textenv.algos.lm.memory.limits import MemoryLimit, in_gb, memory_limit
from textenv.algos.lm.memory.watch import halvings, longest_prompt, settings_that_fit
from textenv.algos.runtime import backend
from textenv.errors import ConfigError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.models.properties import count_parameters  # noqa: E402

SMALL = 10_000_000
"""Weights up to which a model is small, as in `default_learning_rate`."""
SMALL_ROLLOUT = 32, 16
"""Prompts, and completions of each, for a small model."""
LARGE_ROLLOUT = 8, 8
"""The same for any other model."""
SHARE = 0.75
"""The share of the free memory that the estimate may take: it may be too low by a quarter."""


class Fit(NamedTuple):
    """Settings without gaps, and what was chosen."""

    config: Any
    said: str
    """What was chosen and why, in one line; empty if nothing was left open."""


def fit(
    config: Any, model: nn.Module, env: Any, policy: Any, limit: MemoryLimit | None = None
) -> Fit:
    """Choose ``num_prompts``, ``num_generations`` and ``micro_batch_size`` where they are None.

    If nothing fits in memory, they stay as large as if there were enough: `MemoryWatch` then
    refuses the training, and says what would fit.

    Args:
        config: a `GRPOConfig`, or a `PPOConfig` on text, of which only the micro-batch is chosen.
        model: the model to train, with its adapters.
        env: the environment, whose prompts are measured.
        policy: encodes prompts.
        limit: the memory that there is; None: what this process has now.
    """
    weights = count_parameters(model)
    prompts, generations = SMALL_ROLLOUT if weights <= SMALL else LARGE_ROLLOUT
    if getattr(config, "strategy", ()):  # parts are made for groups of that size
        generations = SMALL_ROLLOUT[1]
    usual = {"num_prompts": prompts, "num_generations": generations}
    chosen = {name: usual[name] for name in usual if getattr(config, name, 0) is None}
    fitted = replace(config, **chosen)
    limit = limit or memory_limit()
    if limit is not None:
        less = _that_fit(fitted, config, model, env, policy, limit)
        chosen, fitted = chosen | less, replace(fitted, **less)
    if not chosen:
        return Fit(fitted, "")
    why = f"{weights / 1e6:,.1f} million weights"
    if limit is not None:
        why += f" and {in_gb(limit.size)} of memory"
    return Fit(fitted, f"chosen for {why}: {', '.join(f'{k}={v}' for k, v in chosen.items())}")


def _that_fit(
    fitted: Any, config: Any, model: nn.Module, env: Any, policy: Any, limit: MemoryLimit
) -> dict[str, int]:
    """Lower settings that fit in memory, of those that the config leaves open."""
    sizes, on_cpu = ModelSizes.of(model), mx.default_device() == mx.cpu
    prompt, _ = longest_prompt(env, policy)

    def fits(changes: dict[str, Any]) -> bool:
        try:
            changed = replace(fitted, **changes)
        except ConfigError:  # such as fewer completions than num_minibatches
            return False
        work = Workload.of(changed, prompt, config.max_completion_length)
        return sum(estimate_memory(sizes, work, on_cpu).values()) <= SHARE * limit.size

    if fits({}):
        return {}
    levers: dict[str, list[int]] = {}
    if config.micro_batch_size is None:
        levers["micro_batch_size"] = halvings(Workload.of(fitted, 1, 1).micro_batch)
    if getattr(config, "num_prompts", 0) is None:
        levers["num_prompts"] = halvings(fitted.num_prompts)
    return settings_that_fit(fits, levers) or {}
