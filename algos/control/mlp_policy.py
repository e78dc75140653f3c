"""The control policy: an actor and a critic, two small networks, computed in NumPy.

For a few observations NumPy is several times faster than any framework, so this policy collects
the rollouts; `textenv.algos.trainers.ppo_control` trains the same weights in MLX. To act it needs
no package but NumPy.

Shapes: B observations, D features, H units of a layer, P outputs of the actor, K components of an
action. Hidden layers hold both networks, the actor first: weights (2, D, H) and biases (2, 1, H).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from textenv.algos.control.distributions import make_distribution
from textenv.algos.control.observations import ObservationEncoder
from textenv.algos.control.running_stats import RunningStats
from textenv.algos.storage.checkpoints.state import State, load_rng, save_rng
from textenv.algos.storage.codec import FAULTS
from textenv.algos.storage.replacing import replacing
from textenv.algos.storage.space_json import describe_space, make_space
from textenv.errors import ConfigError, DataError, MissingFileError, StorageError, unknown
from textenv.wrappers.actions.action_mask import choice_counts, parse_mask, warn_without_masks

ACTIVATIONS = ("tanh", "relu")
_FORMAT = "textenv.mlp_policy"
_VERSION = 1
_FILES = ("config.json", "model.safetensors")
NORMALIZED_BOUND = 10.0
"""The absolute value that normalised observations are clipped to, as in SB3's VecNormalize."""
_EPSILON = 1e-8


