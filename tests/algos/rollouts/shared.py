"""Environments, policies and rewards that worker processes import from here, by its name."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path

import gymnasium as gym

from tests.algos.shared import SUMS, length, make_env, make_policy
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


def once(flag):
    """Whether this is the first call of all processes with this file."""
    try:
        Path(flag).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die(signum=signal.SIGKILL):
    """End or stop this process, which must be a worker."""
    assert multiprocessing.parent_process() or "RAY_JOB_ID" in os.environ
    os.kill(os.getpid(), signum)


def length_or_death(flag, signum, prompt, completion, example):
    """The length of the completion; the first caller of all gets a signal instead."""
    if once(flag):
        die(signum)
    return length(prompt, completion, example)


length_or_death.reward_name = "length"


def length_or_sleep(flag, prompt, completion, example):
    """The length of the completion; the first caller of all sleeps for an hour."""
    if once(flag):
        time.sleep(3600)
    return length(prompt, completion, example)


length_or_sleep.reward_name = "length"


def fails_at(how, example_prompt, prompt, completion, example):
    """1, but at one prompt it never gives a number."""
    if prompt == example_prompt:
        if how == "raise":
            raise ValueError("no reward here")
        if how == "kill":
            os._exit(3)
        if how == "hang":
            time.sleep(3600)
        return float("nan")
    return 1.0


def talkative(prompt, completion, example):
    """Prints in every way."""
    print(f"scoring {prompt}")
    print("half a line", file=sys.stderr, end="")
    sys.stderr.flush()
    os.write(1, b" and its end\n")
    return 1.0


def never_ends(folder, prompt, completion, example):
    """Leave a file named for this process, and keep the interpreter busy for ever."""
    Path(folder, str(os.getpid())).touch()
    re.match(r"(a*)*b", "a" * 100)


def make_mortal_policy(folder, flag, **settings):
    """A policy that ends the first worker that asks it; without a flag, every worker."""
    policy = make_policy(folder, **settings)
    kind = type(policy)

    class Mortal(kind):
        @functools.wraps(kind.__call__)
        def __call__(self, *args, **kwargs):
            if multiprocessing.parent_process() and (flag is None or once(flag)):
                die()
            return super().__call__(*args, **kwargs)

    policy.__class__ = Mortal
    return policy


def make_mortal_gradient(flag, create, policy):
    """A gradient whose first caller dies."""
    compute = create(policy)

    def gradient(microbatches):
        if once(flag):
            die()
        return compute(microbatches)

    return gradient


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
