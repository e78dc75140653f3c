"""Reinforcement learning on text, as a Gymnasium citizen.

Importing this package registers its environments: ``gym.make("TextGen-v0")``.
"""

import gymnasium as gym

from textenv import tasks
from textenv.env import ENTRY_POINT, TextGenerationEnv
from textenv.rewards import reward
from textenv.tasks import register_task

__all__ = ["TextGenerationEnv", "register_task", "reward", "tasks"]
__version__ = "0.1.0"

gym.register("TextGen-v0", entry_point=ENTRY_POINT)
