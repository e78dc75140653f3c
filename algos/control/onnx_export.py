"""Writes control policies as ONNX files, for programs that have neither Python nor this package.

The graph takes raw observations, and normalises them itself. Its input ``observation`` is
(batch, D) float32. A Dict observation is laid out flat, its keys in alphabetical order, each
entry in C order. The outputs are:

- ``action``, the deterministic action for the environment. Discrete: (batch,) int64, the most
  probable one. MultiDiscrete: (batch, ...) int64, the most probable of each choice. Box:
  (batch, ...) float32, the mean clipped to the bounds.
- ``logits`` (batch, P) for Discrete and MultiDiscrete, those of all choices side by side; ``mean``
  (batch, K) for Box, not clipped. With these the reader can draw actions with its own noise.
- ``value`` (batch,), the critic's value in units of the rewards.
- ``log_std`` (K,) for Box.

The file's metadata hold, as JSON, ``observation_space``, ``action_space`` and
``observation_layout``, a list of {"key", "start", "size", "shape"}; the key is null for a Box.

Shapes: D features, P outputs of the actor, K components of an action.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from textenv.algos.control.distributions import Categorical
from textenv.algos.control.mlp_policy import NORMALIZED_BOUND, MLPPolicy
from textenv.algos.storage.replacing import write_whole
from textenv.algos.storage.space_json import describe_space
from textenv.errors import ConfigError, ConfigTypeError, MissingDependencyError

_OPSET, _IR_VERSION = 17, 8  # of 2022, which the readers of game engines know


def export_onnx(policy: MLPPolicy, path: str | Path) -> Path:
    """Write a control policy as an ONNX file.

    The file appears complete or not at all; an earlier one is replaced.

    Args:
        policy: the policy, from `PPOTrainer`, `OfflineTrainer` or `load_policy`.
        path: the file to write.

    Returns:
        The file that was written.

    Raises:
        ConfigTypeError: if this is not an `MLPPolicy`.
        ConfigError: if the path is a folder.
        MissingDependencyError: if ``onnx`` is not installed.
    """
    if not isinstance(policy, MLPPolicy):
        raise ConfigTypeError(
            f"export_onnx takes a control policy (MLPPolicy), got {type(policy).__name__}"
        )
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("onnx", "export", "Exporting to ONNX") from error
    model = _Graph(policy).model()
    onnx.checker.check_model(model, full_check=True)
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"export_onnx writes a file, and {path} is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda staged: onnx.save_model(model, str(staged)))
    return path


def observation_layout(space: spaces.Space) -> list[dict[str, Any]]:
    """The key, start, size and shape of each part of an observation in the flat input."""
    parts: list[tuple[str | None, Any]] = [(None, space)]
    if isinstance(space, spaces.Dict):
        parts = [(key, space[key]) for key in sorted(space)]
    layout, start = [], 0
    for key, part in parts:
        size = int(np.prod(part.shape))
        layout.append({"key": key, "start": start, "size": size, "shape": list(part.shape)})
        start += size
    return layout


class _Graph:
    """Builds the graph of a policy out of nodes, constants and outputs."""

    def __init__(self, policy: MLPPolicy):
        from onnx import TensorProto, helper, numpy_helper

        self._policy = policy
        self._helper, self._to_tensor = helper, numpy_helper.from_array
        self._kinds = {"f": TensorProto.FLOAT, "i": TensorProto.INT64}
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._outputs: list[Any] = []

    def model(self) -> Any:
        """Build the complete model."""
        policy, distribution = self._policy, self._policy.distribution
        x = self._normalized("observation")
        outputs = self._network(x, 0, "actor")
        value = self._network(x, 1, "critic")
        value = self._node("Mul", value, self._constant(np.float32(policy.reward_scale)))
        shape = self._constant(np.array([-1]))
        if isinstance(distribution, Categorical):
            self._action_of_choices(outputs)
            self._output("logits", outputs, "f", ["batch", distribution.outputs])
        else:
            self._action_of_box(outputs)
            self._output("mean", outputs, "f", ["batch", distribution.outputs])
        self._output("value", self._node("Reshape", value, shape), "f", ["batch"])
        if "log_std" in policy.weights:
            log_std = self._constant(policy.weights["log_std"])
            self._output("log_std", log_std, "f", [distribution.outputs])
        make = self._helper
        size = policy.encoder.size
        given = make.make_tensor_value_info("observation", self._kinds["f"], ["batch", size])
        graph = make.make_graph(self._nodes, "policy", [given], self._outputs, self._constants)
        model = make.make_model(
            graph,
            opset_imports=[make.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="textenv",
        )
        spaces_ = {
            "observation_space": describe_space(policy.encoder.space),
            "action_space": describe_space(distribution.space),
            "observation_layout": observation_layout(policy.encoder.space),
        }
        make.set_model_props(model, {name: json.dumps(value) for name, value in spaces_.items()})
        return model

    def _normalized(self, x: str) -> str:
        policy = self._policy
        if policy.stats is None:
            return x
        mean, inverse_std = policy.normalization
        x = self._node("Sub", x, self._constant(mean))
        x = self._node("Mul", x, self._constant(inverse_std))
        bound = np.float32(NORMALIZED_BOUND)
        return self._node("Clip", x, self._constant(-bound), self._constant(bound))

    def _network(self, x: str, which: int, name: str) -> str:
        """Add the layers of the actor (0) or the critic (1); returns the name of the outputs."""
        policy = self._policy
        w = policy.weights
        for layer in range(len(policy.hidden)):
            x = self._linear(
                x, w[f"hidden.{layer}.weight"][which], w[f"hidden.{layer}.bias"][which]
            )
            x = self._node({"tanh": "Tanh", "relu": "Relu"}[policy.activation], x)
        return self._linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def _linear(self, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        return self._node("Gemm", x, self._constant(weight), self._constant(bias.reshape(-1)))

    def _action_of_choices(self, logits: str) -> None:
        space: Any = self._policy.distribution.space
        single = isinstance(space, spaces.Discrete)
        counts = [int(space.n)] if single else [int(n) for n in space.nvec.reshape(-1)]
        parts = [logits]
        if len(counts) > 1:
            parts = self._nodes_out(
                "Split", len(counts), logits, self._constant(np.array(counts)), axis=1
            )
        chosen = [self._node("ArgMax", part, axis=1, keepdims=1) for part in parts]
        drawn = chosen[0] if len(chosen) == 1 else self._node("Concat", *chosen, axis=1)
        start = np.asarray(space.start, np.int64).reshape(-1)
        action = self._node("Add", drawn, self._constant(start))
        shape = [] if single else list(space.shape)
        self._output("action", self._shaped(action, shape), "i", ["batch", *shape])

    def _action_of_box(self, mean: str) -> None:
        space: Any = self._policy.distribution.space
        low, high = (np.asarray(b, np.float32).reshape(-1) for b in (space.low, space.high))
        inside = self._node("Min", mean, self._constant(high))
        inside = self._node("Max", inside, self._constant(low))
        shape = list(space.shape)
        self._output("action", self._shaped(inside, shape), "f", ["batch", *shape])

    def _shaped(self, x: str, shape: list[int]) -> str:
        return self._node("Reshape", x, self._constant(np.array([-1, *shape])))

    def _constant(self, value: Any) -> str:
        value = np.asarray(value)
        value = value.astype(np.float32 if value.dtype.kind == "f" else np.int64)
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._to_tensor(np.ascontiguousarray(value), name))
        return name

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self._nodes_out(kind, 1, *inputs, **attributes)[0]

    def _nodes_out(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        names = [f"{kind.lower()}_{len(self._nodes)}_{i}" for i in range(count)]
        self._nodes.append(self._helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def _output(self, name: str, source: str, kind: str, shape: list[Any]) -> None:
        self._nodes.append(self._helper.make_node("Identity", [source], [name]))
        self._outputs.append(self._helper.make_tensor_value_info(name, self._kinds[kind], shape))
