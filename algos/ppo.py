"""PPO: updates a policy several times on its own rollout, and bounds how far each update goes.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), equations 7
and 9. Advantages are by GAE, Schulman et al. 2016 (1506.02438), equation 16. Details are those of
Huang et al. 2022, "The 37 Implementation Details of PPO". The same objective trains two networks
on control (`textenv.algos.ppo_control`), and a language model, each token of which is a decision
(`textenv.algos.ppo_text`).

Deviations:
- ``n_steps`` counts all environments together: a rollout has one size, whatever their number.
- The return of a truncated episode includes the value of its last observation (Pardo et al. 2018,
  1712.00378). With ``bootstrap_truncated=False`` it does not, as in the paper.
- Statistics of observations do not change while a rollout is collected. They are updated with it
  after the update of the policy, so that the ratio of the first minibatch is 1.
- The optional third bound of the objective is the dual clip of Ye et al. 2020 (1912.09729), eq. 5.

Shapes: N rows, T tokens of a row (1 for control).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from textenv.algos.episodes.environments import is_text, make_training_env
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.style import style_for
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.evaluation.measure import OnProgress
from textenv.algos.evaluation.results import Evaluation
from textenv.algos.evaluation.schedule import Best, EvaluationSchedule
from textenv.algos.lm.scoring.batch import BatchSize
from textenv.algos.ppo_config import PPOConfig, preset
from textenv.algos.rollouts.health.watch import Finding, HealthWatch
from textenv.algos.rollouts.metrics import PhaseClock, PPOMetrics
from textenv.algos.rollouts.prompts import check_prompts
from textenv.algos.rollouts.rehearsal import Rehearsal, rehearse
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.runtime import backend
from textenv.algos.storage.source import Exporter
from textenv.algos.strategies.strategy import Strategy
from textenv.errors import ConfigError

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.memory.pressure import out_of_memory  # noqa: E402
from textenv.algos.training.last_good import LastGood  # noqa: E402


def gae(
    rewards: Sequence[float] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    last_value: float = 0.0,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """The advantages of the steps of one trajectory, and its lambda-returns.

    Args:
        rewards: (T,).
        values: (T,), the critic's value of each observation.
        last_value: its value of the observation after the last step; 0 if the episode terminated.
        gamma: the discount of each step.
        gae_lambda: 0 trusts the critic after one step, and 1 trusts the rewards alone.

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
    """The loss to minimise: the clipped surrogate, as a mean over the tokens of the mask.

    Args:
        logprobs: (N, T) under the policy that is trained.
        old_logprobs: (N, T) under the policy that sampled.
        advantages: (N,), or (N, T) for single tokens.
        mask: (N, T), 1 for the tokens that count.
        clip_range: how far the ratio may leave 1 before its gradient stops.
        dual_clip: if the advantage is below 0, the loss of a token is at most this times
            -advantage. It must be above 1; None sets no bound.
        batch_size: the size of the whole batch, if this is a part of it.

    Returns:
        The loss, and two metrics over the tokens of the mask: ``approx_kl`` (Schulman 2020, k3)
        and ``clip_fraction``.

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
    """The critic's mean squared error over the tokens of the mask; all arrays are (N, T).

    With ``clip_range_vf`` a value is clipped to that distance from the old one, as in
    Stable-Baselines3.
    """
    if clip_range_vf is not None:
        values = old_values + mx.clip(values - old_values, -clip_range_vf, clip_range_vf)
    error = mx.where(mask > 0, returns - values, 0.0)
    whole = mx.maximum(mask.sum(), 1) if batch_size is None else max(batch_size.tokens, 1)
    return (error * error).sum() / whole


class Updater(Protocol):
    """What `PPOTrainer` needs to train a network: its policy, and an update from a rollout."""

    policy: Any
    strategy: Strategy

    def update(
        self, rollout: Buffer, remaining: float, max_updates: int | None
    ) -> dict[str, float]:
        """Improve the policy on its rollout; returns metrics, with ``train/n_updates``."""
        ...

    def describe(self) -> str:
        """What is trained, in one line."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write the trained policy."""
        ...

    def save_adapters(self, folder: str | Path, peft: bool) -> None:
        """Write the adapters alone."""
        ...


