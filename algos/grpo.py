"""GRPO: samples groups of completions, compares them by reward, and makes the better ones likelier.

Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), section 4. The loss can also be aggregated as
in Dr. GRPO (Liu et al. 2025, 2503.20783), DAPO (Yu et al. 2025, 2503.14476) and TRL's BNPO, or have
the clipped importance weights of CISPO (MiniMax-M1, 2506.13585).

Deviations from the papers:
- The standard deviation has ddof 1 and eps 1e-4, as in TRL. The paper does not say.
- A group is uniform if max - min <= tolerance, not if its standard deviation is exactly 0.
- The old log-probabilities are the sampler's own, of the distribution that was sampled from.
- Every loss is normalised over an optimizer step's whole batch. So bnpo, which TRL normalises over
  a part of the batch, equals dapo.
- CISPO bounds its weight by 1 + epsilon_high from above, as MiniMax-M1 does, and not from below.
  TRL's epsilon_high is that bound itself.
- The KL term is the paper's k3. ``use_bias_correction_kl`` multiplies it by the ratio, as TRL 1.16
  does by default (DeepSeek-V3.2, 2512.02556).

Shapes: N trajectories, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from textenv.algos.episodes.environments import is_text, make_env, max_turns
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.grpo_config import LOSS_TYPES, SCALES, GRPOConfig
from textenv.algos.lm.scoring.batch import BatchSize
from textenv.algos.rollouts.metrics import GRPOMetrics, PhaseClock
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.rollouts.worker_runner import WorkerRunner
from textenv.algos.runtime import backend
from textenv.algos.storage.source import Exporter
from textenv.algos.strategies.state_files import STRATEGY_FILE, read_state, write_state
from textenv.algos.strategies.strategy import create_strategy
from textenv.errors import ConfigError, DataError, unknown

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.generation.policy import LanguageModelPolicy, create_policy  # noqa: E402
from textenv.algos.lm.memory.watch import MemoryWatch  # noqa: E402
from textenv.algos.lm.models.loading import load_model, resolve_model  # noqa: E402
from textenv.algos.lm.models.lora import add_lora  # noqa: E402
from textenv.algos.lm.models.saving import save_model  # noqa: E402
from textenv.algos.lm.scoring.scorer import frozen_scores  # noqa: E402
from textenv.algos.rollouts.prompts import check_prompts  # noqa: E402
from textenv.algos.rollouts.shared_gradient import SharedGradient  # noqa: E402
from textenv.algos.training.gradient import LocalGradient, LossFn  # noqa: E402
from textenv.algos.training.optimizer import (  # noqa: E402
    default_learning_rate,
    make_adamw,
    restart_schedule,
)
from textenv.algos.training.trainer import Trainer  # noqa: E402


def compute_advantages(
    rewards: Any,
    group_ids: Any,
    *,
    scale_rewards: str = "group",
    eps: float = 1e-4,
    tolerance: float = 1e-8,
) -> np.ndarray:
    """The advantages of trajectories: their rewards relative to those of their group.

    Args:
        rewards: (N,); NaN marks a trajectory that no reward function scored.
        group_ids: (N,), equal for trajectories of one group.
        scale_rewards: divide by the standard deviation of the ``"group"`` or of the ``"batch"``,
            or not at all (``"none"``, as Dr. GRPO advises).
        eps: added to the standard deviation.
        tolerance: a group whose rewards differ by no more than this has no information.

    Returns:
        (N,) float64; 0 for groups without information and trajectories without a reward.

    Raises:
        ConfigError: for an unknown ``scale_rewards``.
    """
    if scale_rewards not in SCALES:
        raise ConfigError(unknown("scale_rewards", scale_rewards, SCALES))
    rewards = np.asarray(rewards, np.float64)
    group_ids = np.asarray(group_ids)
    advantages = np.zeros_like(rewards)
    scored = np.isfinite(rewards)
    batch_std = np.std(rewards[scored], ddof=1) if scored.sum() > 1 else 0.0
    for group in np.unique(group_ids):
        members = scored & (group_ids == group)
        own = rewards[members]
        if len(own) < 2 or own.max() - own.min() <= tolerance:
            continue
        centred = own - own.mean()
        if scale_rewards == "group":
            centred /= own.std(ddof=1) + eps
        elif scale_rewards == "batch":
            centred /= batch_std + eps
        advantages[members] = centred
    return advantages


def policy_loss(
    logprobs: mx.array,
    old_logprobs: mx.array,
    advantages: mx.array,
    mask: mx.array,
    *,
    loss_type: str = "dapo",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    use_bias_correction_kl: bool = False,
    ref_logprobs: mx.array | None = None,
    max_completion_length: int | None = None,
    batch_size: BatchSize | None = None,
    weights: mx.array | None = None,
) -> tuple[mx.array, dict[str, mx.array]]:
    """The loss to minimise.

    Args:
        logprobs: (N, T) under the policy that is trained.
        old_logprobs: (N, T) under the policy that sampled.
        advantages: (N,), or (N, T) for single tokens.
        mask: (N, T), 1 for the tokens that count.
        loss_type: one of `LOSS_TYPES`.
        epsilon: how far the ratio may fall below 1 before its gradient stops.
        epsilon_high: how far the ratio may rise above 1; None: ``epsilon``.
        beta: weight of the KL penalty to the reference policy (k3 estimator, Schulman 2020). On
            average its gradient is that of KL(reference || policy).
        use_bias_correction_kl: multiply the KL term by the ratio, so that on average its gradient
            is that of KL(policy || reference), off-policy too.
        ref_logprobs: (N, T) under the reference policy; needed if ``beta`` is above 0.
        max_completion_length: the constant that ``dr_grpo`` divides by.
        batch_size: the size of the whole batch, if this is a part of it.
        weights: (N, T), the weight of each token of the mask; None: 1. Means over tokens divide by
            the sum of the weights, those over a completion's tokens by the sum of its own;
            ``dr_grpo`` divides by its constant. The ratio of ``gspo``, a mean over a completion's
            tokens, does not use weights.

    Returns:
        The loss, and metrics over the tokens of the mask, each of which counts 1 there. Those of
        clipping are over completions for ``gspo``, and of the upper bound alone for ``cispo``.

    Raises:
        ConfigError: for an unknown loss type, or if an argument is missing that it needs.
    """
    if loss_type not in LOSS_TYPES:
        raise ConfigError(unknown("loss_type", loss_type, LOSS_TYPES))
    logprobs, mask = mx.array(logprobs), mx.array(mask)
    advantages = mx.array(advantages).astype(logprobs.dtype)
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    high = epsilon if epsilon_high is None else epsilon_high
    lengths = mx.maximum(mask.sum(axis=1), 1)  # (N,)
    # Padding may hold anything: it must not become inf or NaN, which 0 * x would keep.
    advantages = mx.where(mask > 0, advantages, 0.0)  # (N, T)
    log_ratio = mx.where(mask > 0, logprobs - mx.array(old_logprobs), 0.0)
    if loss_type == "gspo":
        mean = (log_ratio * mask).sum(axis=1) / lengths  # (N,), GSPO's equation 7
        log_ratio = mx.broadcast_to(mean[:, None], log_ratio.shape)
    ratio = mx.exp(log_ratio)  # (N, T)

    if loss_type == "cispo":
        weight = mx.stop_gradient(mx.minimum(ratio, 1 + high))
        per_token = -weight * advantages * mx.where(mask > 0, logprobs, 0.0)
    else:
        clipped = mx.clip(ratio, 1 - epsilon, 1 + high)
        per_token = -mx.minimum(ratio * advantages, clipped * advantages)
    tokens = mx.maximum(mask.sum(), 1)
    metrics = _clip_metrics(ratio, advantages, mask, epsilon, high, loss_type)
    if beta:
        if ref_logprobs is None:
            raise ConfigError(f"beta={beta} needs ref_logprobs, those of the reference policy")
        difference = mx.where(mask > 0, mx.array(ref_logprobs) - logprobs, 0.0)
        kl = mx.exp(difference) - difference - 1
        if use_bias_correction_kl:
            kl = ratio * kl
        per_token = per_token + beta * kl
        metrics["kl"] = (kl * mask).sum() / tokens

    if weights is not None:
        mask = mx.array(weights) * (mask > 0)
        sums = mask.sum(axis=1)
        lengths = mx.where(sums > 0, sums, 1)
        tokens = mx.where(sums.sum() > 0, sums.sum(), 1)
    sequences, all_tokens = batch_size or (mask.shape[0], None)
    if loss_type in ("grpo", "gspo"):
        loss = ((per_token * mask).sum(axis=1) / lengths).sum() / sequences
    elif loss_type == "dr_grpo":
        if max_completion_length is None:
            raise ConfigError(
                "loss_type='dr_grpo' needs max_completion_length, the constant it divides by"
            )
        loss = (per_token * mask).sum() / (sequences * max_completion_length)
    else:
        loss = (per_token * mask).sum() / (all_tokens or tokens)
    return loss, {name: mx.stop_gradient(value) for name, value in metrics.items()}


def _clip_metrics(
    ratio: mx.array, advantages: mx.array, mask: mx.array, low: float, high: float, loss_type: str
) -> dict[str, mx.array]:
    """The shares of tokens (of completions for ``gspo``) whose ratio a bound stopped."""
    own = (mask > 0).astype(ratio.dtype)
    if loss_type == "gspo":  # every token of a completion has its ratio and its advantage
        own = own / mx.maximum(own.sum(axis=1, keepdims=True), 1)
    count = mx.maximum(own.sum(), 1)
    below = (ratio < 1 - low) & (advantages < 0)
    if loss_type == "cispo":  # nothing bounds its weight from below
        below = mx.zeros_like(below)
    above = (ratio > 1 + high) & (advantages > 0)
    return {
        "clip_ratio/low_mean": (below * own).sum() / count,
        "clip_ratio/high_mean": (above * own).sum() / count,
        "clip_ratio/region_mean": ((below | above) * own).sum() / count,
    }


class GRPOTrainer:
    """Trains a language model on a text environment by GRPO.

    Args:
        model: a name or folder for `load_model`, or an mlx-lm model (with ``tokenizer``).
        env: an environment id, an environment, or a function that makes one.
        config: settings; the defaults if None.
        env_kwargs: arguments of ``gym.make``, if ``env`` is an id.
        tokenizer: the tokenizer, if ``model`` is an mlx-lm model.
        on_step: called after each optimizer step with the metrics and the rollout, which may be
            empty if a strategy kept nothing.
        export_to: a folder that rollouts are written to, as
            ``rollout_{index}_{YYYYMMDD_HHMMSS}.json``; None writes none.
        export_every: write only the first of every so many rollouts.

    Attributes:
        policy: the policy that is trained; usable at any time.
        history: the metrics of each step so far.
        exporter: writes the rollouts; its ``last`` is the file of the last one, if it was written.

    Raises:
        ConfigError: for an environment that is not text to text, a temperature of 0, or a part of
            the strategy that cannot be used here.
        OutOfMemoryError: if the training does not fit in memory.

    Example:
        >>> trainer = GRPOTrainer("tiny-lm", config=GRPOConfig(max_steps=2, num_prompts=4))
        >>> len(trainer.train())
        2
    """

    def __init__(
        self,
        model: Any,
        env: Any = "TextGen-v0",
        config: GRPOConfig | None = None,
        *,
        env_kwargs: dict[str, Any] | None = None,
        tokenizer: Any = None,
        on_step: Callable[[dict[str, float], Rollout], None] | None = None,
        export_to: str | Path | None = None,
        export_every: int = 1,
    ):
        self.config = config = config or GRPOConfig()
        if config.temperature == 0:
            raise ConfigError(
                "temperature must be above 0 to train: greedy completions are all equal"
            )
        self.env = make_env(env, env_kwargs)
        if not is_text(self.env):
            raise ConfigError(
                f"GRPO trains on environments of text; the actions of {self.env} are not text"
            )
        named = isinstance(model, (str, Path))
        model, tokenizer = resolve_model(model, tokenizer)
        if config.num_workers and not named:
            raise ConfigError("num_workers needs the model's name or folder: each worker reads it")
        self.model, self.tokenizer = model, tokenizer
        self.history: list[dict[str, float]] = []
        if config.lora_rank:
            add_lora(model, config.lora_rank, config.lora_scale, config.seed)
        reference = frozen_scores(model) if config.beta else None
        self.policy = create_policy(model, tokenizer, config.sampling)
        self._memory = MemoryWatch(model, config, self.env, self.policy)
        strategy = create_strategy(
            "grpo", num_generations=config.num_generations, parts=config.strategy
        )
        size = config.num_prompts * config.num_generations * max_turns(self.env)
        self._runner = RolloutRunner(self.env, self.policy, strategy, size, config.seed)
        self._workers: WorkerRunner | None = None
        if config.num_workers:
            self._workers = WorkerRunner(
                self._runner,
                partial(make_env, env, env_kwargs),
                partial(_make_policy, str(model.source.resolve()), config),
                config.num_workers,
                partial(_make_gradient, config),
            )
        self._trainer = Trainer(
            model,
            partial(compute_advantages, scale_rewards=config.scale_rewards),
            _make_loss(config),
            make_adamw(
                self.learning_rate,
                config.max_steps,
                schedule=config.lr_scheduler_type,
                warmup_steps=config.warmup_steps,
                weight_decay=config.weight_decay,
            ),
            on_policy=False,  # the rollout is still measured and shown after the update
            num_iterations=config.num_iterations,
            num_minibatches=config.num_minibatches,
            micro_batch_size=config.micro_batch_size,
            gradient_checkpointing=config.gradient_checkpointing,
            max_grad_norm=config.max_grad_norm,
            mask_truncated_completions=config.mask_truncated_completions,
            reference=reference,
            credit_fn=strategy.generation.credit,
            gradient=None if self._workers is None else SharedGradient(self._workers),
            seed=config.seed,
        )
        self._steps, self._end = 0, config.max_steps
        self._metrics = GRPOMetrics(strategy)
        self.exporter = Exporter(export_to, export_every)
        self._on_step = on_step

    def describe(self) -> str:
        """The loss and the data in words, in one line."""
        c = self.config
        high = c.epsilon if c.epsilon_high is None else c.epsilon_high
        clip = f"1 + {high:g}" if c.loss_type == "cispo" else f"[1 - {c.epsilon:g}, 1 + {high:g}]"
        times_ratio = " x ratio" if c.use_bias_correction_kl else ""
        penalty = f", KL penalty {c.beta:g}{times_ratio}" if c.beta else ", no KL penalty"
        strategy = f", strategy {' '.join(c.strategy)}" if c.strategy else ""
        adapters = f"LoRA rank {c.lora_rank}" if c.lora_rank else "all weights"
        return (
            f"loss {c.loss_type}: {LOSS_TYPES[c.loss_type]}; ratio clipped to {clip}{penalty}; "
            f"advantages scaled by {c.scale_rewards}; {c.num_prompts} prompts x "
            f"{c.num_generations} completions{strategy}; {adapters}, AdamW at "
            f"{self.learning_rate:g}"
        )

    def train(self) -> list[dict[str, float]]:
        """Train for ``max_steps`` optimizer steps.

        A further call goes on counting. If a call was interrupted, the next one trains for the
        steps that are left; else it trains for ``max_steps`` more, with a new schedule of the
        learning rate.

        A step whose rollout has no signal counts, and leaves the weights as they are.

        The phases of a step follow one another, except that ``time/score`` (environments and
        rewards, of all workers together) is a part of ``time/generate``. For reward functions that
        run elsewhere (async, or in a process of their own) it has only the time spent waiting.

        Returns:
            The metrics of each step, which are also in `history`.
        """
        check_prompts(self.policy, self.env)
        if self._steps == self._end:
            self._end += self.config.max_steps
            restart_schedule(self._trainer.optimizer)
        collector = self._workers or self._runner
        while self._steps < self._end:
            clock = PhaseClock()
            with self._memory.generating():
                rollout = collector.collect()
            clock.end("generate")
            self.exporter.write(rollout, self._runner)
            clock.end("export")
            update = {"updates": 0.0}
            if len(rollout):  # a strategy may have kept nothing
                self._trainer.buffer = rollout
                with self._memory.updating(rollout):
                    update = self._trainer.train(self._end - self._steps)
            clock.end("update")
            steps = max(1, int(update.pop("updates")))
            self._steps += steps
            self._runner.policy_version += steps
            metrics = self._metrics.step(rollout, update, clock, self._steps)
            self.history.append(metrics)
            if self._on_step is not None:
                self._on_step(metrics, rollout)
        return self.history

    @property
    def learning_rate(self) -> float:
        """The highest learning rate: that of the config, or else one by the size of the model."""
        rate = self.config.learning_rate
        return default_learning_rate(self.model) if rate is None else rate

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder that `mlx_lm.load` and `load_model` can read.

        If the strategy has parts, what they remember is written to ``strategy.json`` beside it.
        """
        beside: dict[str, Callable[[Path], None]] = {}
        if self._runner.strategy.parts:
            beside[STRATEGY_FILE] = partial(write_state, state=self._runner.state())
        save_model(self.model, self.tokenizer, folder, beside)

    def load_strategy(self, folder: str | Path) -> None:
        """Continue the strategy of an earlier training, whose folder `save` wrote.

        Raises:
            MissingFileError: if the folder has no ``strategy.json``.
            ConfigError: if that file is of a training with another strategy.
            DataError: if the file is broken.
        """
        path = Path(folder) / STRATEGY_FILE
        state = read_state(path)
        try:
            self._runner.load_state(state)
        except (ConfigError, DataError) as error:
            raise type(error)(f"{path}: {error}") from error

    def close(self) -> None:
        """Close the environments, and end the workers if there are any."""
        (self._workers or self._runner).close()


def _make_loss(config: GRPOConfig) -> LossFn:
    return partial(
        policy_loss,
        loss_type=config.loss_type,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        beta=config.beta,
        use_bias_correction_kl=config.use_bias_correction_kl,
        max_completion_length=config.max_completion_length,
    )


def _make_gradient(config: GRPOConfig, policy: LanguageModelPolicy) -> LocalGradient:
    """Make the function that computes gradients in a worker."""
    return LocalGradient(policy.model, _make_loss(config), config.gradient_checkpointing)


def _make_policy(folder: str, config: GRPOConfig) -> LanguageModelPolicy:
    """Make the policy of a worker; its weights are sent later."""
    model, tokenizer = load_model(folder)
    if config.lora_rank:
        add_lora(model, config.lora_rank, config.lora_scale, config.seed)
    return create_policy(model, tokenizer, config.sampling)
