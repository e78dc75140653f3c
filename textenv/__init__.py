"""Text-generation tasks as Gymnasium environments, for reinforcement learning of language models.

Importing this package registers the environments with Gymnasium, so that
``gym.make("TextGen-v0")`` works.
"""

from textenv import tasks
from textenv.envs import shared_memory  # noqa: F401  (AsyncVectorEnv needs it)
from textenv.envs.env import TextGenerationEnv
from textenv.envs.registration import register_envs
from textenv.envs.token_env import TokenGenerationEnv
from textenv.envs.vector_env import TextGenerationVectorEnv
from textenv.rewards.registry import reward
from textenv.tasks import register_task

__all__ = [
    "TextGenerationEnv",
    "TextGenerationVectorEnv",
    "TokenGenerationEnv",
    "register_task",
    "reward",
    "tasks",
]
__version__ = "0.1.0"

register_envs()
