"""Text-generation tasks as Gymnasium environments, for reinforcement learning of language models.

Importing this package registers the environments with Gymnasium, so that
``gym.make("TextGen-v0")`` works.
"""

from textenv import shared_memory, tasks  # noqa: F401  (AsyncVectorEnv needs shared_memory)
from textenv.env import TextGenerationEnv
from textenv.registration import register_envs
from textenv.rewards.registry import reward
from textenv.tasks import register_task
from textenv.token_env import TokenGenerationEnv
from textenv.vector_env import TextGenerationVectorEnv

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
