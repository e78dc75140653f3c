"""Makes Stable-Baselines3 agents policies of this package, and its policies agents for SB3.

`SB3Policy` plays an agent in the rollout loop, `as_sb3_policy` lets Stable-Baselines3 evaluate a
policy, and `load_sb3` loads a saved agent. Stable-Baselines3 and torch are imported only when they
are used; the extra ``sb3`` installs them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from textenv.errors import (
    ConfigError,
    ConfigTypeError,
    DataError,
    MissingDependencyError,
    MissingFileError,
    unknown,
)
from textenv.wrappers.actions.action_mask import parse_mask, warn_without_masks
from textenv.wrappers.actions.count_from_zero import from_zero

# algorithm -> the package that contains it
_PACKAGES = dict.fromkeys(("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3"), "stable_baselines3")
_PACKAGES |= dict.fromkeys(("MaskablePPO", "QRDQN", "RecurrentPPO", "TQC", "TRPO"), "sb3_contrib")
# What zipfile and json raise for files of another content, which may be packed, locked or too deep.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, OSError, RuntimeError)
_LARGEST_DATA = 2**26  # bytes of settings, once they are unpacked
# module of a saved agent's policy class -> its algorithm, if only one algorithm uses the module
_BY_POLICY = {
    "stable_baselines3.dqn.policies": "DQN",
    "stable_baselines3.sac.policies": "SAC",
    "sb3_contrib.common.maskable.policies": "MaskablePPO",
    "sb3_contrib.common.recurrent.policies": "RecurrentPPO",
    "sb3_contrib.qrdqn.policies": "QRDQN",
    "sb3_contrib.tqc.policies": "TQC",
}


class SB3Policy:
    """Lets an agent of Stable-Baselines3 or sb3-contrib act as a policy in the rollout loop.

    Actions are those of the agent's own ``predict``. Like these, they are drawn from torch's
    global generator (``model.set_random_seed``). The extras are:

    * ``value``: for agents with a state-value critic (PPO, A2C, TRPO, MaskablePPO, RecurrentPPO).
    * ``logprob``: for these agents, and for SAC and TQC.
    * ``unclipped_action``: if the action space is a Box, the action that was drawn, to which
      ``logprob`` belongs. The action itself is this one clipped to the space or, if the agent
      squashes (SAC, ``squash_output`` with gSDE), rescaled to the space from [-1, 1].

    DQN, QR-DQN, TD3 and DDPG have none of the three. An agent that was trained with
    ``VecNormalize`` gets raw observations here: play it in
    ``textenv.wrappers.sb3_vec_env.SB3VectorEnv(model.get_env())``.

    Args:
        model: a Stable-Baselines3 algorithm, trained or not.

    Attributes:
        values: ``values(observations) -> floats``, for agents whose critic needs only the
            observation; None for other agents.
        recurrent: whether the agent has a memory. This object holds it, so use one policy for
            each runner.
        masked: whether the agent uses action masks.

    Raises:
        ConfigTypeError: if ``model`` is not an algorithm of Stable-Baselines3.
        ConfigError: if choices in its spaces do not count from 0, which Stable-Baselines3 ignores.
        MissingDependencyError: if Stable-Baselines3 is not installed.
    """

    batched = True
    """It takes a batch of observations as well as a single one."""

    def __init__(self, model: Any):
        try:
            from stable_baselines3.common.base_class import BaseAlgorithm
        except ImportError as error:
            raise MissingDependencyError("stable-baselines3", "sb3", "SB3Policy") from error
        if not isinstance(model, BaseAlgorithm):
            raise ConfigTypeError(
                f"SB3Policy drives a Stable-Baselines3 algorithm such as PPO, got "
                f"{type(model).__name__}"
            )
        for space in (model.action_space, model.observation_space):
            if from_zero(space) is not space:
                raise ConfigError(
                    f"Stable-Baselines3 counts choices from 0, and the agent's environment has "
                    f"{space}: train and play the agent in "
                    "textenv.wrappers.CountFromZero(env)"
                )
        self.model: Any = model
        takes = inspect.signature(model.policy.forward).parameters
        self.recurrent = "lstm_states" in takes
        self.masked = "action_masks" in takes
        self._critic = hasattr(model.policy, "predict_values")
        self._stochastic_actor = hasattr(getattr(model.policy, "actor", None), "action_log_prob")
        self._lstm_states: Any = None
        self.values: Callable[[Sequence[Any]], list[float]] | None = None
        if self._critic and not self.recurrent:
            self.values = self._values

    def __call__(
        self,
        observation: Any,
        deterministic: bool = False,
        episode_start: Any = None,
        infos: Any = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Act on an observation, or on each of a batch.

        Args:
            observation: an observation of the model's space, or a batch as a vector environment
                gives it.
            deterministic: as in ``predict``.
            episode_start: whether each observation is the first of its episode, at which the
                memory of RecurrentPPO is cleared. None means that each of them is.
            infos: the info of the observation, or a list of infos for a batch. MaskablePPO reads
                their ``action_mask``. Without infos it masks nothing, as its ``predict`` does,
                and warns.

        Raises:
            DataError: if MaskablePPO is given infos without ``action_mask``.
        """
        import torch

        if infos is None and self.masked:
            warn_without_masks()
        model, policy = self.model, self.model.policy
        if not (self._critic or self._stochastic_actor):
            action, _ = model.predict(observation, deterministic=deterministic)
            return action[()], {}
        policy.set_training_mode(False)
        tensor, is_batch = policy.obs_to_tensor(observation)
        masks = self._masks(infos, is_batch)
        with torch.no_grad():
            if self._critic:
                drawn, values, logprobs = self._forward(tensor, deterministic, episode_start, masks)
                extras = {"value": values.cpu().numpy().reshape(-1)}
            else:
                drawn, logprobs = self._draw_by_actor(tensor, deterministic)
                extras = {}
        extras["logprob"] = logprobs.cpu().numpy()  # (B,)
        action = drawn = drawn.cpu().numpy().reshape(-1, *model.action_space.shape)
        if isinstance(model.action_space, Box):
            extras["unclipped_action"] = drawn
            if policy.squash_output:
                action = policy.unscale_action(drawn)
            else:
                action = np.clip(drawn, model.action_space.low, model.action_space.high)
        if is_batch:
            return action, extras
        return action[0], {key: rows[0] for key, rows in extras.items()}

    def _forward(
        self, tensor: Any, deterministic: bool, episode_start: Any, masks: np.ndarray | None
    ) -> tuple[Any, Any, Any]:
        """Actions, values and log-probabilities of an agent with a state-value critic."""
        policy = self.model.policy
        if self.masked:
            return policy(tensor, deterministic=deterministic, action_masks=masks)
        if not self.recurrent:
            return policy(tensor, deterministic=deterministic)
        return self._forward_recurrent(tensor, deterministic, episode_start)

    def _forward_recurrent(
        self, tensor: Any, deterministic: bool, episode_start: Any
    ) -> tuple[Any, Any, Any]:
        import torch
        from sb3_contrib.common.recurrent.type_aliases import RNNStates

        policy = self.model.policy
        count = len(next(iter(tensor.values())) if isinstance(tensor, dict) else tensor)
        layers, _, hidden = policy.lstm_hidden_state_shape
        states = self._lstm_states
        if states is None or states.pi[0].shape[1] != count:
            zeros = torch.zeros(layers, count, hidden, device=policy.device)
            states = RNNStates((zeros, zeros), (zeros, zeros))
        flags = np.ones(count) if episode_start is None else np.reshape(episode_start, -1)
        starts = torch.tensor(flags, dtype=torch.float32, device=policy.device)
        actions, values, logprobs, self._lstm_states = policy(
            tensor, states, starts, deterministic=deterministic
        )
        return actions, values, logprobs

    def _draw_by_actor(self, tensor: Any, deterministic: bool) -> tuple[Any, Any]:
        """Actions in [-1, 1] and their log-probabilities, for SAC and TQC."""
        actor = self.model.policy.actor
        if not deterministic:
            return actor.action_log_prob(tensor)
        actions = actor(tensor, deterministic=True)
        return actions, actor.action_dist.log_prob(actions)

    def _masks(self, infos: Any, is_batch: bool) -> np.ndarray | None:
        """The mask of valid actions, of shape (B, actions); None if nothing is masked."""
        if not self.masked or infos is None:
            return None
        for info in infos if is_batch else [infos]:
            if "action_mask" not in info:
                raise DataError(
                    "MaskablePPO needs info['action_mask'] of every reset and step; this info has "
                    f"{', '.join(map(repr, info)) or 'no keys'}"
                )
        space = self.model.action_space
        return np.stack(
            [parse_mask(info["action_mask"], space) for info in (infos if is_batch else [infos])]
        )

    def _values(self, observations: Sequence[Any]) -> list[float]:
        """The critic's values of a list of observations.

        They are computed one by one, as Stable-Baselines3 does for the last observation of a
        truncated episode. The last bits of a matrix product depend on the size of the batch.
        """
        import torch

        policy = self.model.policy
        policy.set_training_mode(False)
        with torch.no_grad():
            return [
                float(policy.predict_values(policy.obs_to_tensor(observation)[0]))
                for observation in observations
            ]


