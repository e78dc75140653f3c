"""One policy-gradient update of a language model from a buffer of trajectories.

buffer -> batch -> advantages -> microbatches -> log-probabilities -> loss -> gradient -> weights.
Two functions define an algorithm: ``advantage_fn`` and ``loss_fn``.

Shapes: N trajectories, T tokens.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.lm.scoring.batch import BatchSize, TokenBatch, make_batch
from textenv.algos.runtime import backend
from textenv.algos.storage.checkpoints.state import State, load_rng, save_rng
from textenv.algos.training.guard import SKIPPED, StepGuard
from textenv.algos.training.importance import correct
from textenv.algos.training.inspecting import Trained
from textenv.algos.training.microbatches import MicroBatch, split
from textenv.algos.training.tree_advantages import tree_advantages
from textenv.errors import ConfigError, DataError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402

from textenv.algos.lm.models.lora import dropout_seed, has_dropout  # noqa: E402
from textenv.algos.lm.models.properties import check_trainable  # noqa: E402
from textenv.algos.lm.scoring.scorer import Scorer, by_parts  # noqa: E402
from textenv.algos.training.gradient import (  # noqa: E402
    GradientComputer,
    LocalGradient,
    LossFn,
)
from textenv.algos.training.optimizer import (  # noqa: E402
    OptimizerStep,
    default_learning_rate,
    make_adamw,
)

AdvantageFn = Callable[[np.ndarray, np.ndarray], Any]
"""``advantage_fn(rewards, group_ids) -> advantages``, all (N,)."""

CreditFn = Callable[[TokenBatch, np.ndarray], np.ndarray]
"""``credit_fn(batch, advantages)`` gives advantages of tokens (N, T) from those of leaves (N,)."""


class Trainer:
    """Updates a model from a buffer.

    Args:
        model: a language model, trained in place.
        advantage_fn: ``(rewards, group_ids) -> advantages``, such as `grpo.compute_advantages`.
        loss_fn: ``(logprobs, old_logprobs, advantages, mask) -> (loss, metrics)``, such as
            `grpo.policy_loss`. If it declares ``batch_size``, it is given the size of the whole
            batch, so that rows without signal can be left out and the others can be taken in
            microbatches. If it declares ``ref_logprobs``, it is given those of ``reference``. If
            it declares ``weights``, and trajectories have ``token_weights``, it is given these as
            (N, T). If it declares ``hits``, it is given 1 for each token that is the most probable
            one, else 0. The ``token_advantages`` of a trajectory replace the advantage that
            ``advantage_fn`` gives it.
        optimizer: an MLX optimizer; None: AdamW with `default_learning_rate`, betas 0.9 and 0.95,
            no weight decay, bias correction.
        buffer: the trajectories to train on.
        on_policy: clear the buffer after training.
        num_iterations: passes over the buffer.
        num_minibatches: optimizer steps of each pass.
        micro_batch_size: trajectories in one forward and backward pass; None: all of a minibatch.
            A group that is a tree stays whole.
        gradient_checkpointing: compute each layer again in the backward pass: slower, in less
            memory.
        max_grad_norm: the gradient's global norm is clipped to this; 0 does not clip.
        mask_truncated_completions: leave completions that ran out of tokens out of the loss.
        reference: gives the log-probabilities (N, T) of a batch under a frozen policy.
        credit_fn: gives the tokens of trees their advantages.
        gradient: computes the gradients of ``loss_fn`` by this model's weights; None computes them
            in this process.
        guard: lets the training go on after a step without a finite gradient; None ends it there.
        importance_cap: older weights have sampled the buffer, which importance weights of at most
            this correct; see `textenv.algos.training.importance`. None: it is of the present ones.
        seed: seeds the minibatches.

    Attributes:
        trained: what the last call of `train` trained on; None before the first one.

    Raises:
        ConfigError: if the model has no weights to train, since they are frozen or quantized and
            there is no LoRA.
    """

    def __init__(
        self,
        model: nn.Module,
        advantage_fn: AdvantageFn,
        loss_fn: LossFn,
        optimizer: optim.Optimizer | None = None,
        buffer: Buffer | None = None,
        on_policy: bool = True,
        *,
        num_iterations: int = 1,
        num_minibatches: int = 1,
        micro_batch_size: int | None = None,
        gradient_checkpointing: bool = False,
        max_grad_norm: float = 1.0,
        mask_truncated_completions: bool = False,
        reference: Callable[[TokenBatch], mx.array] | None = None,
        credit_fn: CreditFn = tree_advantages,
        gradient: GradientComputer | None = None,
        guard: StepGuard | None = None,
        importance_cap: float | None = None,
        seed: int = 0,
    ):
        check_trainable(model)
        self.model = model
        self.advantage_fn = advantage_fn
        self.loss_fn = loss_fn
        self.optimizer = optimizer or make_adamw(default_learning_rate(model))
        self.buffer = Buffer() if buffer is None else buffer
        self.on_policy = on_policy
        self.num_iterations = num_iterations
        self.num_minibatches = num_minibatches
        self.micro_batch_size = micro_batch_size
        self._step = OptimizerStep(model, self.optimizer, max_grad_norm)
        self.mask_truncated_completions = mask_truncated_completions
        self.reference = reference
        self.credit_fn = credit_fn
        self._declares = inspect.signature(loss_fn).parameters
        self._divisible = "batch_size" in self._declares
        self._gradient = gradient or LocalGradient(model, loss_fn, gradient_checkpointing)
        self._guard, self._importance_cap = guard, importance_cap
        self._rng, self._seed = np.random.default_rng(seed), seed
        self._drops = has_dropout(model)
        self._scorer = None if importance_cap is None else Scorer(model)
        self.trained: Trained | None = None

    def train(self, max_updates: int | None = None) -> dict[str, float]:
        """Train on the buffer, and clear it if training is on-policy.

        If no trajectory has an advantage, the optimizer is not called: AdamW would move the
        weights by its momentum even on a gradient of zero.

        Args:
            max_updates: stop after this many optimizer steps.

        Returns:
            Metrics, averaged over the optimizer steps; ``updates`` is the number of steps, and
            ``skipped_steps`` that of those that the guard let pass, if there were any.

        Raises:
            FloatingPointError: if the loss or the gradient of a step is not finite, and there is no
                guard. It is a `NotFiniteError` if the guard ends the training.
            DataError: for an empty buffer, or trajectories without tokens.
            ConfigError: if trajectories have token weights and the loss takes none.
        """
        batch = make_batch(self.buffer.trajectories, self.mask_truncated_completions)
        advantages = np.asarray(self.advantage_fn(batch.rewards, batch.group_ids), np.float32)
        if advantages.shape != (len(batch),):
            raise ConfigError(
                f"advantage_fn must return shape ({len(batch)},), got {advantages.shape}"
            )
        if batch.weights is not None and "weights" not in self._declares:
            raise ConfigError(
                "trajectories have token_weights, and loss_fn takes no weights=: use one that "
                "does, such as grpo.policy_loss"
            )
        if batch.parent is not None:
            advantages = self.credit_fn(batch, advantages)  # (N, T)
        if batch.token_advantages is not None:
            own = batch.token_advantages
            advantages = advantages.reshape(len(batch), -1)
            advantages = np.where(np.isnan(own), advantages, own)  # (N, T)
        if advantages.ndim == 1:
            has_signal = (advantages != 0) & batch.loss_weights.any(axis=1)
        else:
            has_signal = ((advantages != 0) & (batch.loss_weights != 0)).any(axis=1)
        if batch.parent is not None:  # other rows may go on from a row without signal
            has_signal = np.isin(batch.group_ids, batch.group_ids[has_signal])
        history: list[dict[str, float]] = []
        skipped = 0
        corrected: dict[str, float] = {}
        if has_signal.any():
            if self._importance_cap is not None:
                present = self._present_logprobs(batch, has_signal)
                batch, advantages, corrected = correct(
                    batch, advantages, present, self._importance_cap
                )
            ref_logprobs = self._ref_logprobs(batch)
            limit = math.inf if max_updates is None else max_updates
            for rows in self._minibatches(batch):
                if len(history) + skipped == limit:
                    break
                try:
                    metrics = self._update(batch, advantages, has_signal, ref_logprobs, rows)
                except FloatingPointError as error:
                    if self._guard is None:
                        raise
                    trained_on = [self.buffer.trajectories[i] for i in batch.order[rows]]
                    self._guard.skipped(error, trained_on)
                    skipped += 1
                    continue
                if metrics:  # empty if the minibatch had no signal
                    history.append(metrics)
                    if self._guard is not None:
                        self._guard.taken()
        self.trained = Trained(batch, advantages, bool(history))
        if self.on_policy:
            self.buffer.clear()
        names = history[0] if history else {}
        metrics = {name: float(np.mean([m[name] for m in history])) for name in names}
        if history:  # only before the first update is the trained policy the sampler
            name = "sampling/logprob_difference/max"
            metrics[name] = history[0][name]
        metrics |= corrected
        missed = {SKIPPED: float(skipped)} if skipped else {}
        return metrics | missed | {"updates": float(len(history))}

    def state(self) -> State:
        """The weights, the optimizer, and the generator of the minibatches; see `OptimizerStep`."""
        return State.joined(
            {"step": self._step.state(), "minibatches": State(values={"rng": save_rng(self._rng)})}
        )

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""
        self._step.load_state(state.part("step"))
        load_rng(self._rng, state.value("minibatches/rng"))

    def _minibatches(self, batch: TokenBatch) -> Iterator[np.ndarray]:
        """The rows of each minibatch, ascending, so that equal prompts stand together."""
        size = len(batch)
        if self.num_minibatches > size:
            raise DataError(
                f"num_minibatches={self.num_minibatches} is more than the {size} trajectories"
            )
        for _ in range(self.num_iterations):
            shuffled = self._rng.permutation(size) if self.num_minibatches > 1 else np.arange(size)
            if batch.parent is not None:  # groups stay together, except those at the bounds
                _, first, group = np.unique(
                    batch.group_ids[shuffled], return_index=True, return_inverse=True
                )
                shuffled = shuffled[np.argsort(first[group], kind="stable")]
            for rows in np.array_split(shuffled, self.num_minibatches):
                yield np.sort(rows)

    def _dropout_seed(self, part: int) -> int | None:
        """The seed of what adapters drop in a part of the next step; None if they drop nothing."""
        if not self._drops:
            return None
        return dropout_seed(self._seed, int(self.optimizer.step.item()), part)

    def _ref_logprobs(self, batch: TokenBatch) -> np.ndarray | None:
        if self.reference is None or not self._has_penalty:
            return None
        return by_parts(self.reference, batch, self.micro_batch_size)

    def _present_logprobs(self, batch: TokenBatch, has_signal: np.ndarray) -> np.ndarray:
        """Log-probabilities (N, T) under the present weights, NaN for rows that are left out."""
        assert self._scorer is not None
        scorer, rows = self._scorer, np.arange(len(batch))
        if self._leaves_out:
            rows = rows[has_signal]
        some = batch.take(rows)
        present = np.full(batch.token_ids.shape, np.nan, np.float32)
        present[rows, : some.token_ids.shape[1]] = by_parts(
            lambda part: scorer(part)[0], some, self.micro_batch_size
        )
        return present

    @property
    def _has_penalty(self) -> bool:
        """Whether there is a KL penalty, which pulls on every row, whatever its advantage."""
        return self.reference is not None and "ref_logprobs" in self._declares

    @property
    def _leaves_out(self) -> bool:
        """Whether rows without signal are not computed."""
        return self._divisible and not self._has_penalty

    def _update(
        self,
        batch: TokenBatch,
        advantages: np.ndarray,
        has_signal: np.ndarray,
        ref_logprobs: np.ndarray | None,
        rows: np.ndarray,
    ) -> dict[str, float]:
        """One optimizer step on some rows; no step and no metrics if they have no signal."""
        whole = BatchSize(len(rows), float(batch.loss_weights[rows].sum()))
        if not has_signal[rows].any():
            return {}
        divided = [rows]
        if self._leaves_out:
            rows = rows[has_signal[rows]]
        if self._divisible:
            divided = split(batch, rows, self._gradient.shares, self.micro_batch_size)
        parts: list[MicroBatch] = []
        for some in divided:
            small = batch.take(some)
            if not small.mask.any():
                continue
            width = small.token_ids.shape[1]
            reference = None if ref_logprobs is None else ref_logprobs[some, :width]
            size = whole if self._divisible else None
            own = advantages[some] if advantages.ndim == 1 else advantages[some, :width]
            drops = self._dropout_seed(len(parts))
            parts.append(MicroBatch(small, own, size, reference, drops))
        results, gradient = self._gradient.gradient(parts)
        loss = sum(result.loss for result in results)
        norm = self._step(gradient, loss)
        metrics: dict[str, float] = {}
        tokens = batch.mask[rows].sum()
        for part, result in zip(parts, results):
            share = float(part.batch.mask.sum() / tokens)
            for name, value in result.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + share * value
        return metrics | {
            "loss": loss,
            "sampling/logprob_difference/max": max(result.logprob_difference for result in results),
            "grad_norm": norm,
            "learning_rate": float(self.optimizer.learning_rate.item()),
        }
