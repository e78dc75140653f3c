"""Makes the optimizer with its learning-rate schedule, and takes a step with a clipped gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from textenv.algos.runtime import backend
from textenv.errors import ConfigError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import (  # noqa: E402
    tree_flatten,
    tree_map,
    tree_map_with_path,
    tree_unflatten,
)

from textenv.algos.lm.kernels.block_sums import block_sum  # noqa: E402
from textenv.algos.lm.memory.estimate import PART  # noqa: E402
from textenv.algos.lm.models.lora import has_lora  # noqa: E402
from textenv.algos.lm.models.properties import count_parameters  # noqa: E402
from textenv.algos.lm.models.weights import arrays_like, as_numpy, checksums  # noqa: E402
from textenv.algos.storage.checkpoints.state import State  # noqa: E402

SCHEDULES = ("constant", "linear", "cosine")
_START = "schedule_start"  # in the optimizer's state, so that compiled steps read it
HALF = (mx.float16, mx.bfloat16)


def default_learning_rate(model: nn.Module) -> float:
    """A learning rate for AdamW that suits the size of the model.

    It is 1e-3 up to 10 million weights, 1e-5 up to 300 million and 1e-6 above; ten times that for
    LoRA adapters, at most 1e-3. These are rules of thumb: pass your own if you know better.
    """
    size = count_parameters(model)
    rate = 1e-3 if size <= 1e7 else 1e-5 if size <= 3e8 else 1e-6
    adapters_alone = has_lora(model) and count_parameters(model, trainable=True) < size / 2
    return min(1e-3, 10 * rate) if adapters_alone else rate


def make_adamw(
    learning_rate: float,
    steps: int | None = None,
    *,
    schedule: str = "linear",
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
) -> optim.Optimizer:
    """AdamW with bias correction and betas 0.9 and 0.95.

    Args:
        learning_rate: the highest learning rate.
        steps: how many optimizer steps there will be; None keeps the learning rate constant.
        schedule: ``"constant"``, ``"linear"`` (to 0) or ``"cosine"`` (to 0), after the warm-up.
        warmup_steps: steps over which the learning rate rises.
        weight_decay: pull of all weights towards 0.
    """
    rate: Any = learning_rate
    if steps is not None:
        left = max(1, steps - warmup_steps)
        rate = {
            "constant": lambda step: mx.array(learning_rate),
            "linear": optim.linear_schedule(learning_rate, 0.0, left),
            "cosine": optim.cosine_decay(learning_rate, left),
        }[schedule]
        if warmup_steps:
            # The rise does not begin at 0, since the first step would then change nothing.
            first = learning_rate / warmup_steps
            warmup = optim.linear_schedule(first, learning_rate, warmup_steps)
            rate = optim.join_schedules([warmup, rate], [warmup_steps])
    optimizer: Any = None

    def scheduled(step: mx.array) -> mx.array:
        return rate(step if optimizer is None else step - optimizer.state[_START])

    optimizer = optim.AdamW(
        scheduled if callable(rate) else rate,
        betas=[0.9, 0.95],
        weight_decay=weight_decay,
        bias_correction=True,
    )
    optimizer.state[_START] = mx.array(optimizer.step)
    return optimizer


def restart_schedule(optimizer: optim.Optimizer) -> None:
    """Let the schedule of an optimizer from `make_adamw` begin again; its moments stay."""
    optimizer.state[_START] = mx.array(optimizer.step)


class OptimizerStep:
    """Clips a gradient to a global norm and lets the optimizer apply it.

    The update of MLX's own optimizers is compiled, into fewer operations on each weight. A user's
    own class is not compiled, since it may do what cannot be compiled.

    If weights are in half precision, the optimizer moves a float32 copy of them, and the model is
    given that copy rounded. Most steps are smaller than the distance from a half-precision number
    to the next one, and would otherwise be lost. A weight that was changed from outside replaces
    its copy.

    Args:
        model: the model whose trainable weights are updated.
        optimizer: an MLX optimizer.
        max_grad_norm: the norm of the whole gradient is clipped to this; 0 does not clip.
    """

    def __init__(self, model: nn.Module, optimizer: optim.Optimizer, max_grad_norm: float):
        self._model, self._optimizer = model, optimizer
        self._max_norm = max_grad_norm or math.inf
        self._copies = {  # float32, by name
            name: weight.astype(mx.float32)
            for name, weight in _by_name(model.trainable_parameters()).items()
            if weight.dtype in HALF
        }
        optimizer.init(self._with_copies(model.trainable_parameters()))
        self._state = [model.state, optimizer.state, self._copies]
        mx.eval(self._state)  # another thread than this one may take the steps
        self._update: Callable[[Any, mx.array], None] = self._scaled_update
        if type(optimizer).__module__.startswith("mlx."):
            self._update = mx.compile(self._update, inputs=self._state, outputs=self._state)

    def __call__(self, gradient: Any, loss: float = 0.0) -> float:
        """Take a step.

        Args:
            gradient: a tree like that of the trainable weights.
            loss: the loss that it is the gradient of.

        Returns:
            The gradient's norm before it was clipped.

        Raises:
            FloatingPointError: if the norm or the loss is not finite; the weights are left as they
                were.
        """
        squares = [_sum_of_squares(array) for array in _by_name(gradient).values()]
        for part in self._parts(squares):
            mx.eval(part)
        norm: Any = mx.sqrt(sum(squares, mx.zeros(())))
        value = float(norm.item())
        for name, number in (("the gradient's norm", value), ("the loss", loss)):
            if not math.isfinite(number):
                raise FloatingPointError(
                    f"{name} is {number}: lower learning_rate, or train in a higher precision; the "
                    "weights were left as they were"
                )
        self._update(gradient, mx.minimum(self._max_norm / (norm + 1e-6), 1.0))
        for part in self._parts(list(_by_name(self._model.trainable_parameters()).values())):
            mx.eval(part)  # and their moments; what they replace is freed
        mx.eval(self._state)
        return value

    def _parts(self, arrays: Sequence[mx.array]) -> Iterator[Sequence[mx.array]]:
        """Arrays made of one weight each, for some of the weights at a time, to save memory."""
        weights = _by_name(self._model.trainable_parameters()).values()
        start = size = 0
        for end, weight in enumerate(weights, 1):
            size += weight.nbytes
            if size >= PART or end == len(arrays):
                yield arrays[start:end]
                start, size = end, 0

    def state(self) -> State:
        """The weights that are trained, the optimizer's state, and sums of the frozen weights.

        The arrays are not copied.
        """
        parts = {
            "weights": State(as_numpy(self._model.trainable_parameters())),
            "copies": State(as_numpy(self._copies)),
            "optimizer": State(as_numpy(self._optimizer.state)),
        }
        return State.joined({**parts, "frozen": State({"sums": self._frozen_sums})})

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave: the model has those weights, too.

        Raises:
            ConfigError: if it is the state of another model, or of a model whose frozen weights
                are others.
        """
        held = [self._model.trainable_parameters(), self._copies, self._optimizer.state]
        names = ("weights", "copies", "optimizer")
        loaded = [arrays_like(tree, state.part(n).arrays) for n, tree in zip(names, held)]
        if not np.array_equal(self._frozen_sums, state.array("frozen/sums")):
            raise ConfigError("the weights that are not trained are those of another model")
        self._model.update(tree_unflatten(list(loaded[0].items())))
        self._copies.update(loaded[1])
        # In place, since the compiled update reads and writes these very dicts.
        for name, array in loaded[2].items():
            _put(self._optimizer.state, name.split("."), array)
        mx.eval(self._state)

    @cached_property
    def _frozen_sums(self) -> np.ndarray:
        trained = _by_name(self._model.trainable_parameters())
        every = _by_name(self._model.parameters())
        return checksums([(name, w) for name, w in every.items() if name not in trained])

    def _scaled_update(self, gradient: Any, scale: mx.array) -> None:
        gradient = widened(gradient)
        scaled = tree_map(lambda g: g * scale.astype(g.dtype), gradient)
        if not self._copies:
            self._optimizer.update(self._model, scaled)
            return
        weights = _by_name(self._model.trainable_parameters())
        for name, copy in self._copies.items():
            weight = weights[name]
            same = copy.astype(weight.dtype) == weight
            self._copies[name] = mx.where(same, copy, weight.astype(mx.float32))
        moved = self._optimizer.apply_gradients(
            scaled, self._with_copies(self._model.trainable_parameters())
        )
        self._copies.update(
            {name: weight for name, weight in _by_name(moved).items() if name in self._copies}
        )
        rounded = tree_map_with_path(lambda name, w: w.astype(weights[name].dtype), moved)
        self._model.update(rounded)

    def _with_copies(self, weights: Any) -> Any:
        """A tree of weights in which the float32 copies stand for the weights that have one."""
        return tree_map_with_path(lambda name, weight: self._copies.get(name, weight), weights)


def _sum_of_squares(array: mx.array) -> mx.array:
    return block_sum(mx.square(array.astype(mx.float32)).reshape(-1))


def widened(tree: Any) -> Any:
    """A tree of arrays in which those in half precision are made float32."""
    return tree_map(lambda x: x.astype(mx.float32) if x.dtype in HALF else x, tree)


def _put(tree: Any, path: list[str], array: mx.array) -> None:
    """Replace an array of a tree in place, by its name in parts."""
    for name in path[:-1]:
        tree = tree[int(name)] if isinstance(tree, list) else tree[name]
    tree[int(path[-1]) if isinstance(tree, list) else path[-1]] = array


def _by_name(tree: Any) -> dict[str, mx.array]:
    flat: Any = tree_flatten(tree)
    return dict(flat)
