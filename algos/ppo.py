"""PPO: improve a policy on its own rollout, several times, without leaving it too far behind.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), equations 7
and 9; advantages by GAE, Schulman et al. 2016 (1506.02438), equation 16; details as listed by
Huang et al. 2022, "The 37 Implementation Details of PPO". The same objective trains two networks
of control (`textenv.algos.ppo_control`) and a language model, one decision a token
(`textenv.algos.ppo_text`).

Deviations:
- ``n_steps`` counts all environments together, so that a rollout is as large whatever their number.
- A truncated episode goes on in the value of its last observation (Pardo et al. 2018, 1712.00378);
  ``bootstrap_truncated=False`` ends it there, as the paper does.
- Statistics of observations stand still while a rollout is collected, and count it in after the
  update, so that the ratio of the first minibatch is 1.
- The optional third bound of the objective is the dual clip of Ye et al. 2020 (1912.09729), eq. 5.

Shapes: N rows, T tokens of a row (1 in control).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from textenv.algos.config import check_bounds, check_types
from textenv.algos.control.mlp_policy import ACTIVATIONS
from textenv.algos.episodes.environments import is_text
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.lm.scoring.batch import BatchSize
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.runtime import backend
from textenv.algos.storage.source import Exporter
from textenv.errors import ConfigError, unknown

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.memory.pressure import out_of_memory  # noqa: E402

if TYPE_CHECKING:
    from textenv.algos.strategies.strategy import Strategy

_EPISODES = 100  # that the mean return is taken over, as in Stable-Baselines3


def gae(
    rewards: Sequence[float] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    last_value: float = 0.0,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages of the steps of one trajectory, and its lambda-returns.

    Args:
        rewards: (T,).
        values: (T,), the critic's value of each observation.
        last_value: its value of what came after; 0 where the episode terminated there.
        gamma: discount of a step.
        gae_lambda: 0 trusts the critic after one step, 1 trusts the rewards alone.

    Returns:
        Advantages (T,) and returns (T,), float64; the returns are advantages + values.

    Example:
        >>> gae([1, 2, 3], [0.5, 1, 1.5], gamma=1.0, gae_lambda=0.5)[1].tolist()
        [3.625, 4.25, 3.0]
    """
    steps = np.asarray(rewards, np.float64).tolist()
    own = np.asarray(values, np.float64).tolist()
    advantages = [0.0] * len(steps)
    following, advantage = float(last_value), 0.0
    for t in range(len(steps) - 1, -1, -1):
        delta = steps[t] + gamma * following - own[t]
        advantage = delta + gamma * gae_lambda * advantage
        advantages[t] = advantage
        following = own[t]
    return np.array(advantages), np.array(advantages) + np.array(own)


def policy_loss(
    logprobs: mx.array,
    old_logprobs: mx.array,
    advantages: mx.array,
    mask: mx.array,
    *,
    clip_range: float | mx.array = 0.2,
    dual_clip: float | None = None,
    batch_size: BatchSize | None = None,
) -> tuple[mx.array, dict[str, mx.array]]:
    """The clipped surrogate to minimise, mean over the tokens of the mask.

    Args:
        logprobs: (N, T) under the policy that is trained.
        old_logprobs: (N, T) under the policy that sampled.
        advantages: (N,), or per token (N, T).
        mask: (N, T), 1 for the tokens that count.
        clip_range: how far the ratio may leave 1 before its gradient stops.
        dual_clip: where the advantage is below 0, the loss of a token is at most this times
            -advantage; above 1, None for no bound.
        batch_size: of the whole batch, where this is a part of it.

    Returns:
        The loss, and over the tokens of the mask ``approx_kl`` (Schulman 2020, k3) and
        ``clip_fraction``.

    Raises:
        ConfigError: for a ``dual_clip`` of 1 or less.
    """
    if dual_clip is not None and dual_clip <= 1:
        raise ConfigError(f"dual_clip must be above 1, got {dual_clip!r}")
    logprobs, mask = mx.array(logprobs), mx.array(mask)
    advantages = mx.array(advantages).astype(logprobs.dtype)
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    # Padding may hold anything: it must not become inf or NaN, which 0 * x would keep.
    advantages = mx.where(mask > 0, advantages, 0.0)  # (N, T)
    log_ratio = mx.where(mask > 0, logprobs - mx.array(old_logprobs), 0.0)
    ratio = mx.exp(log_ratio)
    clipped = mx.clip(ratio, 1 - clip_range, 1 + clip_range)
    per_token = -mx.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        bound = -dual_clip * advantages
        per_token = mx.where(advantages < 0, mx.minimum(per_token, bound), per_token)
    tokens = mx.maximum(mask.sum(), 1)
    whole = tokens if batch_size is None else max(batch_size.tokens, 1)
    outside = mx.abs(ratio - 1) > clip_range
    metrics = {
        "approx_kl": ((ratio - 1 - log_ratio) * mask).sum() / tokens,
        "clip_fraction": (outside * mask).sum() / tokens,
    }
    loss = (per_token * mask).sum() / whole
    return loss, {name: mx.stop_gradient(value) for name, value in metrics.items()}


