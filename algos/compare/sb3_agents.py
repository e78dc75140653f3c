"""Agents of Stable-Baselines3 and sb3-contrib, for a comparison.

`SB3Trainer` trains on-policy agents from this package's rollouts. Under the name ``sb3-learn:``
they are trained by their own ``learn()`` instead, which gives the same agent and the time that a
user of Stable-Baselines3 would measure. Off-policy agents are always trained by ``learn()``. On
control, PPO and its relatives get the environment's preset, translated; other agents get the
settings below, or Stable-Baselines3's defaults. Where choices do not count from 0, they are counted
from 0 for these agents.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from textenv.algos.compare.arena import Arena
from textenv.algos.compare.clock import Watch
from textenv.algos.compare.results import Run
from textenv.algos.ppo_config import PPOConfig, preset
from textenv.algos.trainers.sb3 import SB3Trainer
from textenv.errors import ConfigError, MissingDependencyError
from textenv.wrappers.actions.count_from_zero import CountFromZero, from_zero, shift
from textenv.wrappers.sb3 import SB3Policy

_ANY = (Box, Discrete, MultiDiscrete, MultiBinary)


class Algorithm(NamedTuple):
    """An algorithm: its package, the action spaces it takes, and whether it is on-policy."""

    package: str
    actions: tuple[type, ...]
    on_policy: bool


ALGORITHMS = {
    "PPO": Algorithm("stable_baselines3", _ANY, True),
    "A2C": Algorithm("stable_baselines3", _ANY, True),
    "DQN": Algorithm("stable_baselines3", (Discrete,), False),
    "SAC": Algorithm("stable_baselines3", (Box,), False),
    "TD3": Algorithm("stable_baselines3", (Box,), False),
    "DDPG": Algorithm("stable_baselines3", (Box,), False),
    "TRPO": Algorithm("sb3_contrib", _ANY, True),
    "RecurrentPPO": Algorithm("sb3_contrib", _ANY, True),
    "MaskablePPO": Algorithm("sb3_contrib", _ANY[1:], True),
    "QRDQN": Algorithm("sb3_contrib", (Discrete,), False),
    "TQC": Algorithm("sb3_contrib", (Box,), False),
}
_LIKE_PPO = ("PPO", "RecurrentPPO", "MaskablePPO")

_DQN = {
    "learning_starts": 1000,
    "buffer_size": 100_000,
    "policy_kwargs": {"net_arch": [256, 256]},
}
# RL Baselines3 Zoo, hyperparams/dqn.yml and sac.yml.
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("DQN", "CartPole-v1"): _DQN
    | {"learning_rate": 2.3e-3, "batch_size": 64, "gamma": 0.99, "target_update_interval": 10}
    | {"train_freq": 256, "gradient_steps": 128}
    | {"exploration_fraction": 0.16, "exploration_final_eps": 0.04},
    ("DQN", "MountainCar-v0"): _DQN
    | {"learning_rate": 4e-3, "batch_size": 128, "gamma": 0.98, "target_update_interval": 600}
    | {"train_freq": 16, "gradient_steps": 8, "buffer_size": 10_000}
    | {"exploration_fraction": 0.2, "exploration_final_eps": 0.07},
    ("SAC", "Pendulum-v1"): {"learning_rate": 1e-3},
}
DEFAULTS = "Stable-Baselines3's defaults"
_NOISE = 0.1  # of the exploration of TD3 and DDPG, which have none by default
_OFF_POLICY_STEPS = 256  # in a warm-up, after learning has started


class SB3Contestant:
    """An agent of Stable-Baselines3.

    Args:
        algorithm: one of `ALGORITHMS`.
        arena: the arena that it is trained in.
        by_learn: whether to train an on-policy agent by its own ``learn()``.

    Raises:
        ConfigError: if the algorithm cannot act in the arena's environment.
        MissingDependencyError: if the package of the algorithm is not installed.
    """

    language = False

    def __init__(self, algorithm: str, arena: Arena, by_learn: bool = False):
        self.name = f"{'sb3-learn' if by_learn else 'sb3'}:{algorithm}"
        self._algorithm = algorithm
        self._arena = arena
        self._config = PPOConfig() if arena.is_text else preset(arena.env)
        self._class = _find(algorithm)
        self._on_policy = ALGORITHMS[algorithm].on_policy
        self._by_learn = by_learn or not self._on_policy
        env = arena.make()
        self._spaces = env.observation_space, env.action_space
        self._shifts = any(from_zero(space) is not space for space in self._spaces)
        self._check_spaces(env)
        self._policy = (
            "MultiInputPolicy" if isinstance(env.observation_space, Dict) else "MlpPolicy"
        )
        if algorithm == "RecurrentPPO":
            self._policy = self._policy.replace("Policy", "LstmPolicy")
        env.close()
        self._num_envs = self._config.num_envs if self._on_policy else 1
        self._like_ppo = algorithm in _LIKE_PPO
        self.settings: dict[str, Any] = {"policy": self._policy, "num_envs": self._num_envs}
        if self._like_ppo:
            self.settings |= translate(self._config)
            source = DEFAULTS if arena.is_text else "the settings of ppo"
        else:
            given = SETTINGS.get((algorithm, arena.env.rpartition(":")[2]), {})
            self.settings |= given
            if algorithm == "TRPO":  # its default would be this much for each environment
                self.settings["n_steps"] = 2048 // self._num_envs
            source = "RL Baselines3 Zoo's settings" if given else DEFAULTS
        if self._normalizes:
            self.settings["normalize"] = {
                "observations": self._config.normalize_observations,
                "rewards": self._config.normalize_rewards,
            }
        if algorithm in ("TD3", "DDPG"):
            self.settings["action_noise"] = f"normal, {_NOISE}"
            source += f", with normal action noise of {_NOISE}"
        by = "trained by its learn()" if self._by_learn else "trained from the rollout loop"
        self.description = (
            f"Stable-Baselines3's {algorithm}, {by}; {self._num_envs} environment(s), {source}"
            + ("; VecNormalize" if self._normalizes else "")
        )

    @property
    def warm_up_timesteps(self) -> int:
        """Those of one rollout; for an off-policy agent, up to some steps after learning starts."""
        if self._like_ppo:
            return self._config.n_steps
        if self._on_policy:
            return self._num_envs  # rounded up to a rollout
        return self.settings.get("learning_starts", 100) + _OFF_POLICY_STEPS

    def train(self, seed: int, total_timesteps: int, watch: Watch) -> Run:
        """Train the agent from a seed."""
        model = self.make_model(seed, total_timesteps)
        policy = self._playing(model)
        watch(0, policy)
        train = self._learn if self._by_learn else self._train_from_rollouts
        parts = train(model, total_timesteps, watch, policy)
        run = watch.finish(self.name, seed, model.num_timesteps, policy, parts)
        model.env.close()
        return run

    def make_model(self, seed: int, total_timesteps: int) -> Any:
        """Make the agent as a user of Stable-Baselines3 would, with its environments."""
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import VecNormalize

        env = make_vec_env(self._make_env, self._num_envs, seed=seed)
        if self._normalizes:
            env = VecNormalize(
                env,
                norm_obs=self._config.normalize_observations,
                norm_reward=self._config.normalize_rewards,
                gamma=self._config.gamma if self._like_ppo else 0.99,
            )
        kwargs = {
            key: _resolve(value)
            for key, value in self.settings.items()
            if key not in ("policy", "num_envs", "normalize", "action_noise")
        }
        if not self._on_policy:  # a larger buffer would never be filled
            kwargs["buffer_size"] = min(kwargs.get("buffer_size", 1_000_000), total_timesteps)
        if "action_noise" in self.settings:
            kwargs["action_noise"] = _noise(env.action_space)
        return self._class(self._policy, env, seed=seed, device="cpu", **kwargs)

    def _make_env(self) -> Any:
        env = self._arena.make()
        return CountFromZero(env) if self._shifts else env

    @property
    def _normalizes(self) -> bool:
        config = self._config
        return self._on_policy and (config.normalize_observations or config.normalize_rewards)

    def _playing(self, model: Any) -> Callable[..., Any]:
        """The agent as a policy of raw observations, with a memory of its own."""
        policy: Callable[..., Any] = SB3Policy(model)
        if self._normalizes:
            policy = _Normalized(policy, model.get_env())
        return _Shifted(policy, *self._spaces) if self._shifts else policy

    def _train_from_rollouts(
        self, model: Any, total: int, watch: Watch, policy: Any
    ) -> dict[str, float]:
        trainer = SB3Trainer(
            model, total, on_step=lambda metrics, rollout: watch(model.num_timesteps, policy)
        )
        history = trainer.train()
        return {
            part: sum(metrics[f"time/{part}"] for metrics in history)
            for part in ("environment", "policy", "update")
        }

    def _learn(self, model: Any, total: int, watch: Watch, policy: Any) -> dict[str, float]:
        """Seconds in the environment and in ``train()`` are measured, the rest is the policy's."""
        from stable_baselines3.common.callbacks import BaseCallback

        class Checkpoints(BaseCallback):
            def _on_rollout_start(self) -> None:  # after an update; a rollout may be one step
                watch(self.num_timesteps, policy)

            def _on_step(self) -> bool:
                return True

        step = model.env.step = _Timed(model.env.step)
        train = model.train = _Timed(model.train)
        model.learn(total, callback=Checkpoints())
        seconds = watch.seconds
        return {
            "environment": step.seconds,
            "update": train.seconds,
            "policy": seconds - step.seconds - train.seconds,
        }

    def _check_spaces(self, env: Any) -> None:
        space, takes = env.action_space, ALGORITHMS[self._algorithm].actions
        if not isinstance(space, takes):
            able = [name for name, a in ALGORITHMS.items() if isinstance(space, a.actions)]
            raise ConfigError(
                f"{self.name} takes {' or '.join(t.__name__ for t in takes)} actions, and "
                f"{self._arena.env} has {space}; agents of Stable-Baselines3 that take these: "
                f"{', '.join(able) or 'none'}"
            )
        if self._algorithm == "MaskablePPO" and not env.has_wrapper_attr("action_masks"):
            raise ConfigError(
                f"{self.name} needs an environment with action_masks(), and {self._arena.env} "
                "has none; sb3:PPO is the same without masks"
            )