class _PredictingPolicy:
    """A policy with a ``predict`` method; made by `as_sb3_policy`."""

    def __init__(self, policy: Callable[..., Any]):
        self.policy = policy
        self._batched = getattr(policy, "batched", False)
        parameters = inspect.signature(policy).parameters
        self._asks = {"episode_start", "infos"} & {*parameters}

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, Any]:
        """Act on a batch of observations, as a VecEnv gives it.

        Args:
            observation: the batch, which is an array or a dict of arrays.
            state: returned unchanged; a policy with a memory keeps it itself.
            episode_start: whether each observation is the first of its episode.
            deterministic: passed on to the policy.
            action_masks: a mask for each observation, as sb3-contrib's ``get_action_masks`` gives
                them. The policy finds each in the info of its observation.

        Returns:
            The actions, and ``state``.

        Raises:
            ConfigTypeError: if the policy returns text.
        """
        infos = None
        if action_masks is not None:
            infos = [{"action_mask": mask} for mask in np.atleast_2d(action_masks)]
        if self._batched:
            actions = self._act(observation, deterministic, episode_start, infos)
            return np.asarray(actions), state
        if isinstance(observation, dict):
            rows: list[Any] = [
                dict(zip(observation, parts)) for parts in zip(*observation.values())
            ]
        else:
            rows = list(observation)
        none = [None] * len(rows)
        columns = zip(rows, none if episode_start is None else episode_start, infos or none)
        actions = [self._act(row, deterministic, start, info) for row, start, info in columns]
        return np.stack(actions), state

    def _act(self, observation: Any, deterministic: bool, episode_start: Any, infos: Any) -> Any:
        known = {"episode_start": episode_start, "infos": infos}
        given = {name: value for name, value in known.items() if name in self._asks}
        answer = self.policy(observation, deterministic=deterministic, **given)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ConfigTypeError(f"a policy must return (action, extras), got {answer!r:.80}")
        action = answer[0]
        if isinstance(action, str) or (
            isinstance(action, (list, tuple)) and str in map(type, action)
        ):
            raise ConfigTypeError(
                f"the policy returned text ({action!r:.60}): Stable-Baselines3's vector "
                "environments refuse Text spaces, so it cannot evaluate a text policy; "
                "use textenv.algos.RolloutRunner instead"
            )
        return action


