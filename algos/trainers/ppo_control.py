"""PPO's update of an actor and a critic for control, in MLX.

rollout -> advantages -> minibatches -> loss -> gradient -> Adam -> weights. The weights are given
to the NumPy policy that collects. Each minibatch is one call of a compiled function, see
`textenv.algos.control.mlp_training.Adam`.

Shapes: N transitions of a rollout, B of a minibatch, D features, P outputs of the actor, K
components of an action.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from textenv.algos.control.mlp_policy import MLPPolicy
from textenv.algos.control.mlp_training import (
    Adam,
    Figures,
    MLPWeights,
    mean_figures,
    score_actions,
    transition_arrays,
)
from textenv.algos.control.running_stats import RunningStats
from textenv.algos.episodes.parts import EpisodeParts
from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.ppo import (
    bootstrap_value,
    explained_variance,
    gae,
    last_epoch_mean,
    minibatches,
    policy_loss,
    value_loss,
)
from textenv.algos.ppo_config import PPOConfig
from textenv.algos.runtime import backend
from textenv.algos.storage.checkpoints.state import State, load_rng, save_rng
from textenv.algos.storage.source import single_spaces
from textenv.algos.strategies.strategy import create_strategy
from textenv.algos.training.guard import SKIPPED, StepGuard
from textenv.errors import ConfigError, DataError

backend.prepare()

import mlx.core as mx  # noqa: E402

_EPSILON = 1e-8
_MAX_REWARD = 10.0  # normalised rewards stay within this, as in Stable-Baselines3's VecNormalize
_ADVANTAGES = 3  # the place of the advantages among the columns of a minibatch


@dataclass
class ControlBatch:
    """A rollout of control as arrays, N transitions in the order of its trajectories."""

    observations: np.ndarray
    """(N, D) float32, not standardised."""
    actions: np.ndarray
    """(N, K), as the policy drew them: discrete ones count from 0, others are not clipped."""
    logprobs: np.ndarray
    """(N,) float32."""
    values: np.ndarray
    """(N,) float64, in units of the rewards."""
    advantages: np.ndarray
    """(N,) float64, in units of the rewards."""
    masks: np.ndarray | None
    """(N, P) bool; None if nothing is masked."""

    @property
    def returns(self) -> np.ndarray:
        """(N,) float64, what the critic is to predict, in units of the rewards."""
        return self.advantages + self.values

    def __len__(self) -> int:
        return len(self.observations)


class ControlUpdater:
    """Trains an `MLPPolicy` by PPO.

    Args:
        env: the environment, single or vector; its spaces decide the networks.
        config: settings.
        policy: the policy to train further; None makes one with new weights. The networks and the
            normalisation of observations are its own, whatever the settings say.

    Raises:
        ConfigError: if the spaces of the policy and of the environment differ; names both.
    """

    strategy = create_strategy("ppo")

    def __init__(self, env: Any, config: PPOConfig, policy: MLPPolicy | None = None):
        if policy is None:
            spaces = single_spaces(env)
            normalize = config.normalize_observations
            policy = MLPPolicy(*spaces, config.hidden, config.activation, normalize, config.seed)
        else:
            _check_spaces(policy, env)
            config = replace(
                config,
                hidden=policy.hidden,
                activation=policy.activation,
                normalize_observations=policy.stats is not None,
            )
        self.config, self.policy = config, policy
        self._rng = np.random.default_rng((config.seed, 1))
        self._reward_stats = RunningStats(1)
        self._discounted: EpisodeParts[float] = EpisodeParts()  # return of unfinished episodes
        self._optimizer = Adam(self.policy.weights, self._loss, config.max_grad_norm)
        self.guard: StepGuard | None = None
        self.trained = None  # a rollout of control has no inspection

    def update(
        self, rollout: Buffer, remaining: float, max_updates: int | None = None
    ) -> dict[str, float]:
        """Train on a rollout that the present policy collected.

        Args:
            rollout: trajectories with values and log-probabilities.
            remaining: share of the training that is still to come, for annealing.
            max_updates: stop after this many optimizer steps.

        Returns:
            Means over the minibatches, under Stable-Baselines3's names. As there, ``approx_kl`` is
            the mean of the last epoch, and a minibatch that ``target_kl`` stopped counts too.

        Raises:
            DataError: if another kind of policy collected the rollout.
            FloatingPointError: if the loss or the gradient of a step is not finite, and there is no
                guard. The weights are left as they were.
        """
        config = self.config
        if config.normalize_rewards:
            self._count_rewards(rollout)
        batch = control_batch(rollout, self.policy, config)
        scale = self.policy.reward_scale
        rate = config.learning_rate * (remaining if config.anneal_learning_rate else 1)
        clip = config.clip_range * (remaining if config.anneal_clip_range else 1)
        data = self._data(batch, scale)
        history: list[Figures] = []
        updates, before = 0, self._optimizer.vectors
        for rows in minibatches(config, len(batch), self._rng):
            if updates == max_updates:
                break
            minibatch = [part[rows] for part in data]
            if config.normalize_advantage and len(rows) > 1:
                minibatch[_ADVANTAGES] = _standardised(minibatch[_ADVANTAGES])
            kept = self._optimizer.vectors
            figures = self._optimizer.step(rate, minibatch, [clip])
            history.append(figures)
            most = None if config.target_kl is None else 1.5 * config.target_kl
            if most is not None and float(figures["approx_kl"]) > most:
                self._optimizer.vectors = kept
                break
            updates += 1
        try:
            means = mean_figures(history)
        except FloatingPointError as error:
            self._optimizer.vectors = before
            if self.guard is None:
                raise
            self.guard.skipped(error, list(rollout))
            return {"train/n_updates": 0.0, SKIPPED: float(updates)}
        if self.guard is not None:
            self.guard.taken()
        self.policy.set_weights(self._optimizer.weights)
        self.policy.update_stats(batch.observations)
        kls = {i: float(figures["approx_kl"]) for i, figures in enumerate(history)}
        means["approx_kl"] = last_epoch_mean(kls, config, len(batch))
        metrics = {f"train/{name}": mean for name, mean in means.items()}
        if self.policy.distribution.learns_std:
            metrics["train/std"] = float(np.exp(self.policy.weights["log_std"]).mean())
        return metrics | {
            "train/explained_variance": explained_variance(batch.values, batch.returns),
            "train/learning_rate": rate,
            "train/clip_range": clip,
            "train/n_updates": float(updates),
        }

    def describe(self) -> str:
        """What is trained, in one line."""
        c = self.config
        layers = " x ".join(map(str, c.hidden))
        switches = {"observations": c.normalize_observations, "rewards": c.normalize_rewards}
        normalized = [name for name, on in switches.items() if on]
        return (
            f"PPO: actor and critic of {layers} {c.activation} units, "
            f"{self._optimizer.size} weights; "
            f"{c.n_steps} transitions a rollout over {c.num_envs} environment(s), "
            f"{c.n_epochs} epochs of minibatches of {c.batch_size}, Adam at {c.learning_rate:g}"
            + (f"; normalised {' and '.join(normalized)}" if normalized else "")
        )

    def save(self, folder: str | Path) -> None:
        """Write the policy, statistics included; `load_policy` reads it."""
        self.policy.save(folder)

    def save_adapters(self, folder: str | Path, peft: bool = False) -> None:
        """Refuse to, since a policy of control has none."""
        raise ConfigError("a policy of control has no adapters: save it with save()")

    def state(self) -> State:
        """The policy, Adam, the statistics of the rewards, and the shuffling of minibatches."""
        parts = {
            "policy": self.policy.state(),
            "adam": self._optimizer.state(),
            "reward_stats": self._reward_stats.state(),
            "own": State(
                {}, {"minibatches": save_rng(self._rng), "returns": self._discounted.state()}
            ),
        }
        return State.joined(parts)

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave.

        Raises:
            ConfigError: if it is of a policy of other networks.
        """
        self.policy.load_state(state.part("policy"))
        self._optimizer.load_state(state.part("adam"))
        self._reward_stats.load_state(state.part("reward_stats"))
        own = state.part("own")
        load_rng(self._rng, own.value("minibatches"))
        self._discounted.load_state(own.value("returns"))

    def _count_rewards(self, rollout: Buffer) -> None:
        """Update the scale of the rewards with the discounted returns of a rollout."""
        returns = []
        for trajectory in rollout:
            total = self._discounted.take(trajectory) or 0.0
            for reward in trajectory.rewards:
                total = total * self.config.gamma + reward
                returns.append(total)
            if not (trajectory.terminated or trajectory.truncated):
                self._discounted.keep(trajectory, total)
        self._reward_stats.update(np.array(returns)[:, None])
        self.policy.reward_scale = float(np.sqrt(self._reward_stats.var[0] + _EPSILON))

    def _data(self, batch: ControlBatch, scale: float) -> list[np.ndarray]:
        """The columns of the minibatches, with rewards in units of the critic's output."""
        data = [
            self.policy.normalize(batch.observations),
            batch.actions,
            batch.logprobs,
            (batch.advantages / scale).astype(np.float32),
            (batch.values / scale).astype(np.float32),
            (batch.returns / scale).astype(np.float32),
        ]
        return data if batch.masks is None else [*data, batch.masks]

    def _loss(
        self,
        weights: MLPWeights,
        settings: list[mx.array],
        observations: mx.array,
        actions: mx.array,
        old_logprobs: mx.array,
        advantages: mx.array,
        old_values: mx.array,
        returns: mx.array,
        mask: mx.array | None = None,
    ) -> tuple[mx.array, Figures]:
        """The loss, and its parts; the only setting is the clip range."""
        config = self.config
        logprobs, entropies, values = score_actions(
            weights, self.policy, observations, actions, mask
        )
        ones = mx.ones((len(advantages), 1))
        surrogate, metrics = policy_loss(
            logprobs[:, None], old_logprobs[:, None], advantages, ones, clip_range=settings[0]
        )
        error = value_loss(
            values[:, None],
            old_values[:, None],
            returns[:, None],
            ones,
            clip_range_vf=config.clip_range_vf,
        )
        entropy_loss = -entropies.mean()
        loss = surrogate + config.vf_coef * error + config.ent_coef * entropy_loss
        parts = {
            "policy_gradient_loss": surrogate,
            "value_loss": error,
            "entropy_loss": entropy_loss,
        }
        return loss, {k: mx.stop_gradient(v) for k, v in parts.items()} | metrics


