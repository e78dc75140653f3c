"""Chooses the style of a task's prompts by the model: chat models are asked in words."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from textenv.envs.env import ENTRY_POINT
from textenv.tasks import styles
from textenv.tokenizers import load_tokenizer


def style_for(
    env: Any,
    env_kwargs: Mapping[str, Any] | None,
    tokenizer: Any,
    chat_template: bool | None = None,
) -> dict[str, Any]:
    """The arguments of ``gym.make``, with ``style="chat"`` if the model and the task can chat.

    They stay as they are if a style is given already, if ``env`` is not an id, or if the task has
    one style only, as own prompts and datasets have.

    Args:
        env: an environment's id, or anything that `make_env` takes.
        env_kwargs: arguments of ``gym.make``.
        tokenizer: the model's tokenizer, or the model's name or folder.
        chat_template: whether prompts go through the chat template; None: if there is one.

    Raises:
        ConfigError: for an unknown task.
    """
    kwargs = dict(env_kwargs or {})
    if chat_template is False or not isinstance(env, str) or not _can_chat(env, kwargs):
        return kwargs
    chats = load_tokenizer(tokenizer, "model").has_chat_template
    return kwargs | {"style": "chat"} if chats else kwargs


def _can_chat(env_id: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether the style of an environment is open, and may be ``"chat"``."""
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        spec = gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError):  # who makes the environment reports it
        return False
    given = {key: value for key, value in {**spec.kwargs, **kwargs}.items() if value is not None}
    if spec.entry_point != ENTRY_POINT or given.keys() & {"style", "prompts", "dataset"}:
        return False
    task = given.get("task") or "arithmetic"
    return isinstance(task, str) and "chat" in styles(task)