def as_sb3_policy(policy: Callable[..., Any]) -> Any:
    """Give a policy the ``predict`` method that Stable-Baselines3's ``evaluate_policy`` needs.

    Args:
        policy: ``policy(observation, deterministic=False) -> (action, extras)``. It gets a whole
            batch if ``policy.batched`` is true, else one observation after another.

    Returns:
        An object with ``predict(observation, state=None, episode_start=None,
        deterministic=False, action_masks=None) -> (actions, state)``, for any VecEnv and for
        ``evaluate_policy``, also that of ``sb3_contrib.common.maskable.evaluation``, which gives
        the masks. A policy that returns text cannot be used: Stable-Baselines3's vector
        environments refuse Text spaces.

    Raises:
        ConfigTypeError: if the policy is not callable.

    Example:
        >>> always_left = lambda observation, deterministic=False: (0, {})
        >>> as_sb3_policy(always_left).predict(np.zeros((3, 4)))[0]
        array([0, 0, 0])
    """
    if not callable(policy):
        raise ConfigTypeError(f"policy must be callable, got {type(policy).__name__}")
    return _PredictingPolicy(policy)


def load_sb3(
    path: str | Path, trust: bool = False, algorithm: str | type | None = None, device: str = "auto"
) -> Any:
    """Load an agent that Stable-Baselines3 or sb3-contrib has saved.

    Args:
        path: the zip file; ``.zip`` may be left out, as in their own ``load``.
        trust: must be true, because the file contains pickled objects, and loading it runs their
            code.
        algorithm: its name, such as ``"PPO"``, or its class. None infers it from the file.
        device: the torch device of the model.

    Returns:
        The model without an environment; ``model.set_env(env)`` sets one.

    Raises:
        ConfigError: if ``trust`` is not true, or the algorithm must be named.
        MissingFileError: if there is no such file.
        DataError: if the file is not an agent, or not one of ``algorithm``.
        MissingDependencyError: if the package of the algorithm is not installed.
    """
    path = Path(path)
    if not path.exists() and path.with_name(path.name + ".zip").exists():
        path = path.with_name(path.name + ".zip")
    data = _read_data(path)
    if trust is not True:
        raise ConfigError(
            f"{path}: an agent of Stable-Baselines3 is saved with pickled objects, and loading it "
            "runs whatever code they hold; pass trust=True only for a file that you trust"
        )
    algorithm = algorithm or _algorithm_of(data)
    if algorithm is None:
        raise ConfigError(
            f"{path} does not say which algorithm saved it; pass algorithm=, its class or one of "
            f"{', '.join(sorted(_PACKAGES))}"
        )
    cls = _find_algorithm(algorithm) if isinstance(algorithm, str) else algorithm
    try:
        return cls.load(path, device=device)  # type: ignore[attr-defined]
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} cannot be loaded as {cls.__name__}: {type(error).__name__}: {error}"
        ) from error


