"""Whether a training fits in memory: found out before it starts, and said where it does not.

On a CPU it must be found out before: MLX does not look at what malloc gave it, so that one array
too many ends the process by a segmentation fault, or the kernel ends it. On a GPU MLX raises.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.runtime import backend
from textenv.env import draw_ids
from textenv.errors import ConfigError, OutOfMemoryError
from textenv.tasks import Task

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.memory.estimate import Load, Sizes, estimate  # noqa: E402
from textenv.algos.lm.memory.limits import Limit, memory_limit  # noqa: E402
from textenv.algos.lm.memory.pressure import watched  # noqa: E402

MARGIN = 1.4
"""An estimate may be this many times what there is before anything is refused: it is rough."""

_ASSUMED = 64  # tokens of a prompt that is not known
_SHARE = 4  # before any completion is seen: one in so many tokens of the longest
_MESSAGES = (  # of MLX's RuntimeErrors, in small letters
    "unable to allocate",  # [malloc], Metal and CUDA
    "[metal::malloc]",  # a buffer above the largest, or one too many
    "insufficient memory",  # a Metal command buffer
    "out of memory",  # what CUDA calls cudaErrorMemoryAllocation
)


class MemoryWatch:
    """Refuses a training of a language model that does not fit, and says why one broke off.

    Of one that may not fit it warns, once.

    Args:
        model: to be trained.
        config: a `GRPOConfig`, or a `PPOConfig` on text.
        env: whose prompts are looked at.
        tokenizer: that they go through.
        limit: memory that there is; None: of this process, at each time.

    Raises:
        OutOfMemoryError: where the training is too large even if completions are short; with the
            estimate by parts, the limit, and settings that would fit.
    """

    def __init__(
        self, model: nn.Module, config: Any, env: Any, tokenizer: Any, limit: Limit | None = None
    ):
        self._sizes, self._config, self._limit = Sizes.of(model), config, limit
        self._warned = False
        self._prompt, assumed = longest_prompt(env, tokenizer)
        short = -(-config.max_completion_length // _SHARE)
        self._check(self._prompt, short, f"{assumed}, completions of {short}")

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Around a rollout."""
        rows = "num_prompts" if hasattr(self._config, "num_prompts") else "n_steps"
        with out_of_memory("generating", f"lower {rows} or max_completion_length"):
            yield

    @contextmanager
    def updating(self, rollout: Buffer) -> Iterator[None]:
        """Around the update on a rollout, whose lengths are known now.

        Their means are taken: an update is cut by length where lengths differ much.
        """
        prompt = math.ceil(np.mean([len(t.prompt_ids or ()) for t in rollout] or [0]))
        completion = math.ceil(np.mean([len(t.token_ids or ()) for t in rollout] or [0]))
        self._check(prompt, completion, f"prompts of {prompt} tokens, completions of {completion}")
        with out_of_memory("updating", "lower micro_batch_size, or set gradient_checkpointing"):
            yield

    def _check(self, prompt: int, completion: int, about: str) -> None:
        limit = self._limit or memory_limit()
        if limit is None:
            return
        on_cpu = mx.default_device() == mx.cpu
        parts = estimate(self._sizes, Load.of(self._config, prompt, completion), on_cpu)
        total = sum(parts.values())
        refused = total > MARGIN * limit.size
        if total <= limit.size or (self._warned and not refused):
            return

        def fits(changes: dict[str, Any]) -> bool:
            try:
                config = replace(self._config, **changes)
            except ConfigError:  # such as fewer completions than num_minibatches
                return False
            load = Load.of(config, prompt, config.max_completion_length)
            return sum(estimate(self._sizes, load, on_cpu).values()) <= limit.size

        levers = _levers(self._config)
        settings = settings_that_fit(fits, levers)
        shown = ", ".join(
            f"{name} {_gb(size)}"
            for name, size in sorted(parts.items(), key=lambda part: -part[1])
            if size >= 0.01 * total
        )
        if settings:
            advice = "it should fit with " + ", ".join(f"{k}={v}" for k, v in settings.items())
        else:
            advice = f"no setting of {', '.join(levers)} makes it fit: take a smaller model"
        message = (
            f"training needs about {_gb(total)} ({shown}; {about}), and {limit.what} is "
            f"{_gb(limit.size)}: {advice}"
        )
        if refused:
            raise OutOfMemoryError(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        self._warned = True


def _levers(config: Any) -> dict[str, list[Any]]:
    """Settings that take less, each from mild to harsh, in the order to try them."""
    now = Load.of(config, 1, 1)
    levers: dict[str, list[Any]] = {
        "micro_batch_size": _halvings(now.micro_batch),
        "gradient_checkpointing": [] if config.gradient_checkpointing else [True],
        "lora_rank": [] if config.lora_rank else [16],
        "num_prompts": _halvings(getattr(config, "num_prompts", 1)),
    }
    return {name: values for name, values in levers.items() if values}


def settings_that_fit(
    fits: Callable[[dict[str, Any]], bool], levers: Mapping[str, Sequence[Any]]
) -> dict[str, Any] | None:
    """The first settings that fit, each no harsher than it must be; None where none do.

    Args:
        fits: whether some changes are enough.
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
    """What fits, with each setting left out, or milder, where it fits still."""
    for name in list(chosen):
        others = {other: value for other, value in chosen.items() if other != name}
        if fits(others):
            chosen = others
        else:
            mild = next(value for value in levers[name] if fits(chosen | {name: value}))
            chosen = chosen | {name: mild}
    return chosen


def _halvings(value: int) -> list[int]:
    """Half of it, a quarter, ... 1."""
    return [value >> i for i in range(1, value.bit_length())]


def longest_prompt(env: Any, tokenizer: Any) -> tuple[int, str]:
    """Tokens of the longest of some prompts of an environment's task, and what that is."""
    task = getattr(getattr(env, "unwrapped", env), "task", None)
    if not isinstance(task, Task) or task.max_turns > 1:  # a game may take long to set up
        return _ASSUMED, f"prompts of {_ASSUMED} tokens assumed"
    rngs = [np.random.default_rng(0)] * 8
    prompts = [task.example(i)["prompt"] for i in draw_ids(task, rngs)]
    longest = max(len(tokenizer.encode(prompt)) for prompt in prompts)
    return longest, f"prompts of {longest} tokens, the longest of {len(prompts)}"


def check_weights(folder: Path, limit: Limit | None = None) -> None:
    """Refuse a folder whose weights alone are too large, before any of them is read.

    Args:
        folder: of a model.
        limit: what there is; None: of this process, now.

    Raises:
        OutOfMemoryError: with both sizes, and what would fit.
    """
    limit = limit or memory_limit()
    tensors = [t for file in sorted(folder.glob("model*.safetensors")) for t in _header(file)]
    on_cpu = mx.default_device() == mx.cpu
    size, count = 0, 0
    for kind, length in tensors:
        half = kind in ("F16", "BF16")
        size += 2 * length if half and on_cpu else length  # `load_model` widens them
        count += length // (2 if half else 4)
    if limit is None or size <= limit.size:
        return
    quantized = any(kind == "U32" for kind, _ in tensors)
    small = int(count * 0.5625)  # 4 bits, and two half-precision numbers for each 64
    if not quantized and small <= limit.size:
        advice = (
            f"a copy quantized to 4 bits (mlx_lm.convert -q) takes about {_gb(small)} and can be "
            "trained with lora_rank"
        )
    else:
        fit = limit.size // (4 if on_cpu else 2)
        advice = f"take a smaller model, of fewer than {fit / 1e6:,.0f} million parameters"
    raise OutOfMemoryError(
        f"the weights in {folder} take {_gb(size)}"
        f"{', in float32 on a CPU' if on_cpu and not quantized else ''}, and {limit.what} is "
        f"{_gb(limit.size)}: {advice}"
    )


@contextmanager
def out_of_memory(what: str, advice: str) -> Iterator[None]:
    """Say what to do where memory runs out in a block, and on a CPU shortly before.

    Raises:
        OutOfMemoryError: in place of what MLX, NumPy or Python raise then.
    """
    try:
        with watched(what, advice):
            yield
    except OutOfMemoryError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(f"out of memory while {what}: {advice}") from error
    except RuntimeError as error:
        if not any(message in str(error).lower() for message in _MESSAGES):
            raise
        raise OutOfMemoryError(f"out of memory while {what}: {advice}") from error


def _header(file: Path) -> list[tuple[str, int]]:
    """Type and bytes of each tensor of a safetensors file; none where it is broken."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size:
            return []  # loading it will say so
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return []
    if not isinstance(header, dict):
        return []
    tensors = []
    for entry in header.values():
        match entry:
            case {"dtype": str(kind), "data_offsets": [int(start), int(end)]}:
                tensors.append((kind, end - start))
    return tensors


def _gb(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e9 else f"{size / 1e9:.1f} GB"
