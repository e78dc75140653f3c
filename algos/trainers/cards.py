"""Makes the model card of a training by GRPO."""

from __future__ import annotations

from typing import Any

from textenv.algos.episodes.environments import task_name
from textenv.algos.runtime import backend

backend.prepare()

from textenv.algos.lm.models.card import ModelCard, changed_settings  # noqa: E402


def grpo_card(trainer: Any, steps: int, adapters: str | None = None) -> str:
    """The card of the model that a `GRPOTrainer` has trained, or of its adapters.

    Args:
        trainer: the trainer.
        steps: how many optimizer steps it has made.
        adapters: the form of the adapters, as `ModelCard` has it; None: it is a whole model.
    """
    rewards = [metrics["reward"] for metrics in trainer.history if "reward" in metrics]
    last = trainer.evaluations.last
    return ModelCard(
        "GRPO",
        getattr(trainer.model, "source_name", None),
        task_name(trainer.env),
        trainer.describe(),
        changed_settings(trainer.config),
        steps,
        (rewards[0], rewards[-1]) if rewards else None,
        None if last is None else last.as_dict(),
        adapters,
    ).text()
