"""Registers the environments of this package with Gymnasium, so that ``gym.make`` finds them."""

import gymnasium as gym

from textenv import tasks
from textenv.envs.env import ENTRY_POINT

VECTOR_ENTRY_POINT = "textenv.envs.vector_env:TextGenerationVectorEnv"
TOKENS_ENTRY_POINT = "textenv.envs.token_env:TokenGenerationEnv"


def register_envs() -> None:
    """Register ``TextGen-v0``, ``TextGenTokens-v0``, and one id for each built-in task.

    The entry points are strings, so that Gymnasium imports a module only when it makes an
    environment from it.
    """
    gym.register("TextGen-v0", entry_point=ENTRY_POINT, vector_entry_point=VECTOR_ENTRY_POINT)
    gym.register("TextGenTokens-v0", entry_point=TOKENS_ENTRY_POINT)
    for task in tasks.BUILT_IN:
        gym.register(
            f"textgen/{task.__name__}-v0",
            entry_point=ENTRY_POINT,
            vector_entry_point=VECTOR_ENTRY_POINT,
            kwargs={"task": task.name},
            # The environment itself truncates an episode when its turns are used up. Gymnasium's
            # TimeLimit would also mark an episode as truncated that terminates on its last turn
            # (in a task of one turn, every episode). Its limit is therefore one turn higher.
            max_episode_steps=task.max_turns + 1,
        )