def value_loss(
    values: mx.array,
    old_values: mx.array,
    returns: mx.array,
    mask: mx.array,
    *,
    clip_range_vf: float | mx.array | None = None,
    batch_size: BatchSize | None = None,
) -> mx.array:
    """Mean squared error of the critic over the tokens of the mask; all arguments (N, T).

    With ``clip_range_vf`` a value counts as no farther from the old one than that, as
    Stable-Baselines3 has it.
    """
    if clip_range_vf is not None:
        values = old_values + mx.clip(values - old_values, -clip_range_vf, clip_range_vf)
    error = mx.where(mask > 0, returns - values, 0.0)
    whole = mx.maximum(mask.sum(), 1) if batch_size is None else max(batch_size.tokens, 1)
    return (error * error).sum() / whole


@dataclass(frozen=True)
class PPOConfig:
    """Settings of `PPOTrainer`. Names, meanings and defaults are Stable-Baselines3's.

    Raises:
        ConfigError: for a value out of range, naming the field.
        ConfigTypeError: for a value of another type, naming the field.
    """

    total_timesteps: int = 100_000
    """Transitions of the whole training; rounded up to whole rollouts."""
    max_steps: int | None = None
    """Stop after this many optimizer steps; unset: total_timesteps alone decides."""
    num_envs: int = 1
    """Parallel environments. More decorrelate a rollout; they share n_steps."""
    n_steps: int = 2048
    """Transitions of a rollout, of all environments together. 1024: faster updates, less stable;
    4096: very stable, slow to the first update."""
    batch_size: int = 64
    """Rows of a minibatch: transitions of control, trajectories of text."""
    n_epochs: int = 10
    """Passes over each rollout. Fewer where train/approx_kl runs away."""
    learning_rate: float = 3e-4
    """Adam's step."""
    anneal_learning_rate: bool = False
    """Let the learning rate fall to 0 over the training."""
    gamma: float = 0.99
    """Discount of a step. Nearer 1 where rewards come late; 1 for text."""
    gae_lambda: float = 0.95
    """0 trusts the critic after one step, 1 the rewards alone."""
    clip_range: float = 0.2
    """How far the ratio may leave 1 before its gradient stops."""
    anneal_clip_range: bool = False
    """Let the clip range fall to 0 over the training."""
    clip_range_vf: float | None = None
    """How far a value may leave the old one; unset: as far as it likes."""
    normalize_advantage: bool = True
    """Standardise the advantages of each minibatch (of text: of the rollout's tokens)."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus. Above 0 where the policy settles too early."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """The gradient's global norm is clipped to this; 0 does not clip."""
    target_kl: float | None = None
    """End a rollout's passes once the approximate KL is above 1.5 times this."""
    bootstrap_truncated: bool = True
    """Let a truncated episode go on in the value of its last observation."""
    normalize_observations: bool = False
    """Control: standardise observations by running statistics. On for unequal scales."""
    normalize_rewards: bool = False
    """Control: divide rewards by the running deviation of the discounted return."""
    hidden: tuple[int, ...] = (64, 64)
    """Control: units of each hidden layer, of the actor and of the critic alike."""
    activation: str = "tanh"
    """Control: tanh or relu."""
    beta: float = 0.0
    """Text: weight of the KL penalty to the first policy, in the reward of each token."""
    max_completion_length: int = 64
    """Text: longest completion in tokens."""
    temperature: float = 1.0
    """Text: divides the logits when sampling."""
    top_p: float = 1.0
    """Text: sample from the most probable tokens of this mass; 1 is all."""
    chat_template: bool | None = None
    """Text: whether prompts go through the chat template; unset: where the tokenizer has one."""
    micro_batch_size: int | None = None
    """Text: trajectories in one forward and backward; unset: all of a minibatch."""
    gradient_checkpointing: bool = False
    """Text: compute each layer again in the backward. Slower, in less memory."""
    lora_rank: int = 0
    """Text: train low-rank adapters of this rank in place of all weights; 0: all weights."""
    lora_scale: float = 10.0
    """Text: what the adapters' output is multiplied by."""
    seed: int = 0
    """Seeds environments, initial weights, sampling and minibatches."""

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(
            self,
            **dict.fromkeys(
                (
                    *("total_timesteps", "max_steps", "num_envs", "n_steps", "batch_size"),
                    *("n_epochs", "max_completion_length", "micro_batch_size"),
                ),
                (1, None),
            ),
            **dict.fromkeys(
                (
                    *("learning_rate", "clip_range", "clip_range_vf", "ent_coef", "vf_coef"),
                    *("max_grad_norm", "target_kl", "beta", "temperature", "lora_rank"),
                    *("lora_scale", "seed"),
                ),
                (0, None),
            ),
            **dict.fromkeys(("gamma", "gae_lambda", "top_p"), (0, 1)),
        )
        if self.activation not in ACTIVATIONS:
            raise ConfigError(unknown("activation", self.activation, ACTIVATIONS))
        if self.n_steps % self.num_envs:
            raise ConfigError(
                f"n_steps={self.n_steps} must be divisible by num_envs={self.num_envs}: a "
                "rollout is shared evenly by all environments"
            )


