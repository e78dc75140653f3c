"""Trains a language model on answers that are given: supervised fine-tuning (SFT).

The loss is the mean negative log-likelihood of the tokens of the answers, their ends included, over
all such tokens of a minibatch, as in TRL's SFTTrainer with ``completion_only_loss`` or
``assistant_only_loss``. Prompts are read and not trained on, and equal prompts of a microbatch go
through the model once.

Deviations from TRL:
- Rows that are longer than the model's context are refused, and not cut, unless ``max_length`` is
  set. What it cuts is counted.
- Tokens after the end of an answer, such as a line break of the chat template, are not trained on:
  the policy stops before them.

Shapes: N rows, T tokens of the longest answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textenv.algos.config import check_bounds, check_choice, check_lora, check_types
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.lm.scoring.batch import BatchSize, make_batch
from textenv.algos.offline.sft_rows import Limits, Rows, encode_rows
from textenv.algos.offline.text_data import hash_of_text
from textenv.algos.runtime import backend
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.trainers.callbacks import Callback
from textenv.algos.trainers.resuming import HasState
from textenv.conversation import Opening
from textenv.errors import ConfigError, DataError

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.generation.chat import ChatFormat  # noqa: E402
from textenv.algos.lm.memory.limits import free_memory  # noqa: E402
from textenv.algos.lm.memory.watch import MemoryWatch  # noqa: E402
from textenv.algos.lm.models.properties import context_length, describe_trained  # noqa: E402
from textenv.algos.lm.scoring.scorer import Scorer  # noqa: E402
from textenv.algos.offline.language_model import LanguageModelTrainer  # noqa: E402
from textenv.algos.offline.text import supervised_loss  # noqa: E402
from textenv.algos.training.guard import StepGuard  # noqa: E402
from textenv.algos.training.optimizer import (  # noqa: E402
    SCHEDULES,
    default_learning_rate,
    make_adamw,
    restart_schedule,
)
from textenv.algos.training.trainer import Trainer  # noqa: E402

RowsLike = str | Path | Rows | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SFTConfig:
    """Settings of `SFTTrainer`.

    Raises:
        ConfigError: if a value is out of range; names the field.
        ConfigTypeError: if a value has the wrong type; names the field.
    """

    epochs: int = 3
    """Passes over the rows. Lower it if the held-out loss rises again."""
    max_steps: int | None = None
    """Number of optimizer steps, whatever `epochs` is; unset: as many as the passes have."""
    batch_size: int = 16
    """Rows in an optimizer step."""
    max_length: int | None = None
    """Rows with more tokens, prompt and answer together, are cut to this. Unset: nothing is cut,
    and a row that is longer than the model's context is refused."""
    max_completion_length: int = 64
    """Longest answer of the trained policy, in tokens; rows may have longer ones."""
    chat_template: bool | None = None
    """Whether prompts go through the chat template; unset: if the tokenizer has one."""
    chat_template_kwargs: dict[str, bool | int | str] = field(default_factory=dict, hash=False)
    """What the chat template is given beside the messages, as enable_thinking False."""
    learning_rate: float | None = None
    """Highest learning rate of AdamW; unset: 1e-3 to 1e-6 by the size of the model.
    Lower it if the held-out loss rises from the beginning."""
    lr_scheduler_type: str = "linear"
    """Learning rate after the warm-up: constant, linear (to 0) or cosine (to 0)."""
    warmup_steps: int = 5
    """Steps over which the learning rate rises. Raise it if the first steps do harm."""
    weight_decay: float = 0.0
    """How strongly AdamW pulls all weights towards 0."""
    max_grad_norm: float = 1.0
    """The gradient's global norm is clipped to this; 0 does not clip."""
    micro_batch_size: int | None = None
    """Rows in one forward and backward pass; unset: all. Lower it if memory runs out."""
    gradient_checkpointing: bool = False
    """Compute each layer again in the backward pass: less memory, up to a third more work.
    Turn it on if memory runs out."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank in place of all weights; 0 trains all weights.
    If the model has adapters already, they are trained on, and this must be their rank."""
    lora_scale: float = 10.0
    """The output of new adapters is multiplied by this: PEFT's lora_alpha divided by the rank."""
    lora_layers: int = -1
    """How many layers have new adapters, counted from the last; -1: all."""
    lora_targets: tuple[str, ...] = ()
    """Modules that have new adapters, such as q_proj v_proj; unset: every linear one of a layer."""
    lora_dropout: float = 0.0
    """Share of the adapters' inputs that an update drops; the evaluations drop none."""
    dora: bool = False
    """New adapters are DoRA's, which also train the length of each row of the weights."""
    save_steps: int = 0
    """Write a checkpoint every so many steps, from which resume goes on bit for bit; 0: not by
    steps. There is always one at the end."""
    save_minutes: float = 10.0
    """Write one if the last is so many minutes old; 0: not by time.
    Lower it if much would be lost."""
    seed: int = 0
    """Seed of the order of the rows, the adapters and the sampling of the trained policy."""

    def __post_init__(self) -> None:
        check_types(self)
        check_choice(self, lr_scheduler_type=SCHEDULES)
        least_one = ("epochs", "max_steps", "batch_size", "max_completion_length")
        least_zero = ("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm")
        check_bounds(
            self,
            **dict.fromkeys((*least_one, "micro_batch_size"), (1, None)),
            **dict.fromkeys((*least_zero, "save_steps", "save_minutes"), (0, None)),
            max_length=(2, None),
        )
        check_lora(self)


