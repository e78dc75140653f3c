"""Trains language models from saved rollouts of text, without generating anything.

- ``rft`` is rejection-sampling fine-tuning (Yuan et al. 2023, arXiv 2308.01825, section 3.3; RAFT,
  Dong et al. 2023, 2304.06767): supervised training on the right completions, each of them once.
- ``grpo`` uses group advantages as in `textenv.algos.grpo`, on completions that another policy mu
  sampled. Each token is weighted by the truncated importance weight min(pi / mu, c) (Ionides 2008,
  "Truncated Importance Sampling", equation 2; Espeholt et al. 2018, IMPALA, 1802.01561, section
  4.1, bound the weights of a policy gradient in this way). The recorded log-probabilities are those
  of mu. This is `textenv.algos.grpo.policy_loss` of the type cispo with 1 + epsilon_high = c.

Deviations:
- A completion is right if the task's verifier says so. If there is no verifier, it is right if it
  has the best reward of a group whose rewards differ. rft leaves out truncated completions.
- Completions of one example in several rollouts form one group.

Shapes: N trajectories, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from textenv.algos.config import check_bounds, check_choice, check_lora, check_types
from textenv.algos.episodes.trajectory import Buffer, Trajectory, scored_rewards
from textenv.algos.grpo import SCALES, compute_advantages, policy_loss
from textenv.algos.lm.scoring.batch import BatchSize
from textenv.algos.offline.data import common_source
from textenv.algos.offline.text_data import (
    check_tokens,
    grouped,
    hash_of_text,
    right_ones,
)
from textenv.algos.runtime import backend
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.trainers.callbacks import Callback
from textenv.algos.trainers.resuming import HasState
from textenv.errors import DataError

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.optimizers as optim  # noqa: E402

from textenv.algos.lm.generation.stops import check_stops  # noqa: E402
from textenv.algos.lm.models.properties import describe_trained  # noqa: E402
from textenv.algos.offline.language_model import LanguageModelTrainer  # noqa: E402
from textenv.algos.training.guard import StepGuard  # noqa: E402
from textenv.algos.training.optimizer import (  # noqa: E402
    default_learning_rate,
    make_adamw,
    restart_schedule,
)
from textenv.algos.training.trainer import Trainer  # noqa: E402

METHODS = {
    "rft": "rejection-sampling fine-tuning: supervised on the completions that were right",
    "grpo": "group advantages, truncated importance weights on the recorded log-probabilities",
}


@dataclass(frozen=True)
class OfflineTextConfig:
    """Settings of `OfflineTextTrainer`.

    Raises:
        ConfigError: if a value is out of range; names the field.
        ConfigTypeError: if a value has the wrong type; names the field.
    """

    method: str = "rft"
    """rft or grpo; grpo also learns from wrong completions, and needs groups with both kinds."""
    epochs: int = 3
    """Passes over the completions. Fewer with grpo: the model moves away from the sampler."""
    batch_size: int = 64
    """Completions in an optimizer step."""
    learning_rate: float | None = None
    """AdamW's learning rate, which falls to 0. Unset: by the model's size, see
    `training.optimizer.default_learning_rate`; with grpo a tenth of that."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_grad_norm: float = 1.0
    """The gradient's global norm is clipped to this; 0 does not clip."""
    max_importance: float = 2.0
    """grpo: upper bound c of the importance weights. A higher one: less bias, more variance."""
    scale_rewards: str = "group"
    """grpo: divide advantages by the standard deviation of the group, the batch, or none."""
    max_completion_length: int = 64
    """Longest completion of the trained policy, in tokens."""
    chat_template: bool | None = None
    """Whether prompts go through the chat template; unset: if the tokenizer has one."""
    chat_template_kwargs: dict[str, bool | int | str] = field(default_factory=dict, hash=False)
    """What the chat template is given beside the messages, as enable_thinking False."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion, those that the rollouts were recorded with."""
    micro_batch_size: int | None = None
    """Completions in one forward and backward; unset: all. Lower it if memory is short."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank instead of all weights; 0 trains all weights.
    If the model has adapters already, they are trained on, and this must be their rank."""
    lora_scale: float = 10.0
    """The output of new adapters is multiplied by this: PEFT's lora_alpha divided by the rank."""
    lora_layers: int = -1
    """How many layers have new adapters, counted from the last; -1: all."""
    lora_targets: tuple[str, ...] = ()
    """Modules that have new adapters, such as q_proj v_proj; unset: every linear one of a layer."""
    lora_dropout: float = 0.0
    """Share of the adapters' inputs that an update drops; sampling drops none."""
    dora: bool = False
    """New adapters are DoRA's, which also train the length of each row of the weights."""
    save_steps: int = 0
    """Write a checkpoint every so many passes, from which resume goes on bit for bit; 0: not by
    passes. There is always one at the end."""
    save_minutes: float = 10.0
    """Write one after a pass if the last is so many minutes old; 0: not by time."""
    seed: int = 0
    """Seed of the minibatches, the adapters and the sampling of the trained policy."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", check_stops(self.stop))
        check_types(self)
        check_choice(self, method=METHODS, scale_rewards=SCALES)
        least_one = ("epochs", "batch_size", "max_completion_length", "micro_batch_size")
        least_zero = ("learning_rate", "weight_decay", "max_grad_norm")
        check_bounds(
            self,
            **dict.fromkeys((*least_one, "max_importance"), (1, None)),
            **dict.fromkeys((*least_zero, "save_steps", "save_minutes"), (0, None)),
        )
        check_lora(self)


class OfflineTextTrainer(LanguageModelTrainer):
    """Trains a language model from saved rollouts.

    Args:
        rollouts: rollouts of one environment, whose token ids are of the model's tokenizer.
        model: a name or folder for `load_model`, or an mlx-lm model (with ``tokenizer``).
        config: the settings; None takes the defaults.
        tokenizer: the tokenizer, if ``model`` is an mlx-lm model.
        adapters: a folder of adapters to go on from, if ``model`` is a name or folder.
        on_step: called with the metrics after each pass.
        out: a folder in which ``checkpoints`` will be what `resume` goes on from; None writes none.
        callbacks: called while the training goes on; see `Callback`.

    Attributes:
        policy: the policy that is trained; usable at any time.
        history: the metrics of each pass so far.
        checkpoints: writes the checkpoints; the newest is its ``last``.
        trained_on: the trajectories that it is trained on.
        data_reward: mean reward of the data.
        data_accuracy: share of right completions in the data; None if there was no verifier.

    Raises:
        DataError: if the rollouts are of control, of different environments or of another
            tokenizer, or if nothing is left to train on.
    """

    algorithm = "offline text"
    config: OfflineTextConfig

    def __init__(
        self,
        rollouts: Sequence[Buffer],
        model: Any = "tiny-lm",
        config: OfflineTextConfig | None = None,
        *,
        tokenizer: Any = None,
        adapters: str | Path | None = None,
        on_step: Callable[[dict[str, float]], None] | None = None,
        out: str | Path | None = None,
        callbacks: Sequence[Callback] | Callback = (),
    ):
        config = config or OfflineTextConfig()
        self._task = common_source(rollouts).env_id
        trajectories = grouped(rollouts)
        self.data_reward = float(np.mean(scored_rewards(trajectories) or [0.0]))
        verdicts = [t.is_correct for t in trajectories if t.is_correct is not None]
        self.data_accuracy = float(np.mean(verdicts)) if verdicts else None
        super().__init__(model, tokenizer, adapters, config)
        check_tokens(trajectories, self.policy)
        self._in_data = len(trajectories)
        self.trained_on = self._choose(trajectories)
        steps = math.ceil(len(self.trained_on) / config.batch_size)
        self._trainer = Trainer(
            self.model,
            *self._objective(),
            self._make_optimizer(config.epochs * steps),
            Buffer(self.trained_on),
            on_policy=False,
            num_minibatches=steps,
            micro_batch_size=config.micro_batch_size,
            max_grad_norm=config.max_grad_norm,
            guard=StepGuard(),
            seed=config.seed,
        )
        self._updates = 0
        self._prepare(out, on_step, callbacks)

    @property
    def passes(self) -> int:
        """The number of passes over the completions in the whole training."""
        return self.config.epochs

    @property
    def learning_rate(self) -> float:
        """The learning rate at the start, before it falls."""
        rate = self.config.learning_rate
        if rate is not None:
            return rate
        share = 0.1 if self.config.method == "grpo" else 1.0
        return share * default_learning_rate(self.model)

    def train(self) -> list[dict[str, float]]:
        """Train for ``epochs`` passes over the completions.

        A further call goes on counting. If a call was interrupted, the next one makes the passes
        that are left; else it makes ``epochs`` more, with a new schedule of the learning rate.
        If there is an ``out``, checkpoints are written after passes.

        Returns:
            The metrics of each pass; the same list as `history`.

        Raises:
            ConfigError: if ``out`` has checkpoints of another training.
            StorageError: if a checkpoint cannot be written.
        """
        return self._take_steps(self.config.epochs)

    def _take_step(self) -> dict[str, float]:
        metrics = self._trainer.train()
        # The model is not the one that sampled, so that this would not measure the sampler.
        metrics.pop("sampling/logprob_difference/max", None)
        self._updates += int(metrics.pop("updates"))
        return metrics | {"epoch": len(self.history) + 1.0, "step": float(self._updates)}

    def _begin_again(self) -> None:
        restart_schedule(self._trainer.optimizer)

    @property
    def _length(self) -> int:
        return self.passes

    def _parts(self) -> dict[str, HasState]:
        return {"update": self._trainer, "policy": self.policy}

    def _counts(self) -> dict[str, Any]:
        return {**super()._counts(), "updates": self._updates}

    def _set_counts(self, state: State) -> None:
        super()._set_counts(state)
        self._updates = state.value("updates")

    def _data_hash(self) -> str:
        return hash_of_text(self.trained_on)

    def describe(self) -> str:
        """Describe in one line what is trained, and on what data."""
        c = self.config
        bound = f", weights up to {c.max_importance:g}" if c.method == "grpo" else ""
        return (
            f"{c.method}: {METHODS[c.method]}{bound}; {len(self.trained_on)} of {self._in_data} "
            f"completions, {c.epochs} passes in minibatches of {c.batch_size}; "
            f"{describe_trained(self.model)}, AdamW at {self.learning_rate:g}"
        )

    def _trained_by(self) -> tuple[str, str | None, int]:
        return self.config.method, self._task, self._updates

    def _choose(self, trajectories: list[Trajectory]) -> list[Trajectory]:
        if self.config.method == "rft":
            # The likelihood is that under the whole vocabulary, however they were sampled.
            return [replace(t, support=None, temperature=1.0) for t in right_ones(trajectories)]
        rewards = [t.total_reward for t in trajectories]
        if not compute_advantages(rewards, [t.group_id for t in trajectories]).any():
            raise DataError(
                "grpo compares the completions of a group, and no group here has two with "
                "different rewards: collect with num_generations above 1, or use rft"
            )
        return trajectories

    def _objective(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The ``advantage_fn`` and the ``loss_fn`` of the method."""
        if self.config.method == "rft":
            return (lambda rewards, group_ids: np.ones(len(rewards))), supervised_loss
        return (
            partial(compute_advantages, scale_rewards=self.config.scale_rewards),
            partial(truncated_loss, max_importance=self.config.max_importance),
        )

    def _make_optimizer(self, steps: int) -> optim.Optimizer:
        return make_adamw(self.learning_rate, steps, weight_decay=self.config.weight_decay)


