"""Trains on-policy agents of Stable-Baselines3 from the rollouts that this package collects.

The result equals that of their own ``learn()`` to the last bit. For that, everything that
``OnPolicyAlgorithm.collect_rollouts`` does beside stepping is done here too: if a time limit cuts
an episode, the value of its last observation is added to the reward; values are computed in
batches of the same size; callbacks are called at the same places; and nothing more is drawn from
a random generator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from textenv.algos.config import check_integer
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.storage.replacing import write_whole
from textenv.algos.trainers.callbacks import Callback, CallsBack
from textenv.errors import ConfigError, ConfigTypeError, MissingDependencyError
from textenv.wrappers.sb3 import SB3Policy
from textenv.wrappers.sb3_vec_env import SB3VectorEnv


class SB3Trainer(CallsBack):
    """Trains PPO, A2C, TRPO, MaskablePPO or RecurrentPPO of Stable-Baselines3.

    `RolloutRunner` collects the rollouts in the model's own VecEnv, including VecNormalize and
    Monitor, and the model makes the updates. Its parameters are afterwards equal to those of
    ``model.learn(total_timesteps, callback)`` from the same seeds.

    Args:
        model: the agent, with its environment.
        total_timesteps: as in ``learn``: whole rollouts are collected until there are so many
            transitions.
        callback: as in ``learn``. ``on_step`` is called after each step of the VecEnv, and stops
            the training by returning False. The rollout buffer is filled when the rollout is
            complete.
        log_interval: how many rollouts lie between two entries of the model's logger; None writes
            no entries.
        reset_num_timesteps: False continues the model's last training.
        on_step: called after each update with the metrics and the rollout.
        callbacks: called after each update, after `save`, and at the end; see `Callback`.

    Attributes:
        policy: the agent as a policy; usable at any time.
        history: the metrics of each update so far, under Stable-Baselines3's names, with the
            seconds that each part took.

    Raises:
        ConfigTypeError: if the agent is not on-policy, or ``total_timesteps`` is not an integer.
        ConfigError: if the model has no environment, or one whose choices do not count from 0, or
            if ``total_timesteps`` is below 1.

    Example:
        >>> from stable_baselines3 import PPO
        >>> model = PPO("MlpPolicy", "CartPole-v1", n_steps=64)
        >>> int(SB3Trainer(model, 128).train()[-1]["time/total_timesteps"])
        128
    """

    def __init__(
        self,
        model: Any,
        total_timesteps: int,
        callback: Any = None,
        *,
        log_interval: int | None = 1,
        reset_num_timesteps: bool = True,
        on_step: Callable[[dict[str, float], Rollout], None] | None = None,
        callbacks: Sequence[Callback] | Callback = (),
    ):
        try:
            from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
        except ImportError as error:
            raise MissingDependencyError("stable-baselines3", "sb3", "SB3Trainer") from error
        if not isinstance(model, OnPolicyAlgorithm):
            name = type(model).__name__
            raise ConfigTypeError(
                f"SB3Trainer trains on-policy agents of Stable-Baselines3 (PPO, A2C, TRPO, "
                f"MaskablePPO, RecurrentPPO), got {name}"
                + (f"; train it with {name}.learn()" if hasattr(model, "learn") else "")
            )
        if model.env is None:
            raise ConfigError("the model has no environment; give it one with model.set_env(env)")
        if isinstance(total_timesteps, bool) or not isinstance(total_timesteps, int):
            raise ConfigTypeError(f"total_timesteps must be an integer, got {total_timesteps!r}")
        check_integer("total_timesteps", total_timesteps, 1)
        self.model: Any = model
        self.total_timesteps = total_timesteps
        self.policy = SB3Policy(model)
        self.history: list[dict[str, float]] = []
        self._callback = callback
        self._log_interval = log_interval
        self._reset_num_timesteps = reset_num_timesteps
        self._call(on_step, callbacks)
        self._stop = False

    def train(self) -> list[dict[str, float]]:
        """Train, as ``model.learn()`` does.

        Returns:
            The metrics of each update; the same list as `history`.

        Raises:
            ConfigError: if MaskablePPO trains in an environment without ``action_masks()``.
        """
        model = self.model
        total_timesteps, callback = model._setup_learn(
            self.total_timesteps,
            self._callback,
            self._reset_num_timesteps,
            type(model).__name__,
        )
        # The local variables of learn(), in which callbacks look names up.
        scope = {
            "self": model,
            "total_timesteps": total_timesteps,
            "callback": callback,
            "log_interval": self._log_interval,
            "tb_log_name": type(model).__name__,
            "reset_num_timesteps": self._reset_num_timesteps,
            "progress_bar": False,
            "iteration": 0,
        }
        callback.on_training_start(scope, {})
        policy = _RecordingPolicy(model)
        env = _ModelVecEnv(model, policy, callback)
        runner = RolloutRunner(env, policy, max_steps=model.n_steps * model.n_envs, seed=None)
        iteration = 0
        while model.num_timesteps < total_timesteps:
            try:
                rollout = env.collect(runner)
            except _Stopped:
                break
            iteration += 1
            model._update_current_progress_remaining(model.num_timesteps, total_timesteps)
            if self._log_interval is not None and iteration % self._log_interval == 0:
                model.dump_logs(iteration)
            began = time.perf_counter()
            model.train()
            seconds = rollout.seconds | {"update": time.perf_counter() - began}
            self._finish_update(rollout, seconds)
            runner.policy_version += 1
            if self._stop:
                break
        self._stop = False
        callback.on_training_end()
        self._after_end()
        return self.history

    def stop(self) -> None:
        """Let `train` return after the present update."""
        self._stop = True

    def save(self, folder: str | Path) -> Path:
        """Write the model to ``model.zip`` in a folder, as its own ``save`` does.

        The file appears complete or not at all; an earlier one is replaced.
        """
        path = Path(folder) / "model.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.model.save)
        self._after_save(folder)
        return path

    def _finish_update(self, rollout: Rollout, seconds: dict[str, float]) -> None:
        model = self.model
        metrics = {
            name: float(value)
            for name, value in model.logger.name_to_value.items()
            if name.startswith("train/")
        }
        metrics["time/total_timesteps"] = float(model.num_timesteps)
        episodes = [info for info in model.ep_info_buffer if info]
        if episodes:
            metrics["rollout/ep_rew_mean"] = float(np.mean([info["r"] for info in episodes]))
            metrics["rollout/ep_len_mean"] = float(np.mean([info["l"] for info in episodes]))
        metrics |= {f"time/{name}": spent for name, spent in seconds.items()}
        self.history.append(metrics)
        if self._on_step is not None:
            self._on_step(metrics, rollout)
        self._after_step(metrics, rollout)


class _Stopped(Exception):
    """Raised when a callback asks to stop in the middle of a rollout."""


class _RecordingPolicy(SB3Policy):
    """The agent while it collects: it renews its noise in time, and keeps what callbacks read."""

    def __init__(self, model: Any):
        super().__init__(model)
        self.answer: dict[str, Any] = {}
        """The last forward pass, under the names that collect_rollouts uses."""
        self.states: list[Any] = []
        """RecurrentPPO: the memory before each step of the rollout, and after the last one."""
        self._steps = 0

    def start_rollout(self) -> None:
        """Prepare for a rollout, as collect_rollouts does."""
        model = self.model
        model.policy.set_training_mode(False)
        if model.use_sde:
            model.policy.reset_noise(model.n_envs)
        self._steps = 0
        if self.recurrent:
            self._lstm_states = model._last_lstm_states
            self.states = [self._lstm_states]

    def _forward(
        self, tensor: Any, deterministic: bool, episode_start: Any, masks: np.ndarray | None
    ) -> tuple[Any, Any, Any]:
        model = self.model
        if model.use_sde and model.sde_sample_freq > 0 and self._steps % model.sde_sample_freq == 0:
            model.policy.reset_noise(model.n_envs)
        self._steps += 1
        # If training continues, the runner's first episodes are not at their start.
        starts = model._last_episode_starts
        actions, values, logprobs = super()._forward(tensor, deterministic, starts, masks)
        self.answer = {"obs_tensor": tensor, "values": values, "log_probs": logprobs}
        self.answer |= {"actions": actions.cpu().numpy(), "action_masks": masks}
        if self.recurrent:
            self.states.append(self._lstm_states)
        return actions, values, logprobs


class _ModelVecEnv(SB3VectorEnv):
    """The model's VecEnv; after each step it does what ``learn()`` does after a step."""

    def __init__(self, model: Any, policy: _RecordingPolicy, callback: Any):
        super().__init__(model.env)
        if policy.masked and not self._has_masks:
            raise ConfigError(
                "MaskablePPO needs an environment with action_masks(); "
                "textenv.wrappers.ActionMask has it"
            )
        self._model = model
        self._policy = policy
        self._callback = callback
        self._scope: dict[str, Any] = {}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin at the observations that the model saw last."""
        return self._model._last_obs, self.start_infos()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, count the transitions, and ask the callback whether to continue."""
        model, scope = self._model, self._scope
        observations, rewards, dones, infos = self.venv.step(actions)
        model.num_timesteps += self.num_envs
        scope |= self._policy.answer
        scope |= {"clipped_actions": actions, "new_obs": observations, "rewards": rewards}
        scope |= {"dones": dones, "infos": infos}
        self._callback.update_locals(scope)
        if not self._callback.on_step():
            raise _Stopped
        model._update_info_buffer(infos, dones)
        scope["n_steps"] += 1
        model._last_obs, model._last_episode_starts = observations, dones
        return observations, rewards, *self.split(dones, infos)

    def collect(self, runner: RolloutRunner) -> Rollout:
        """Collect a rollout, and fill the model's buffer with it.

        Raises:
            _Stopped: if the callback asks to stop.
        """
        model = self._model
        self._scope = {"self": model, "env": model.env, "callback": self._callback, "n_steps": 0}
        self._scope |= {"rollout_buffer": model.rollout_buffer, "n_rollout_steps": model.n_steps}
        starts = model._last_episode_starts
        model.rollout_buffer.reset()
        self._policy.start_rollout()
        self._callback.on_rollout_start()
        rollout = runner.collect()
        self._fill(rollout, starts)
        self._callback.update_locals(self._scope)
        self._callback.on_rollout_end()
        return rollout

    def _fill(self, rollout: Buffer, starts: np.ndarray) -> None:
        """Put a rollout into the model's rollout buffer, and compute its advantages."""
        import torch
        from stable_baselines3.common.utils import obs_as_tensor

        model, states = self._model, self._policy.states
        columns = [
            _Column([t for t in rollout if t.env_index == i], bool(starts[i]))
            for i in range(self.num_envs)
        ]
        rewards = self._bootstrapped(columns)  # (n_steps, n_envs)
        for step in range(model.n_steps):
            rows = [column.rows[step] for column in columns]
            actions = np.stack([row["action"] for row in rows])
            if isinstance(model.action_space, Discrete):
                actions = actions.reshape(-1, 1)
            more: dict[str, Any] = {}
            if self._policy.masked:
                more["action_masks"] = np.stack([row["info"]["action_mask"] for row in rows])
            if self._policy.recurrent:
                more["lstm_states"] = states[step]
            model.rollout_buffer.add(
                _stack([row["observation"] for row in rows]),
                actions,
                rewards[step],
                np.array([row["starts"] for row in rows]),
                torch.tensor([row["value"] for row in rows]),
                torch.tensor([row["logprob"] for row in rows]),
                **more,
            )
        dones = model._last_episode_starts
        with torch.no_grad():
            memory: tuple[Any, ...] = ()
            if self._policy.recurrent:
                model._last_lstm_states = states[-1]
                memory = states[-1].vf, torch.tensor(dones, dtype=torch.float32).to(model.device)
            last = obs_as_tensor(model._last_obs, model.device)
            values = model.policy.predict_values(last, *memory)
        self._scope["values"] = values
        model.rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)

    def _bootstrapped(self, columns: list[_Column]) -> np.ndarray:
        """The rewards (n_steps, n_envs), plus the value of what a time limit cut off."""
        import torch

        model = self._model
        rewards = np.array([column.rewards for column in columns]).T
        rewards = rewards.astype(self._scope["rewards"].dtype)
        for i, column in enumerate(columns):
            for step, trajectory in column.truncations:
                value = trajectory.last_value
                if self._policy.recurrent:
                    value = self._value_with_memory(trajectory, self._policy.states[step + 1], i)
                rewards[step, i] += model.gamma * torch.tensor([value])
        return rewards

    def _value_with_memory(self, trajectory: Trajectory, states: Any, i: int) -> float:
        import torch

        policy = self._model.policy
        tensor, _ = policy.obs_to_tensor(trajectory.final_observation)
        memory = tuple(part[:, i : i + 1, :].contiguous() for part in states.vf)
        starts = torch.zeros(1, device=policy.device)
        with torch.no_grad():
            return float(policy.predict_values(tensor, memory, starts))


class _Column:
    """One environment's share of a rollout: its trajectories, one after another."""

    def __init__(self, trajectories: list[Trajectory], starts: bool):
        self.rows: list[dict[str, Any]] = []
        self.rewards: list[float] = []
        self.truncations: list[tuple[int, Trajectory]] = []
        for trajectory in trajectories:
            actions = trajectory.unclipped_actions or trajectory.actions
            infos = [trajectory.reset_info, *trajectory.infos]
            for t, observation in enumerate(trajectory.observations):
                self.rows.append(
                    {
                        "observation": observation,
                        "action": actions[t],
                        "value": trajectory.values[t],  # type: ignore[index]
                        "logprob": trajectory.logprobs[t],  # type: ignore[index]
                        "info": infos[t],
                        "starts": starts and t == 0,
                    }
                )
            self.rewards += trajectory.rewards
            starts = trajectory.terminated or trajectory.truncated
            if trajectory.truncated:
                self.truncations.append((len(self.rows) - 1, trajectory))


def _stack(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([o[key] for o in observations]) for key in observations[0]}
    return np.stack(observations)