class _Linear:
    """A setting that falls linearly to 0 over the training, as Stable-Baselines3 takes it."""

    def __init__(self, start: float):
        self.start = start

    def __call__(self, remaining: float) -> float:
        return self.start * remaining


class _Timed:
    """A function that adds up the seconds of its calls."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return self._function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - began


class _Normalized:
    """A policy whose observations a VecNormalize standardises by its present statistics."""

    batched = True

    def __init__(self, policy: Callable[..., Any], env: Any):
        self._policy = policy
        self._env = env

    def __call__(
        self,
        observation: Any,
        deterministic: bool = False,
        episode_start: Any = None,
        infos: Any = None,
    ) -> tuple[Any, dict[str, Any]]:
        seen = self._env.normalize_obs(observation)
        return self._policy(seen, deterministic, episode_start, infos)


class _Shifted:
    """A policy that counts choices from 0, in an environment that does not."""

    batched = True

    def __init__(self, policy: Callable[..., Any], observation_space: Any, action_space: Any):
        self._policy = policy
        self._observation_space, self._action_space = observation_space, action_space

    def __call__(
        self,
        observation: Any,
        deterministic: bool = False,
        episode_start: Any = None,
        infos: Any = None,
    ) -> tuple[Any, dict[str, Any]]:
        seen = shift(self._observation_space, observation, -1)
        action, extras = self._policy(seen, deterministic, episode_start, infos)
        return shift(self._action_space, action), extras


def translate(config: PPOConfig) -> dict[str, Any]:
    """Translate settings of `PPOTrainer` on control to arguments of Stable-Baselines3's PPO.

    The ``n_steps`` of the result are those of each environment. A schedule is written as
    ``"linear 0.001"``, and the activation as its name.
    """
    return {
        "learning_rate": _schedule(config.learning_rate, config.anneal_learning_rate),
        "n_steps": config.n_steps // config.num_envs,
        "batch_size": config.batch_size,
        "n_epochs": config.n_epochs,
        "gamma": config.gamma,
        "gae_lambda": config.gae_lambda,
        "clip_range": _schedule(config.clip_range, config.anneal_clip_range),
        "clip_range_vf": config.clip_range_vf,
        "normalize_advantage": config.normalize_advantage,
        "ent_coef": config.ent_coef,
        "vf_coef": config.vf_coef,
        "max_grad_norm": config.max_grad_norm,
        "target_kl": config.target_kl,
        "policy_kwargs": {
            "net_arch": {"pi": list(config.hidden), "vf": list(config.hidden)},
            "activation_fn": config.activation,
            "optimizer_kwargs": {"eps": 1e-5},
        },
    }


def _schedule(value: float, anneal: bool) -> float | str:
    return f"linear {value:g}" if anneal else value


def _resolve(value: Any) -> Any:
    """Turn a setting as the results have it into what Stable-Baselines3 takes."""
    if isinstance(value, str) and value.startswith("linear "):
        return _Linear(float(value.removeprefix("linear ")))
    if isinstance(value, Mapping) and "activation_fn" in value:
        from torch import nn

        functions = {"tanh": nn.Tanh, "relu": nn.ReLU}
        return {**value, "activation_fn": functions[value["activation_fn"]]}
    return value


def _noise(space: Any) -> Any:
    import numpy as np
    from stable_baselines3.common.noise import NormalActionNoise

    return NormalActionNoise(np.zeros(space.shape), np.full(space.shape, _NOISE))


def _find(algorithm: str) -> Any:
    package = ALGORITHMS[algorithm].package
    try:
        return getattr(importlib.import_module(package), algorithm)
    except ImportError as error:
        raise MissingDependencyError(
            package.replace("_", "-"), "sb3", f"The agent sb3:{algorithm}"
        ) from error
