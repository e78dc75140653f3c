"""The ids that Gymnasium knows these environments by."""

import gymnasium as gym

from textenv import tasks
from textenv.env import ENTRY_POINT

VECTOR_ENTRY_POINT = "textenv.vector_env:TextGenerationVectorEnv"
TOKENS_ENTRY_POINT = "textenv.token_env:TokenGenerationEnv"


def register_envs() -> None:
    """Register ``TextGen-v0``, ``TextGenTokens-v0``, and an id for each built-in task.

    The entry points are names, so that nothing is imported that is not made.
    """
    gym.register("TextGen-v0", entry_point=ENTRY_POINT, vector_entry_point=VECTOR_ENTRY_POINT)
    gym.register("TextGenTokens-v0", entry_point=TOKENS_ENTRY_POINT)
    for task in tasks.BUILT_IN:
        gym.register(
            f"textgen/{task.__name__}-v0",
            entry_point=ENTRY_POINT,
            vector_entry_point=VECTOR_ENTRY_POINT,
            kwargs={"task": task.name},
            # The environment itself truncates when a task's turns are spent. Gymnasium's
            # TimeLimit would also mark as truncated an episode that terminates on its last
            # turn (in a task of one turn, every episode), so its limit is one turn later.
            max_episode_steps=task.max_turns + 1,
        )
