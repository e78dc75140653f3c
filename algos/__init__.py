"""Policies, rollouts, trainers, the command line.

The names are imported when they are first used: most of them need MLX, and the parts that do
not (the rollout loop, the command line's help) work without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textenv.algos import grpo as grpo
    from textenv.algos import gspo as gspo
    from textenv.algos import ppo as ppo
    from textenv.algos.coordinator import RolloutCoordinator as RolloutCoordinator
    from textenv.algos.grpo import GRPOTrainer as GRPOTrainer
    from textenv.algos.grpo_config import GRPOConfig as GRPOConfig
    from textenv.algos.mlp_policy import MLPPolicy as MLPPolicy
    from textenv.algos.mlp_policy import load_policy as load_policy
    from textenv.algos.models import load_model as load_model
    from textenv.algos.offline import OfflineConfig as OfflineConfig
    from textenv.algos.offline import OfflineTrainer as OfflineTrainer
    from textenv.algos.offline_text import OfflineTextConfig as OfflineTextConfig
    from textenv.algos.offline_text import OfflineTextTrainer as OfflineTextTrainer
    from textenv.algos.onnx_export import export_onnx as export_onnx
    from textenv.algos.policy import create_policy as create_policy
    from textenv.algos.ppo import PPOConfig as PPOConfig
    from textenv.algos.ppo import PPOTrainer as PPOTrainer
    from textenv.algos.rollout import RolloutRunner as RolloutRunner
    from textenv.algos.rollout_files import load_rollout as load_rollout
    from textenv.algos.rollout_files import load_rollouts as load_rollouts
    from textenv.algos.sb3_trainer import SB3Trainer as SB3Trainer
    from textenv.algos.strategy import create_strategy as create_strategy
    from textenv.algos.trainer import Trainer as Trainer
    from textenv.algos.trajectory import Buffer as Buffer
    from textenv.algos.trajectory import Trajectory as Trajectory
    from textenv.algos.trajectory import Transition as Transition

_HOMES = {
    "Buffer": "trajectory",
    "GRPOConfig": "grpo_config",
    "GRPOTrainer": "grpo",
    "MLPPolicy": "mlp_policy",
    "OfflineConfig": "offline",
    "OfflineTextConfig": "offline_text",
    "OfflineTextTrainer": "offline_text",
    "OfflineTrainer": "offline",
    "PPOConfig": "ppo",
    "PPOTrainer": "ppo",
    "RolloutCoordinator": "coordinator",
    "RolloutRunner": "rollout",
    "SB3Trainer": "sb3_trainer",
    "Trainer": "trainer",
    "Trajectory": "trajectory",
    "Transition": "trajectory",
    "create_policy": "policy",
    "create_strategy": "strategy",
    "export_onnx": "onnx_export",
    "load_model": "models",
    "load_policy": "mlp_policy",
    "load_rollout": "rollout_files",
    "load_rollouts": "rollout_files",
}
_MODULES = ("grpo", "gspo", "ppo")

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"textenv.algos.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"textenv.algos.{name}")
    raise AttributeError(f"module 'textenv.algos' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
