"""Environments, policies and rewards that worker processes import from here, by its name."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import gymnasium as gym

from tests.algos.shared import SUMS, length, make_env
from textenv.algos import create_strategy

make_sums = partial(make_env, length, SUMS)


GROUPS_OF_4 = create_strategy("grpo", num_generations=4)


class OwnError(Exception):
    """One that cannot be made again of its text."""

    def __init__(self, prompt, completion):
        super().__init__(f"{prompt} {completion}")


def process_of(prompt, completion, example):
    return float(os.getpid())


def raise_value_error(prompt, completion, example):
    raise ValueError(f"no reward for {prompt}")


def arrive_and_sleep(folder, prompt, completion, example):
    """Leave a file named for this process, and do not return."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(3600)


def kill_the_last_to_come(folder, prompt, completion, example):
    """One of two workers is killed here, once the other sleeps here."""
    try:
        Path(folder, "first").touch(exist_ok=False)
    except FileExistsError:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)


def make_control_policy(seed=0):
    from textenv.algos import MLPPolicy

    env = gym.make("Pendulum-v1")
    return MLPPolicy(
        env.observation_space, env.action_space, normalize_observations=True, seed=seed
    )


def make_answerer():
    """A policy without a model."""
    return lambda observation: ("42", {})


def raise_own_error():
    raise OwnError("1+1=", "3")


def exit_at_once():
    os._exit(7)


def make_policy_that(action):
    """A policy here; in a worker, what ``action`` does in its place."""
    return action() if multiprocessing.parent_process() else make_answerer()


def children():
    return [p for p in multiprocessing.active_children() if p.name.startswith("rollouts-")]
