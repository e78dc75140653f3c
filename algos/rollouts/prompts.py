"""Checks the prompts of a dataset before a training, which a single long one would end."""

from __future__ import annotations

from typing import Any

from textenv.algos.episodes.environments import innermost
from textenv.algos.lm.models.properties import context_length
from textenv.envs.env import TextGenerationEnv
from textenv.errors import DataError
from textenv.tasks.dataset import Dataset

_TEMPLATE = 4096  # bytes that a chat template may add to a prompt


def check_prompts(policy: Any, env: Any) -> None:
    """Refuse a dataset that has a prompt that is too long for a language model's context.

    A token stands for at least one byte, so only prompts of so many bytes are encoded.

    Args:
        policy: a language model's policy.
        env: the environment that the policy will play; any but a single environment with a
            `Dataset` is left unchecked.

    Raises:
        DataError: for the first such prompt; names its row.
    """
    context = context_length(policy.model)
    inner = innermost(env)
    task = getattr(inner, "task", None)
    if context is None or not isinstance(inner, TextGenerationEnv) or not isinstance(task, Dataset):
        return
    shortest = context - policy.params.max_tokens - _TEMPLATE
    for example_id in task.longer_than(shortest):
        observation, info = env.reset(options={"example_id": example_id})
        try:
            policy.encode(observation, info.get("messages"), info.get("tools"))
        except DataError as error:
            raise DataError(
                f"{task.place(example_id)}: {error}; leave the row out, or lower the number of "
                "tokens of a completion"
            ) from error