def _check_spaces(policy: MLPPolicy, env: Any) -> None:
    """Refuse an environment that a policy was not made for; None is no environment."""
    if env is None:
        return
    observations, actions = single_spaces(env)
    if not policy.encoder.takes(observations) or policy.distribution.space != actions:
        raise ConfigError(
            f"the policy was made for observations {policy.encoder.space} and actions "
            f"{policy.distribution.space}, and the environment has observations {observations} "
            f"and actions {actions}"
        )


def _standardised(advantages: np.ndarray) -> np.ndarray:
    centred = advantages - advantages.mean()
    return centred / (advantages.std(ddof=1) + np.float32(_EPSILON))


def control_batch(rollout: Buffer, policy: MLPPolicy, config: PPOConfig) -> ControlBatch:
    """A rollout as arrays, with advantages by GAE.

    Raises:
        DataError: for an empty rollout, or one without values and log-probabilities.
    """
    trajectories = [t for t in rollout if len(t)]
    if not trajectories:
        raise DataError("there is nothing to train on: the rollout holds no transitions")
    if any(t.values is None or t.logprobs is None for t in trajectories):
        raise DataError(
            "PPO needs the value and the log-probability of each action, and this rollout has "
            "none: its policy has no critic"
        )
    limit = _MAX_REWARD * policy.reward_scale if config.normalize_rewards else np.inf
    advantages = [
        gae(
            np.clip(t.rewards, -limit, limit),
            t.values or [],
            bootstrap_value(t, config.bootstrap_truncated),
            config.gamma,
            config.gae_lambda,
        )[0]
        for t in trajectories
    ]
    seen = transition_arrays(trajectories, policy)
    return ControlBatch(
        observations=seen.observations,
        actions=seen.actions,
        logprobs=np.array([x for t in trajectories for x in t.logprobs or ()], np.float32),
        values=np.array([x for t in trajectories for x in t.values or ()], np.float64),
        advantages=np.concatenate(advantages),
        masks=seen.masks,
    )