def _read_data(path: Path) -> dict[str, Any]:
    """The settings in a saved agent, read as JSON: the pickled objects in it stay strings."""
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file; expected an agent saved by model.save()")
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo("data").file_size
            if size > _LARGEST_DATA:
                raise ValueError(f"its settings unpack to {size} bytes")
            broken = archive.testzip()
            data = None if broken else json.loads(archive.read("data"))
    except _BROKEN as error:
        raise DataError(f"{path} is not an agent saved by Stable-Baselines3: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"{path} is damaged: {broken or 'data'} cannot be read")
    return data


def _algorithm_of(data: dict[str, Any]) -> str | None:
    """The algorithm to which an agent's settings belong; None if they do not say."""
    policy_class = data.get("policy_class")
    module = policy_class.get("__module__") if isinstance(policy_class, dict) else None
    if module == "stable_baselines3.td3.policies":  # DDPG is TD3 without its three tricks
        plain = data.get("policy_delay") == 1 and data.get("target_noise_clip") == 0
        return "DDPG" if plain else "TD3"
    if module == "stable_baselines3.common.policies":
        marks = {"cg_max_steps": "TRPO", "clip_range": "PPO", "normalize_advantage": "A2C"}
        return next((name for mark, name in marks.items() if mark in data), None)
    return _BY_POLICY.get(str(module))


def _find_algorithm(name: str) -> type:
    if name not in _PACKAGES:
        raise ConfigError(unknown("algorithm", name, sorted(_PACKAGES)))
    package = _PACKAGES[name]
    try:
        return getattr(importlib.import_module(package), name)
    except ImportError as error:
        raise MissingDependencyError(package.replace("_", "-"), "sb3", name) from error
