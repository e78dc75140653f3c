"""`SB3VectorEnv`: makes a VecEnv of Stable-Baselines3 a Gymnasium vector environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from textenv.errors import ConfigError, ConfigTypeError, MissingDependencyError
from textenv.wrappers.copying import OwnLastStep


class SB3VectorEnv(VectorEnv):
    """A Gymnasium vector environment that plays a VecEnv with all of its own wrappers.

    Such wrappers are VecNormalize, VecMonitor and VecTransposeImage. When an episode ends, the
    next one starts in the same step (Gymnasium's ``SAME_STEP``), and the last observation and info
    of the ended one are in ``final_obs`` and ``final_info``. Infos are arrays of objects. They
    contain Monitor's ``episode``, and also ``action_mask`` if the environments have
    ``action_masks()``.

    Args:
        venv: a VecEnv, such as ``model.get_env()``.

    Raises:
        ConfigTypeError: if ``venv`` is not a VecEnv.
        MissingDependencyError: if Stable-Baselines3 is not installed.

    Example:
        ``RolloutRunner(SB3VectorEnv(model.get_env()), SB3Policy(model))``
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012  # as in Gymnasium

    def __init__(self, venv: Any):
        try:
            from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
        except ImportError as error:
            raise MissingDependencyError("stable-baselines3", "sb3", "SB3VectorEnv") from error
        if not isinstance(venv, VecEnv):
            raise ConfigTypeError(
                f"SB3VectorEnv takes a VecEnv of Stable-Baselines3, got {type(venv).__name__}"
            )
        self.venv = venv
        if isinstance(venv.unwrapped, DummyVecEnv):
            venv.unwrapped.envs = OwnLastStep.around(venv.unwrapped.envs)
        self.num_envs = venv.num_envs
        self.single_observation_space = venv.observation_space
        self.single_action_space = venv.action_space
        self.observation_space = batch_space(venv.observation_space, venv.num_envs)
        self.action_space = batch_space(venv.action_space, venv.num_envs)
        self.render_mode = venv.render_mode
        self.spec = venv.get_attr("spec")[0] if venv.has_attr("spec") else None
        self._has_masks = venv.has_attr("action_masks")

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every environment.

        Args:
            seed: seed of the first environment, from which the others count up, as in a VecEnv.
            options: passed to each environment.

        Raises:
            ConfigError: for a list of seeds, or a ``reset_mask``.
        """
        if seed is not None and not isinstance(seed, (int, np.integer)):
            raise ConfigError(f"a VecEnv takes one seed and counts up from it, got {seed!r:.80}")
        if options and "reset_mask" in options:
            raise ConfigError("a VecEnv starts new episodes by itself and takes no reset_mask")
        if seed is not None:
            self.venv.seed(int(seed))
        if options:
            self.venv.set_options(options)
        observations = self.venv.reset()
        return observations, self.start_infos()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments."""
        observations, rewards, dones, infos = self.venv.step(actions)
        return observations, rewards, *self.split(dones, infos)

    def start_infos(self) -> dict[str, Any]:
        """The info when an episode has just started in every environment."""
        return self._masked(_columns(self.venv.unwrapped.reset_infos))

    def split(
        self, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Gymnasium's terminated, truncated and info, from the results of a VecEnv's step."""
        truncated = np.array(
            [bool(d) and bool(x.get("TimeLimit.truncated")) for d, x in zip(dones, infos)]
        )
        terminated = np.asarray(dones, bool) & ~truncated
        if not np.any(dones):
            return terminated, truncated, self._masked(_columns(infos))
        begun = self.venv.unwrapped.reset_infos
        columns = _columns([begun[i] if dones[i] else info for i, info in enumerate(infos)])
        final_obs = np.full(self.num_envs, None, dtype=object)
        final_infos: list[dict[str, Any]] = [{} for _ in infos]
        for i in np.flatnonzero(dones):
            final_infos[i] = dict(infos[i])
            final_obs[i] = final_infos[i].pop("terminal_observation")
        columns |= {"final_obs": final_obs, "final_info": _columns(final_infos)}
        columns |= {"_final_obs": np.asarray(dones, bool), "_final_info": np.asarray(dones, bool)}
        return terminated, truncated, self._masked(columns)

    def render(self) -> Any:
        """Render the VecEnv."""
        return self.venv.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments."""
        self.venv.close()

    def __del__(self) -> None:
        """Leave the VecEnv open, because it belongs to its maker, which is usually a model."""

    def _masked(self, columns: dict[str, Any]) -> dict[str, Any]:
        if self._has_masks:
            columns["action_mask"] = np.stack(self.venv.env_method("action_masks"))
            columns["_action_mask"] = np.ones(self.num_envs, bool)
        return columns


def _columns(infos: Any) -> dict[str, Any]:
    """One dict of arrays from a dict per environment; ``_key`` says which of them have ``key``."""
    columns: dict[str, Any] = {}
    for i, info in enumerate(infos):
        for key, value in info.items():
            if key not in columns:
                columns[key] = np.full(len(infos), None, dtype=object)
                columns[f"_{key}"] = np.zeros(len(infos), bool)
            columns[key][i] = value
            columns[f"_{key}"][i] = True
    return columns