def minibatches(config: PPOConfig, rows: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The rows of each minibatch of an update, shuffled anew each epoch."""
    for _ in range(config.n_epochs):
        shuffled = rng.permutation(rows)
        for start in range(0, rows, config.batch_size):
            yield shuffled[start : start + config.batch_size]


def last_epoch_mean(values: Mapping[int, float], config: PPOConfig, rows: int) -> float:
    """The mean over the last epoch, which is what Stable-Baselines3 shows as ``approx_kl``.

    Args:
        values: a value of each minibatch that was seen, by its number in `minibatches`.
        config: that of the minibatches.
        rows: the number of rows of the update.
    """
    per_epoch = -(-rows // config.batch_size)
    last = max(values, default=0) // per_epoch
    return float(np.mean([v for i, v in values.items() if i // per_epoch == last] or [0.0]))


class PPOTrainer:
    """Trains by PPO: two small networks on control, or a language model on text.

    Args:
        model: on control ``"mlp"`` for new networks, or the folder of a saved policy, which is
            trained further (the optimizer starts anew); on text a name or folder for `load_model`,
            or an mlx-lm model (with ``tokenizer``).
        env: an environment id, an environment, or a function that makes one.
        config: settings; None takes the environment's preset (`textenv.algos.ppo_config`), or the
            defaults if it has none.
        env_kwargs: arguments of ``gym.make``, if ``env`` is an id. If they name no ``style``, it is
            ``"chat"`` for a task that has it and a tokenizer with a chat template.
        tokenizer: the tokenizer, if ``model`` is an mlx-lm model.
        adapters: on text, a folder of adapters to go on from, if ``model`` is a name or folder.
        on_step: called after each update with the metrics and the rollout.
        export_to: a folder that each rollout is written to, as
            ``rollout_{index}_{YYYYMMDD_HHMMSS}.json``; None writes none.
        export_every: write only the first of every so many rollouts.
        eval_env: on text, held-out examples for evaluations: an environment id, an environment, or
            a function that makes one. None takes the test split of ``env``, if it has one.
        out: on text, a folder in which ``best`` will be the best model by the evaluations of
            ``eval_steps``; None keeps no model.
        on_evaluate: called while such an evaluation goes on, with how many examples it has played,
            of how many.

    Attributes:
        policy: the policy that is trained; usable at any time.
        chosen: on text, which settings were chosen, and why; empty if none were.
        history: the metrics of each update so far.
        evaluations: the evaluations of ``eval_steps``: the ``best``, the ``last``, and whether they
            ``stopped`` the training.
        stopped: why the training ended before its last update, if it did by ``stop_on_collapse``.
        health: on text, looks for what keeps the model from learning; it is found in `warnings`.
        num_timesteps: transitions collected so far.
        exporter: writes the rollouts; its ``last`` is the file of the last one, if it was written.

    Raises:
        ConfigError: for a model or a saved policy that does not fit the environment, spaces that
            the networks cannot take, or an ``n_steps`` that the number of environments does not
            divide.

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
        adapters: str | Path | None = None,
        on_step: Callable[[dict[str, float], Rollout], None] | None = None,
        export_to: str | Path | None = None,
        export_every: int = 1,
        eval_env: Any = None,
        out: str | Path | None = None,
        on_evaluate: OnProgress | None = None,
    ):
        self.config = config = config or preset(env if isinstance(env, str) else None)
        self.env = make_training_env(env, env_kwargs, config.num_envs)
        self.chosen = self.stopped = ""
        self.health: HealthWatch | None = None
        self._last_good: LastGood | None = None
        self._updater = self._make_updater(model, tokenizer, adapters, env, env_kwargs)
        self.policy = self._updater.policy
        self.evaluations = EvaluationSchedule(
            self.config, self.policy, eval_env, self.env, self.save, out, on_evaluate
        )
        self._runner = RolloutRunner(
            self.env, self.policy, self._updater.strategy, config.n_steps, config.seed
        )
        self._on_step = on_step
        self.exporter = Exporter(export_to, export_every)
        self._metrics = PPOMetrics(self._runner.is_text)
        self.history: list[dict[str, float]] = []
        self.num_timesteps = 0
        self._updates = 0
        self._before = 0, 0  # transitions and optimizer steps before the present training

    def _make_updater(
        self, model: Any, tokenizer: Any, adapters: Any, env: Any, env_kwargs: Any
    ) -> Updater:
        if is_text(self.env):
            from textenv.algos.ppo_text import TextUpdater

            def styled(tokenizer: Any) -> Any:
                kwargs = style_for(env, env_kwargs, tokenizer, self.config.chat_template)
                if kwargs != (env_kwargs or {}):
                    self.env = make_training_env(env, kwargs, self.config.num_envs)
                return self.env

            updater = TextUpdater(model, tokenizer, self.env, self.config, adapters, styled)
            self.config, self.chosen = updater.config, updater.chosen
            self.health = HealthWatch(self.env, updater.strategy, updater.policy.model)
            self._last_good = LastGood(updater.network) if self.config.stop_on_collapse else None
            return updater
        from textenv.algos.control.mlp_policy import load_policy
        from textenv.algos.ppo_control import ControlUpdater

        policy = None
        if model != "mlp":
            if not isinstance(model, (str, Path)) or not Path(model).is_dir():
                raise ConfigError(
                    "model must be 'mlp' on an environment of control, or the folder of a policy "
                    f"that was saved, got {model!r:.80}"
                )
            policy = load_policy(model, self.config.seed)
        control = ControlUpdater(self.env, self.config, policy)
        self.config = control.config
        return control

    def train(self) -> list[dict[str, float]]:
        """Collect rollouts and train on each, until ``total_timesteps`` are collected.

        A further call goes on counting. If a call was interrupted, the next one collects what is
        left; else it collects ``total_timesteps`` more, and what is annealed begins again.

        Returns:
            The metrics of each update, which are also in `history`.

        Raises:
            DataError: if a prompt of a dataset does not fit the model's context, before the first
                update.
        """
        config = self.config
        if self._runner.is_text:
            check_prompts(self.policy, self.env)
        if self._finished():
            self._before = self.num_timesteps, self._updates
        self.evaluations.begin()
        while not self._finished() and not self.evaluations.stopped:
            clock = PhaseClock()
            with out_of_memory("collecting", "lower n_steps, or max_completion_length of text"):
                rollout = self._runner.collect()
            if self._last_good is not None:
                self._last_good.offer(self._updates, rollout)
            clock.end("rollout")
            self.num_timesteps += rollout.num_transitions
            self.exporter.write(
                rollout, self._runner, gamma=config.gamma, gae_lambda=config.gae_lambda
            )
            clock.end("export")
            timesteps, updates = self._since_start()
            remaining = max(0.0, 1 - timesteps / config.total_timesteps)
            left = None if config.max_steps is None else config.max_steps - updates
            update = self._updater.update(rollout, remaining, left)
            clock.end("update")
            self._updates += int(update["train/n_updates"])
            self._runner.policy_version = self._updates
            metrics = self._metrics.step(rollout, update, clock, self._updates)
            self.history.append(metrics)
            try:
                metrics |= self.evaluations.after_step(self._updates, self._progress(), clock.total)
            finally:  # an evaluation may be interrupted after the update was made
                if self.health is not None:
                    self.health.step(self._updates, metrics, rollout)
                if self._on_step is not None:
                    self._on_step(metrics, rollout)
            if self._last_good and self.health and self.health.has_collapsed:
                self.stopped = self._last_good.go_back(self._updates)
                break
        return self.history

    def evaluate(self, examples: int | None = None, samples: int | None = None) -> Evaluation:
        """Evaluate a policy of text as it is, on held-out examples.

        Args:
            examples: how many examples; None: ``eval_examples``.
            samples: how many sampled answers to each; 0: a greedy one; None: ``eval_samples``.

        Raises:
            ConfigError: if there are no held-out examples, or on control.
        """
        return self.evaluations.evaluate(examples, samples)

    @property
    def best(self) -> Best | None:
        """The best evaluation of ``eval_steps`` so far, and its model's folder, if it is kept."""
        return self.evaluations.best

    def rehearse(self, groups: int) -> Rehearsal:
        """On text, play some episodes and train on them, to see how long it takes.

        It changes the weights and counts as no update: use a trainer that is then given up.
        """
        return rehearse(
            self._runner, groups, lambda rollout: self._updater.update(rollout, 1.0, None)
        )

    @property
    def warnings(self) -> list[Finding]:
        """On text, what was found that keeps the model from learning, once each, with a remedy."""
        return [] if self.health is None else self.health.findings

    def describe(self) -> str:
        """What is trained, and how, in one line."""
        return self._updater.describe()

    def save(self, folder: str | Path) -> None:
        """Write the trained policy to a folder.

        `load_policy` reads a policy of control; `load_model` and ``mlx_lm.load`` a language model.
        """
        self._updater.save(folder)

    def save_adapters(self, folder: str | Path, peft: bool = False) -> None:
        """On text, write the adapters alone; see `GRPOTrainer.save_adapters`."""
        self._updater.save_adapters(folder, peft)

    def close(self) -> None:
        """Close the environments."""
        self._runner.close()
        self.evaluations.close()

    def _since_start(self) -> tuple[int, int]:
        """Transitions and optimizer steps since the present training began."""
        return self.num_timesteps - self._before[0], self._updates - self._before[1]

    def _progress(self) -> float:
        """The share of the present training that is done; 1 at its end."""
        timesteps, updates = self._since_start()
        by_steps = updates / self.config.max_steps if self.config.max_steps else 0.0
        return min(1.0, max(timesteps / self.config.total_timesteps, by_steps))

    def _finished(self) -> bool:
        return self._progress() >= 1


def bootstrap_value(trajectory: Trajectory, bootstrap_truncated: bool) -> float:
    """The value of what would come after a trajectory's last step; 0 if nothing would come."""
    if trajectory.terminated or (trajectory.truncated and not bootstrap_truncated):
        return 0.0
    if trajectory.last_value is None:
        raise ConfigError("the policy gave no value of the last observation: it has no critic")
    return trajectory.last_value


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """1 if the values predict the returns exactly, 0 if they are no better than a constant."""
    spread = float(np.var(returns))
    return 0.0 if spread == 0 else 1 - float(np.var(returns - values)) / spread