class Learner(Protocol):
    """What `PPOTrainer` needs of the network that it trains."""

    policy: Any
    strategy: Strategy

    def update(
        self, rollout: Buffer, remaining: float, max_updates: int | None
    ) -> dict[str, float]:
        """Improve the policy on its rollout; metrics, ``train/n_updates`` among them."""
        ...

    def describe(self) -> str:
        """What is trained, in a line."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write the trained policy."""
        ...


def minibatches(config: PPOConfig, rows: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The rows of each minibatch of an update, shuffled anew each epoch."""
    for _ in range(config.n_epochs):
        shuffled = rng.permutation(rows)
        for start in range(0, rows, config.batch_size):
            yield shuffled[start : start + config.batch_size]


class PPOTrainer:
    """Trains by PPO: two small networks on control, or a language model on text.

    Args:
        model: ``"mlp"`` on control; on text a name or folder for `load_model`, or an mlx-lm model
            (with ``tokenizer``).
        env: an environment id, an environment, or a function that makes one.
        config: settings; where None, the environment's preset (`textenv.algos.ppo_presets`), or
            the defaults where it has none.
        env_kwargs: arguments of ``gym.make``, where ``env`` is an id.
        tokenizer: of a language model that is passed itself.
        on_step: called after each update with the metrics and the rollout.
        export_to: a folder that each rollout is written to, as
            ``rollout_{index}_{YYYYMMDD_HHMMSS}.json``; None writes none.
        export_every: write the first of each so many.

    Attributes:
        policy: the policy that is trained; usable at any time.
        history: the metrics of each update so far.
        num_timesteps: transitions collected so far.
        exporter: its ``last`` is the file of the last rollout, where that was written.

    Raises:
        ConfigError: for a model that does not fit the environment, spaces that the networks
            cannot take, or a rollout that does not divide.

    Example:
        >>> config = PPOConfig(total_timesteps=512, n_steps=256, n_epochs=1)
        >>> trainer = PPOTrainer("mlp", env="CartPole-v1", config=config)
        >>> len(trainer.train())
        2
    """

    def __init__(
        self,
        model: Any = "mlp",
        env: Any = "CartPole-v1",
        config: PPOConfig | None = None,
        *,
        env_kwargs: dict[str, Any] | None = None,
        tokenizer: Any = None,
        on_step: Callable[[dict[str, float], Buffer], None] | None = None,
        export_to: str | Path | None = None,
        export_every: int = 1,
    ):
        from textenv.algos.episodes.environments import make_training_env
        from textenv.algos.ppo_presets import preset

        self.config = config = config or preset(env if isinstance(env, str) else None)
        self.env = make_training_env(env, env_kwargs, config.num_envs)
        self._learner = self._make_learner(model, tokenizer)
        self.policy = self._learner.policy
        self._runner = RolloutRunner(
            self.env, self.policy, self._learner.strategy, config.n_steps, config.seed
        )
        self._on_step = on_step
        self.exporter = Exporter(export_to, export_every)
        self._episodes = EpisodeStats()
        self.history: list[dict[str, float]] = []
        self.num_timesteps = 0
        self._updates = 0

    def _make_learner(self, model: Any, tokenizer: Any) -> Learner:
        if is_text(self.env):
            from textenv.algos.ppo_text import TextLearner

            return TextLearner(model, tokenizer, self.env, self.config)
        if model != "mlp":
            raise ConfigError(f"model must be 'mlp' on an environment of control, got {model!r}")
        from textenv.algos.ppo_control import ControlLearner

        return ControlLearner(self.env, self.config)

    def train(self) -> list[dict[str, float]]:
        """Collect rollouts and train on each, until ``total_timesteps`` are collected.

        Returns:
            The metrics of each update, which are `history` too.
        """
        config = self.config
        began = time.perf_counter()
        while self.num_timesteps < config.total_timesteps and not self._spent():
            start = time.perf_counter()
            before = dict(self._runner.seconds)
            with out_of_memory("collecting", "lower n_steps, or max_completion_length of text"):
                rollout = self._runner.collect()
            collected = time.perf_counter()
            self.num_timesteps += rollout.num_transitions
            self.exporter.write(
                rollout, self._runner, gamma=config.gamma, gae_lambda=config.gae_lambda
            )
            exported = time.perf_counter()
            remaining = max(0.0, 1 - self.num_timesteps / config.total_timesteps)
            left = None if config.max_steps is None else config.max_steps - self._updates
            metrics = self._learner.update(rollout, remaining, left)
            end = time.perf_counter()
            self._updates += int(metrics["train/n_updates"])
            self._runner.policy_version = self._updates
            self._episodes.add(rollout)
            metrics |= self._episodes.metrics()
            metrics |= {
                "step": float(self._updates),
                "time/iterations": float(len(self.history) + 1),
                "time/total_timesteps": float(self.num_timesteps),
                "time/fps": rollout.num_transitions / (end - start),
                "step_time": end - start,
                "time/time_elapsed": end - began,
                "time/rollout": collected - start,
                "time/environment": self._runner.seconds["environment"] - before["environment"],
                "time/policy": self._runner.seconds["policy"] - before["policy"],
                "time/export": exported - collected,
                "time/update": end - exported,
            }
            self.history.append(metrics)
            if self._on_step is not None:
                self._on_step(metrics, rollout)
        return self.history

    def describe(self) -> str:
        """What is trained, and how, in a line."""
        return self._learner.describe()

    def save(self, folder: str | Path) -> None:
        """Write the trained policy.

        Control is read back by `textenv.algos.load_policy`, a language model by `load_model` and
        by ``mlx_lm.load``.
        """
        self._learner.save(folder)

    def close(self) -> None:
        """Close the environments."""
        self._runner.close()

    def _spent(self) -> bool:
        return self.config.max_steps is not None and self._updates >= self.config.max_steps


class EpisodeStats:
    """Returns and lengths of the last episodes, put together from the parts that rollouts cut."""

    def __init__(self) -> None:
        self._parts: dict[int | None, tuple[float, int]] = {}  # by environment, under way
        self._finished: deque[tuple[float, int]] = deque(maxlen=_EPISODES)

    def add(self, rollout: Buffer) -> None:
        """Count the trajectories of a rollout, in the order in which they ended."""
        for trajectory in rollout:
            total, length = self._parts.pop(trajectory.env_index, (0.0, 0))
            whole = total + trajectory.total_reward, length + len(trajectory)
            if trajectory.terminated or trajectory.truncated:
                self._finished.append(whole)
            else:
                self._parts[trajectory.env_index] = whole

    def metrics(self) -> dict[str, float]:
        """Mean return and length, once an episode has ended."""
        if not self._finished:
            return {}
        returns, lengths = zip(*self._finished)
        return {
            "rollout/ep_rew_mean": float(np.mean(returns)),
            "rollout/ep_len_mean": float(np.mean(lengths)),
        }


def bootstrap_value(trajectory: Trajectory, bootstrap_truncated: bool) -> float:
    """What a trajectory is worth after its last step."""
    if trajectory.terminated or (trajectory.truncated and not bootstrap_truncated):
        return 0.0
    if trajectory.last_value is None:
        raise ConfigError("the policy gave no value of the last observation: it has no critic")
    return trajectory.last_value


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """1 where the values predict the returns, 0 where a constant would do as well."""
    spread = float(np.var(returns))
    return 0.0 if spread == 0 else 1 - float(np.var(returns - values)) / spread