class MLPPolicy:
    """Draws control actions from an actor, and values observations by a critic.

    Args:
        observation_space: that of a single environment: Box, or a flat Dict of Box.
        action_space: that of a single environment: Discrete, MultiDiscrete or Box.
        hidden: units of each hidden layer, the same for actor and critic.
        activation: ``"tanh"`` or ``"relu"``.
        normalize_observations: whether to keep running statistics of the observations, and to
            standardise by them.
        seed: seed of the initial weights and of the noise.

    Attributes:
        weights: arrays by name; `set_weights` replaces them.
        stats: running statistics of the observations; None if they are not normalised.
        normalization: mean (D,) and inverse deviation (D,) that observations are standardised
            by, if they are normalised.
        reward_scale: factor that turns the critic's output into units of the rewards.
        masked: whether it has seen action masks; it then warns if it is called without infos.

    Raises:
        ConfigError: if the networks cannot take a space; names a wrapper that helps.
    """

    batched = True
    """The policy takes a batch of observations as well as a single one."""

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        normalize_observations: bool = False,
        seed: int = 0,
    ):
        if activation not in ACTIVATIONS:
            raise ConfigError(unknown("activation", activation, ACTIVATIONS))
        if not hidden or any(units < 1 for units in hidden):
            raise ConfigError(f"hidden must name the units of one layer or more, got {hidden!r}")
        self.encoder = ObservationEncoder(observation_space)
        self.distribution = make_distribution(action_space)
        self.hidden, self.activation = tuple(hidden), activation
        self.stats = RunningStats(self.encoder.size) if normalize_observations else None
        self.reward_scale = 1.0
        self.masked = False
        self._rng = np.random.default_rng(seed)
        self._freeze_stats()
        self.set_weights(self._initial_weights())

    def __call__(
        self, observation: Any, deterministic: bool = False, infos: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """Choose an action for an observation, or for each of a batch.

        Args:
            observation: one of the space, or a batch as a vector environment gives it.
            deterministic: whether to take the most probable action, or the mean.
            infos: the info of the observation, or a list of them. An action that an
                ``action_mask`` in them rules out is never taken.

        Returns:
            The action, and extras: ``logprob``, ``value`` (in units of the rewards) and, for a
            Box, ``unclipped_action``, the action before it was clipped to the bounds.
        """
        single = self.encoder.is_single(observation)
        if infos is None and self.masked:
            warn_without_masks()
        outputs, values = self.forward(self.encoder(observation))
        mask = stack_masks([infos] if single else infos, len(outputs), self.distribution.space)
        self.masked = self.masked or mask is not None
        drawn, logprob = self.distribution.draw(
            outputs, self.weights.get("log_std"), self._rng, deterministic, mask
        )
        action = self.distribution.to_env(drawn)
        extras = {"logprob": logprob, "value": values * self.reward_scale}
        if self.distribution.learns_std:
            extras["unclipped_action"] = drawn.reshape(action.shape)
        if single:
            return action[0], {key: value[0] for key, value in extras.items()}
        return action, extras

    def values(self, observations: Sequence[Any]) -> np.ndarray:
        """The critic's values (B,) of a list of observations, in units of the rewards."""
        return self.forward(self.encoder.rows(observations))[1] * self.reward_scale

    def forward(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs of the actor (B, P) and of the critic (B,) for raw observations (B, D)."""
        x = self.normalize(rows)[None]  # (1, B, D)
        w = self.weights
        for layer in range(len(self.hidden)):
            x = x @ w[f"hidden.{layer}.weight"] + w[f"hidden.{layer}.bias"]  # (2, B, H)
            x = np.tanh(x) if self.activation == "tanh" else np.maximum(x, 0)
        outputs = x[0] @ w["actor.weight"] + w["actor.bias"]
        return outputs, (x[1] @ w["critic.weight"] + w["critic.bias"])[:, 0]

    def normalize(self, rows: np.ndarray) -> np.ndarray:
        """Standardise observations (B, D), if this policy does, as the networks take them."""
        if self.stats is None:
            return rows
        mean, inverse_std = self.normalization
        return np.clip((rows - mean) * inverse_std, -NORMALIZED_BOUND, NORMALIZED_BOUND)

    def update_stats(self, rows: np.ndarray) -> None:
        """Add raw observations (B, D) to the running statistics, if there are any."""
        if self.stats is not None:
            self.stats.update(rows)
            self._freeze_stats()

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Replace the weights by others of the same names and shapes."""
        # Contiguous, so that a policy read from a file rounds exactly as the one that was saved.
        self.weights = {
            name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()
        }

    def reseed(self, seed: int) -> None:
        """Draw the noise from another seed from now on."""
        self._rng = np.random.default_rng(seed)

    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the actions: weights, statistics, architecture."""
        digest = hashlib.sha256(json.dumps([self.hidden, self.activation]).encode())
        for name, value in sorted(self.tensors().items()):
            digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json``; `load_policy` reads them.

        Tensors are named and shaped as torch's layers are (``actor.hidden.0.weight``, (out, in)).
        The folder appears complete or not at all; an earlier policy in it is replaced.

        Raises:
            ConfigError: if the folder holds something else; it is left as it is.
            StorageError: if the weights cannot be written, as on a full disk.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        config = {
            "format": _FORMAT,
            "version": _VERSION,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "normalize_observations": self.stats is not None,
            "masked": self.masked,
            "observation_space": describe_space(self.encoder.space),
            "action_space": describe_space(self.distribution.space),
        }
        with replacing(folder, _FILES) as target:
            try:
                save_file(self.tensors(), target / "model.safetensors")
            except SafetensorError as error:  # of a full disk
                raise StorageError(f"{folder} cannot be written to: {error}") from error
            (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def _freeze_stats(self) -> None:
        if self.stats is not None:
            self.normalization = (
                self.stats.mean.astype(np.float32),
                (1 / np.sqrt(self.stats.var + _EPSILON)).astype(np.float32),
            )

    def _initial_weights(self) -> dict[str, np.ndarray]:
        """Orthogonal, with gain sqrt(2) in hidden layers, 0.01 in the actor, 1 in the critic."""
        weights: dict[str, np.ndarray] = {}
        size = self.encoder.size
        for layer, units in enumerate(self.hidden):
            both = [_orthogonal(self._rng, size, units, 2**0.5) for _ in range(2)]
            weights[f"hidden.{layer}.weight"] = np.stack(both)
            weights[f"hidden.{layer}.bias"] = np.zeros((2, 1, units))
            size = units
        for name, outputs, gain in (("actor", self.distribution.outputs, 0.01), ("critic", 1, 1.0)):
            weights[f"{name}.weight"] = _orthogonal(self._rng, size, outputs, gain)
            weights[f"{name}.bias"] = np.zeros(outputs)
        if self.distribution.learns_std:
            weights["log_std"] = np.zeros(self.distribution.outputs)
        return weights

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors of a saved policy: each network's layers, (out, in), and the statistics."""
        tensors = {}
        for i, network in enumerate(("actor", "critic")):
            for layer in range(len(self.hidden)):
                name = f"hidden.{layer}"
                tensors[f"{network}.{name}.weight"] = self.weights[f"{name}.weight"][i].T
                tensors[f"{network}.{name}.bias"] = self.weights[f"{name}.bias"][i, 0]
            tensors[f"{network}.output.weight"] = self.weights[f"{network}.weight"].T
            tensors[f"{network}.output.bias"] = self.weights[f"{network}.bias"]
        if "log_std" in self.weights:
            tensors["log_std"] = self.weights["log_std"]
        if self.stats is not None:
            tensors["observation.mean"], tensors["observation.var"] = (
                self.stats.mean,
                self.stats.var,
            )
            tensors["observation.count"] = np.array([self.stats.count])
        tensors["reward_scale"] = np.array([self.reward_scale])
        return {name: np.ascontiguousarray(value) for name, value in tensors.items()}

    def set_tensors(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take over the tensors of another policy, as its `tensors` gives them.

        Raises:
            KeyError: if a tensor is missing.
            ValueError: if a tensor has another shape.
        """
        weights = {}
        for layer in range(len(self.hidden)):
            name = f"hidden.{layer}"
            pair = [tensors[f"{network}.{name}.weight"].T for network in ("actor", "critic")]
            weights[f"{name}.weight"] = np.stack(pair)
            pair = [tensors[f"{network}.{name}.bias"][None] for network in ("actor", "critic")]
            weights[f"{name}.bias"] = np.stack(pair)
        for network in ("actor", "critic"):
            weights[f"{network}.weight"] = tensors[f"{network}.output.weight"].T
            weights[f"{network}.bias"] = tensors[f"{network}.output.bias"]
        if "log_std" in self.weights:
            weights["log_std"] = tensors["log_std"]
        for name, value in weights.items():
            if value.shape != self.weights[name].shape:
                raise ValueError(
                    f"{name} has shape {value.shape}, expected {self.weights[name].shape}"
                )
        self.set_weights(weights)
        if self.stats is not None:
            self.stats.mean = tensors["observation.mean"]
            self.stats.var = tensors["observation.var"]
            self.stats.count = int(tensors["observation.count"][0])
            self._freeze_stats()
        self.reward_scale = float(tensors["reward_scale"][0])

    def state(self) -> State:
        """Weights, statistics, and where the noise is."""
        return State(self.tensors(), {"noise": save_rng(self._rng), "masked": self.masked})

    def load_state(self, state: State) -> None:
        """Go on from what the `state` of a policy of the same networks gave.

        Raises:
            ConfigError: if it is of a policy of other networks.
        """
        try:
            self.set_tensors(state.arrays)
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"the state is of a policy of other networks ({error}): the spaces, hidden, "
                "activation and normalize_observations must be the same"
            ) from error
        load_rng(self._rng, state.value("noise"))
        self.masked = bool(state.value("masked"))


def load_policy(folder: str | Path, seed: int = 0) -> MLPPolicy:
    """Read a control policy that `MLPPolicy.save` or `PPOTrainer.save` wrote.

    Args:
        folder: the folder that it was saved to.
        seed: seed of the noise that it draws with.

    Raises:
        MissingFileError: if the folder, or a file in it, does not exist.
        DataError: if the folder holds no control policy; names the file and the fault.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    for name in _FILES:
        if not (folder / name).is_file():
            raise MissingFileError(f"{folder} holds no control policy: {name} is missing")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise DataError(f"{folder / 'config.json'} is not that of a control policy")
    if config.get("version") != _VERSION:
        raise DataError(
            f"{folder / 'config.json'} has version {config.get('version')!r}; this textenv reads "
            f"version {_VERSION}"
        )
    try:
        tensors = load_file(folder / "model.safetensors")
        observations = make_space(config["observation_space"])
        actions = make_space(config["action_space"])
        _check_sizes(tensors, observations, actions, config["hidden"])
        policy = MLPPolicy(
            observations,
            actions,
            config["hidden"],
            config["activation"],
            config["normalize_observations"],
            seed,
        )
        policy.set_tensors(tensors)
        policy.masked = bool(config.get("masked", False))
    except (*FAULTS, SafetensorError, OSError) as error:
        raise DataError(f"{folder} does not hold a control policy that loads: {error}") from error
    return policy


def _check_sizes(
    tensors: Mapping[str, np.ndarray], observations: Space, actions: Space, hidden: Any
) -> None:
    """Raises ValueError for sizes that are not those of the tensors, before networks are made."""
    outputs = make_distribution(actions).outputs
    widths = [ObservationEncoder(observations).size, *hidden, outputs]
    for layer, (into, out) in enumerate(itertools.pairwise(widths)):
        name = "output" if layer == len(hidden) else f"hidden.{layer}"
        shape = tensors[f"actor.{name}.weight"].shape
        if shape != (out, into):
            raise ValueError(f"actor.{name}.weight has shape {shape}, expected {(out, into)}")


def stack_masks(infos: Any, rows: int, space: Space) -> np.ndarray | None:
    """Stack the action masks of a list of infos to (B, P); None if no info has one."""
    given = [(row, info) for row, info in enumerate(infos or ()) if info and "action_mask" in info]
    if not given:
        return None
    masks = np.ones((rows, sum(choice_counts(space))), bool)
    for row, info in given:
        masks[row] = parse_mask(info["action_mask"], space)
    return masks


def _orthogonal(rng: np.random.Generator, rows: int, columns: int, gain: float) -> np.ndarray:
    """A random matrix with orthonormal rows or columns (Saxe et al. 2013), times a gain."""
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))
    return gain * (q if rows >= columns else q.T)