def supervised_loss(
    logprobs: mx.array,
    old_logprobs: mx.array,
    advantages: mx.array,
    mask: mx.array,
    *,
    batch_size: BatchSize | None = None,
) -> tuple[mx.array, dict[str, mx.array]]:
    """Mean negative log-likelihood of the tokens of the mask; a ``loss_fn`` of `Trainer`."""
    total = -(mx.where(mask > 0, logprobs, 0.0) * mask).sum()
    tokens = mx.maximum(mask.sum(), 1) if batch_size is None else max(batch_size.tokens, 1)
    return total / tokens, {}


def truncated_loss(
    logprobs: mx.array,
    old_logprobs: mx.array,
    advantages: mx.array,
    mask: mx.array,
    *,
    max_importance: float = 2.0,
    batch_size: BatchSize | None = None,
) -> tuple[mx.array, dict[str, mx.array]]:
    """The policy-gradient loss for tokens that another policy sampled; a ``loss_fn`` of `Trainer`.

    Args:
        logprobs: (N, T) under the policy that is trained.
        old_logprobs: (N, T) under the policy that sampled.
        advantages: (N,), or (N, T) for each token.
        mask: (N, T), 1 for the tokens that count.
        max_importance: the upper bound of a token's weight.
        batch_size: the size of the whole batch, if this is a part of it.

    Returns:
        The loss and two metrics: ``importance/mean``, and ``importance/truncated``, the share of
        tokens whose weight is at the bound.
    """
    loss, _ = policy_loss(
        logprobs,
        old_logprobs,
        advantages,
        mask,
        loss_type="cispo",
        epsilon_high=max_importance - 1,
        batch_size=batch_size,
    )
    ratio = mx.exp(mx.where(mask > 0, logprobs - old_logprobs, 0.0))
    tokens = mx.maximum(mask.sum(), 1)
    metrics = {
        "importance/mean": (mx.minimum(ratio, max_importance) * mask).sum() / tokens,
        "importance/truncated": ((ratio > max_importance) * mask).sum() / tokens,
    }
    return loss, {name: mx.stop_gradient(value) for name, value in metrics.items()}
