"""Checks that a training fits in memory before it starts, and suggests settings if it does not.

On a CPU the check must come first. MLX does not check what malloc returns, so that one array too
many ends the process by a segmentation fault, or the kernel ends it. On a GPU, MLX raises.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from textenv.algos.episodes.environments import innermost
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.runtime import backend
from textenv.envs.env import TextGenerationEnv
from textenv.envs.resets import draw_ids
from textenv.errors import ConfigError, OutOfMemoryError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.memory.estimate import ModelSizes, Workload, estimate_memory  # noqa: E402
from textenv.algos.lm.memory.limits import MemoryLimit, in_gb, memory_limit  # noqa: E402
from textenv.algos.lm.memory.pressure import out_of_memory  # noqa: E402

MARGIN = 1.4
"""A training is refused if the estimate, which is rough, is more than this many times the limit."""

_ASSUMED = 64  # tokens of a prompt, if the prompts are not known
_SHARE = 4  # before the first rollout, completions are taken to be the longest divided by this


class MemoryWatch:
    """Refuses to train a language model that does not fit in memory, and explains a failure.

    If a training may not fit, it warns once.

    Args:
        model: the model to train.
        config: a `GRPOConfig`, a `PPOConfig` on text, or an `SFTConfig`.
        env: the environment, whose prompts are measured; None: nothing is checked yet, see `check`.
        tokenizer: encodes prompts: the policy, so that a chat template counts.
        limit: the memory that there is; None: what this process has at the time of each check.

    Raises:
        OutOfMemoryError: if the training is too large even with short completions. The message has
            the estimate by parts, the limit, and settings that would fit.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Any,
        env: Any = None,
        tokenizer: Any = None,
        limit: MemoryLimit | None = None,
    ):
        self._sizes, self._config, self._limit = ModelSizes.of(model), config, limit
        self._warned = False
        if env is None:
            return
        self._prompt, self._assumed = longest_prompt(env, tokenizer)
        short = -(-config.max_completion_length // _SHARE)
        self._check(self._prompt, short, f"{self._assumed}, completions of {short}")

    def describe(self) -> str:
        """What the training needs if completions are as long as they may be, in one line."""
        parts = self._estimate(self._prompt, self._config.max_completion_length)
        limit = self._limit or memory_limit()
        room = "" if limit is None else f", and {limit.what} is {in_gb(limit.size)}"
        return (
            f"training needs about {in_gb(sum(parts.values()))} ({_shown(parts)}; {self._assumed}, "
            f"completions of {self._config.max_completion_length}){room}"
        )

    @contextmanager
    def generating(self) -> Iterator[None]:
        """A block in which a rollout is played."""
        rows = "num_prompts" if hasattr(self._config, "num_prompts") else "n_steps"
        with out_of_memory("generating", f"lower {rows} or max_completion_length"):
            yield

    @contextmanager
    def updating(self, rollout: Buffer) -> Iterator[None]:
        """A block in which the model is trained on a rollout, which is checked first."""
        self.check(rollout)
        with out_of_memory("updating", "lower micro_batch_size, or set gradient_checkpointing"):
            yield

    def check(self, rollout: Buffer | Sequence[Trajectory]) -> None:
        """Check whether there is memory to train on some trajectories.

        The check takes mean lengths, because an update is cut by length if lengths differ much.

        Raises:
            OutOfMemoryError: if there is not.
        """
        prompt = math.ceil(np.mean([len(t.prompt_ids or ()) for t in rollout] or [0]))
        completion = math.ceil(np.mean([len(t.token_ids or ()) for t in rollout] or [0]))
        self._check(prompt, completion, f"prompts of {prompt} tokens, completions of {completion}")

    def _check(self, prompt: int, completion: int, about: str) -> None:
        limit = self._limit or memory_limit()
        if limit is None:
            return
        on_cpu = mx.default_device() == mx.cpu
        parts = self._estimate(prompt, completion)
        total = sum(parts.values())
        refused = total > MARGIN * limit.size
        if total <= limit.size or (self._warned and not refused):
            return

        def fits(changes: dict[str, Any]) -> bool:
            try:
                config = replace(self._config, **changes)
            except ConfigError:  # such as fewer completions than num_minibatches
                return False
            longest = max(completion, config.max_completion_length)
            work = Workload.of(config, prompt, longest)
            return sum(estimate_memory(self._sizes, work, on_cpu).values()) <= limit.size

        levers = _levers(self._config)
        settings = settings_that_fit(fits, levers)
        if settings:
            advice = "it should fit with " + ", ".join(f"{k}={v}" for k, v in settings.items())
        else:
            advice = f"no setting of {', '.join(levers)} makes it fit: take a smaller model"
        message = (
            f"training needs about {in_gb(total)} ({_shown(parts)}; {about}), and {limit.what} is "
            f"{in_gb(limit.size)}: {advice}"
        )
        if refused:
            raise OutOfMemoryError(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        self._warned = True

    def _estimate(self, prompt: int, completion: int) -> dict[str, int]:
        work = Workload.of(self._config, prompt, completion)
        return estimate_memory(self._sizes, work, mx.default_device() == mx.cpu)


def _shown(parts: Mapping[str, int]) -> str:
    """The parts of an estimate in words, the largest first, without those that hardly count."""
    total = sum(parts.values())
    return ", ".join(
        f"{name} {in_gb(size)}"
        for name, size in sorted(parts.items(), key=lambda part: -part[1])
        if size >= 0.01 * total
    )


def _levers(config: Any) -> dict[str, list[Any]]:
    """Settings that take less memory, each from mild to harsh, in the order to try them."""
    now = Workload.of(config, 1, 1)
    levers: dict[str, list[Any]] = {
        "micro_batch_size": halvings(now.micro_batch),
        "gradient_checkpointing": [] if config.gradient_checkpointing else [True],
        "lora_rank": [] if config.lora_rank else [16],
        "num_prompts": halvings(getattr(config, "num_prompts", 1)),
    }
    return {name: values for name, values in levers.items() if values}


def settings_that_fit(
    fits: Callable[[dict[str, Any]], bool], levers: Mapping[str, Sequence[Any]]
) -> dict[str, Any] | None:
    """The first settings that fit, each as mild as possible; None if no settings fit.

    Args:
        fits: a function that says whether some changed settings are enough.
        levers: names of settings, each with values from mild to harsh, in the order to try them.
    """
    chosen: dict[str, Any] = {}
    for name, values in levers.items():
        for value in values:
            chosen[name] = value
            if fits(chosen):
                return _relaxed(fits, levers, chosen)
    return None


def _relaxed(
    fits: Callable[[dict[str, Any]], bool],
    levers: Mapping[str, Sequence[Any]],
    chosen: dict[str, Any],
) -> dict[str, Any]:
    """Settings that fit, with each one left out or made milder if the others still suffice."""
    for name in list(chosen):
        others = {other: value for other, value in chosen.items() if other != name}
        if fits(others):
            chosen = others
        else:
            mild = next(value for value in levers[name] if fits(chosen | {name: value}))
            chosen = chosen | {name: mild}
    return chosen


def halvings(value: int) -> list[int]:
    """Half of a number, a quarter, and so on down to 1."""
    return [value >> i for i in range(1, value.bit_length())]


def longest_prompt(env: Any, tokenizer: Any) -> tuple[int, str]:
    """Tokens of the longest of some prompts of an environment, and a text that says so.

    Args:
        env: the environment; if it is a single one of text, it is reset.
        tokenizer: encodes a prompt, and the messages of a conversation if it is a policy.
    """
    inner = innermost(env)
    task = inner.task if isinstance(inner, TextGenerationEnv) else None
    if task is None or task.max_turns > 1:  # a game's set-up may be slow
        return _ASSUMED, f"prompts of {_ASSUMED} tokens assumed"
    lengths = []
    for example_id in draw_ids(task, [np.random.default_rng(0)] * 8):
        prompt, info = inner.reset(options={"example_id": example_id})
        more = {name: info[name] for name in ("messages", "tools") if name in info}
        lengths.append(len(tokenizer.encode(prompt, **more)))
    return max(lengths), f"prompts of {max(lengths)} tokens, the longest of {len(lengths)}"
