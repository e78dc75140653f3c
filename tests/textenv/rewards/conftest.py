"""The registry of reward functions, and a module of them that another process can import."""

import asyncio
import importlib
import sys

import pytest

from textenv import rewards
from textenv.rewards import Reward


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(rewards.registry, "_registry", dict(rewards.registry._registry))


MODULE = """
import os, time

def vowels(prompt, completion, example):
    return float(sum(letter in "aeiou" for letter in completion))

def process_id(prompt, completion, example):
    return float(os.getpid())

def hangs_on_x(prompt, completion, example):
    if completion == "x":
        time.sleep(3600)
    return {"right": 1.0, "short": 0.5}

def raises(prompt, completion, example):
    raise KeyError("missing")

def dies(prompt, completion, example):
    os._exit(3)

def unsendable(prompt, completion, example):
    return {"a": lambda: 1}

def lengths(prompts, completions, examples):
    return [float(len(completion)) for completion in completions]
lengths.batch = True
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A user's module of reward functions, which another process can import."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "own_rewards.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("own_rewards")
    sys.path.remove(str(folder))
    del sys.modules["own_rewards"]


@pytest.fixture
def made():
    """Make rewards, and close them at the end."""
    open_ones = []

    def make(*args, **kwargs):
        open_ones.append(Reward(*args, **kwargs))
        return open_ones[-1]

    yield make
    for one in open_ones:
        one.close()


@pytest.fixture
def judged():
    """An async reward function, which hangs on the completion ``x``."""

    async def judged(prompt, completion, example):
        await asyncio.sleep(3600 if completion == "x" else 0)
        return float(len(completion))

    return judged
