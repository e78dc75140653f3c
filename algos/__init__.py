"""Trains policies on environments: algorithms, policies, rollouts, files, and the command line.

The names are imported when they are first used. Most of them need MLX; those that do not need it,
such as the rollout loop and the command line's help, work without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textenv.algos import grpo as grpo
    from textenv.algos import gspo as gspo
    from textenv.algos import ppo as ppo
    from textenv.algos.control.mlp_policy import MLPPolicy as MLPPolicy
    from textenv.algos.control.mlp_policy import load_policy as load_policy
    from textenv.algos.control.onnx_export import export_onnx as export_onnx
    from textenv.algos.episodes.trajectory import Buffer as Buffer
    from textenv.algos.episodes.trajectory import Trajectory as Trajectory
    from textenv.algos.episodes.trajectory import Transition as Transition
    from textenv.algos.grpo_config import GRPOConfig as GRPOConfig
    from textenv.algos.lm.generation.policy import create_policy as create_policy
    from textenv.algos.lm.models.loading import load_model as load_model
    from textenv.algos.offline.control import OfflineConfig as OfflineConfig
    from textenv.algos.offline.control import OfflineTrainer as OfflineTrainer
    from textenv.algos.offline.sft import SFTConfig as SFTConfig
    from textenv.algos.offline.sft import SFTTrainer as SFTTrainer
    from textenv.algos.offline.text import OfflineTextConfig as OfflineTextConfig
    from textenv.algos.offline.text import OfflineTextTrainer as OfflineTextTrainer
    from textenv.algos.ppo_config import PPOConfig as PPOConfig
    from textenv.algos.rollouts.coordinator import RolloutCoordinator as RolloutCoordinator
    from textenv.algos.rollouts.runner import RolloutRunner as RolloutRunner
    from textenv.algos.storage.files import load_rollout as load_rollout
    from textenv.algos.storage.files import load_rollouts as load_rollouts
    from textenv.algos.strategies.strategy import create_strategy as create_strategy
    from textenv.algos.trainers.callbacks import Callback as Callback
    from textenv.algos.trainers.callbacks import LogTo as LogTo
    from textenv.algos.trainers.grpo import GRPOTrainer as GRPOTrainer
    from textenv.algos.trainers.ppo import PPOTrainer as PPOTrainer
    from textenv.algos.trainers.sb3 import SB3Trainer as SB3Trainer
    from textenv.algos.training.trainer import Trainer as Trainer

_HOMES = {
    "Buffer": "episodes.trajectory",
    "Callback": "trainers.callbacks",
    "GRPOConfig": "grpo_config",
    "GRPOTrainer": "trainers.grpo",
    "LogTo": "trainers.callbacks",
    "MLPPolicy": "control.mlp_policy",
    "OfflineConfig": "offline.control",
    "OfflineTextConfig": "offline.text",
    "OfflineTextTrainer": "offline.text",
    "OfflineTrainer": "offline.control",
    "PPOConfig": "ppo_config",
    "PPOTrainer": "trainers.ppo",
    "RolloutCoordinator": "rollouts.coordinator",
    "RolloutRunner": "rollouts.runner",
    "SB3Trainer": "trainers.sb3",
    "SFTConfig": "offline.sft",
    "SFTTrainer": "offline.sft",
    "Trainer": "training.trainer",
    "Trajectory": "episodes.trajectory",
    "Transition": "episodes.trajectory",
    "create_policy": "lm.generation.policy",
    "create_strategy": "strategies.strategy",
    "export_onnx": "control.onnx_export",
    "load_model": "lm.models.loading",
    "load_policy": "control.mlp_policy",
    "load_rollout": "storage.files",
    "load_rollouts": "storage.files",
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