class SFTTrainer(LanguageModelTrainer):
    """Trains a language model on rows of prompts and answers.

    Args:
        model: a name or folder for `load_model`, or an mlx-lm model (with ``tokenizer``).
        rows: a file of rows, or a list of them, as `textenv.algos.offline.sft_rows` has them.
        config: the settings; None takes the defaults.
        eval_rows: held-out rows, for `evaluate`.
        system_prompt: what a system message says before each row; ``@FILE`` is a file's text.
        few_shot: rows of ``prompt`` and ``answer``, shown before each row and not trained on.
        tokenizer: the tokenizer, if ``model`` is an mlx-lm model.
        adapters: a folder of adapters to go on from, if ``model`` is a name or folder.
        on_step: called with the metrics after each optimizer step.
        out: a folder in which ``checkpoints`` will be what `resume` goes on from; None writes none.
        callbacks: called while the training goes on; see `Callback`.

    Attributes:
        policy: the policy that is trained; usable at any time.
        history: the metrics of each step so far.
        checkpoints: writes the checkpoints; the newest is its ``last``.
        trained_on: what it is trained on, as if the policy had written it.
        cut: how many rows were cut to ``max_length``.
        held_out: what `evaluate` measures on.
        left_out: how many rows were left out, since ``max_length`` left nothing of their answer.

    Raises:
        DataError: for a row that cannot be trained on; names it.
        ConfigError: for a ``max_length`` above the model's context.
        OutOfMemoryError: if the training does not fit in memory.

    Example:
        >>> rows = [{"prompt": f"{a}+1=", "answer": str(a + 1)} for a in range(10, 40)]
        >>> trainer = SFTTrainer("tiny-lm", rows, SFTConfig(max_steps=2))
        >>> len(trainer.train())
        2
    """

    algorithm = "sft"
    _data_kind = "rows"
    config: SFTConfig

    def __init__(
        self,
        model: Any,
        rows: RowsLike,
        config: SFTConfig | None = None,
        *,
        eval_rows: RowsLike = (),
        system_prompt: str | None = None,
        few_shot: Sequence[Mapping[str, Any]] | None = None,
        tokenizer: Any = None,
        adapters: str | Path | None = None,
        on_step: Callable[[dict[str, float]], None] | None = None,
        out: str | Path | None = None,
        callbacks: Sequence[Callback] | Callback = (),
    ):
        config = config or SFTConfig()
        super().__init__(model, tokenizer, adapters, config)
        self._opening = Opening(system_prompt, few_shot)
        encoded = self._encode(rows, "rows")
        self.trained_on = [t for t in encoded if t is not None]
        self.left_out = len(encoded) - len(self.trained_on)
        self.cut = sum(bool(t.completion_truncated) for t in self.trained_on)
        if not self.trained_on:
            raise DataError(
                f"there is nothing to train on: {len(encoded)} rows, of which max_length="
                f"{config.max_length} leaves no answer"
                if encoded
                else "there are no rows to train on"
            )
        self.held_out = [t for t in self._encode(eval_rows, "eval_rows") if t is not None]
        self._each_pass = math.ceil(len(self.trained_on) / config.batch_size)
        self.steps = config.max_steps or config.epochs * self._each_pass
        self._memory = MemoryWatch(self.model, config)
        self._memory.check(self._batch(self._longest_step()))
        self._scorer = Scorer(self.model)
        self._trainer = Trainer(
            self.model,
            lambda rewards, group_ids: np.ones(len(rewards)),
            sft_loss,
            make_adamw(
                self.learning_rate,
                self.steps,
                schedule=config.lr_scheduler_type,
                warmup_steps=config.warmup_steps,
                weight_decay=config.weight_decay,
            ),
            on_policy=False,
            micro_batch_size=config.micro_batch_size,
            gradient_checkpointing=config.gradient_checkpointing,
            max_grad_norm=config.max_grad_norm,
            guard=StepGuard(),
            seed=config.seed,
        )
        self._tokens = 0
        self._prepare(out, on_step, callbacks)

    @property
    def learning_rate(self) -> float:
        """The highest learning rate: that of the config, or else one by the size of the model."""
        rate = self.config.learning_rate
        return default_learning_rate(self.model) if rate is None else rate

    def train(self) -> list[dict[str, float]]:
        """Train for ``max_steps`` optimizer steps, or for ``epochs`` passes over the rows.

        A further call goes on counting. If a call was interrupted, the next one takes the steps
        that are left; else it takes as many again, with a new schedule of the learning rate.
        If there is an ``out``, checkpoints are written.

        Returns:
            The metrics of each step; the same list as `history`.

        Raises:
            ConfigError: if ``out`` has checkpoints of another training.
            StorageError: if a checkpoint cannot be written.
        """
        return self._take_steps(self.steps)

    def _take_step(self) -> dict[str, float]:
        began, step = time.perf_counter(), len(self.history)
        batch = self._batch(step)
        self._trainer.buffer = Buffer(batch)
        self.checkpoints.make_room(free_memory())
        with self._memory.updating(self._trainer.buffer):
            metrics = self._trainer.train()
        # Nobody has sampled the answers, so these would not mean what they mean elsewhere.
        for name in ("sampling/logprob_difference/max", "updates"):
            metrics.pop(name, None)  # a step that was skipped has no figures
        self._tokens += _tokens(batch)
        return metrics | {
            "num_tokens": float(self._tokens),
            "epoch": (step + 1) / self._each_pass,
            "step": step + 1.0,
            "step_time": time.perf_counter() - began,
        }

    def _begin_again(self) -> None:
        restart_schedule(self._trainer.optimizer)

    @property
    def _length(self) -> int:
        return self.steps

    def _parts(self) -> dict[str, HasState]:
        return {"update": self._trainer, "policy": self.policy}

    def _counts(self) -> dict[str, Any]:
        return {**super()._counts(), "tokens": self._tokens}

    def _set_counts(self, state: State) -> None:
        super()._set_counts(state)
        self._tokens = state.value("tokens")

    def _data_hash(self) -> str:
        return hash_of_text(self.trained_on)

    def evaluate(self) -> dict[str, float]:
        """Measure the model as it is now on the held-out rows.

        Returns:
            ``loss``, ``mean_token_accuracy`` and ``entropy``, means over the tokens of the answers,
            and ``rows``, how many rows there are.

        Raises:
            DataError: if there are no held-out rows.
        """
        if not self.held_out:
            raise DataError("there are no held-out rows to evaluate on: give eval_rows")
        batch = make_batch(self.held_out)
        size = self.config.micro_batch_size or self.config.batch_size
        sums = np.zeros(3)
        for start in range(0, len(batch), size):
            part = batch.take(np.arange(start, min(start + size, len(batch))))
            own = mx.array(part.mask) > 0
            scores = self._scorer.with_hits(part)
            sums += np.array([mx.where(own, score, 0.0).sum() for score in scores], float)
        loss, entropy, accuracy = (sums / batch.mask.sum()).tolist()
        return {
            "loss": -loss,
            "mean_token_accuracy": accuracy,
            "entropy": entropy,
            "rows": len(batch),
        }

    def describe(self) -> str:
        """Describe in one line what is trained, and on what data."""
        c = self.config
        shortened = ""
        if self.cut or self.left_out:
            shortened = (
                f", {self.cut} of them cut to {c.max_length} tokens, and {self.left_out} more left "
                "out, since their prompts are as long"
            )
        return (
            f"sft: loss on the answers of {len(self.trained_on)} rows{shortened}; {self.steps} "
            f"steps of {c.batch_size}; {describe_trained(self.model)}, AdamW at "
            f"{self.learning_rate:g}"
        )

    def _trained_by(self) -> tuple[str, str | None, int]:
        return "SFT", None, len(self.history)

    def _encode(self, rows: RowsLike, name: str) -> list[Trajectory | None]:
        config, context = self.config, context_length(self.model)
        if context is not None and (config.max_length or 0) > context:
            raise ConfigError(
                f"max_length={config.max_length} is more than the model's context of {context} "
                "tokens"
            )
        chat = ChatFormat(self.tokenizer, config.chat_template, config.chat_template_kwargs)
        limits = Limits(config.max_length, context)
        return encode_rows(Rows.of(rows, name), chat, limits, self._opening)

    def _batch(self, step: int) -> list[Trajectory]:
        """What a step trains on."""
        epoch, number = divmod(step, self._each_pass)
        size = self.config.batch_size
        rows = self._order(epoch)[number * size : (number + 1) * size]
        return [self.trained_on[row] for row in rows]

    def _order(self, epoch: int) -> np.ndarray:
        """The order of the rows in a pass, which follows from its number."""
        return np.random.default_rng((self.config.seed, epoch)).permutation(len(self.trained_on))

    def _longest_step(self) -> int:
        """The step of the whole training that has the most tokens."""
        lengths = np.array([_tokens([t]) for t in self.trained_on])
        starts = np.arange(0, len(lengths), self.config.batch_size)
        passes = range(math.ceil(self.steps / self._each_pass))
        totals = [np.add.reduceat(lengths[self._order(epoch)], starts) for epoch in passes]
        return int(np.concatenate(totals)[: self.steps].argmax())


def sft_loss(
    logprobs: mx.array,
    old_logprobs: mx.array,
    advantages: mx.array,
    mask: mx.array,
    *,
    batch_size: BatchSize | None = None,
    hits: mx.array | None = None,
) -> tuple[mx.array, dict[str, mx.array]]:
    """Mean negative log-likelihood of the tokens of the mask, and how many of them are hits.

    A ``loss_fn`` of `Trainer`, which gives ``hits`` (N, T), 1 for each most probable token.
    """
    loss, metrics = supervised_loss(logprobs, old_logprobs, advantages, mask, batch_size=batch_size)
    if hits is not None:
        metrics["mean_token_accuracy"] = (hits * mask).sum() / mx.maximum(mask.sum(), 1)
    return loss, metrics


def _tokens(trajectories: Sequence[Trajectory]) -> int:
    """Tokens of some prompts and answers together."""
    return sum(len(t.prompt_ids or ()) + len(t.token_ids or ()) for t in trajectories)
