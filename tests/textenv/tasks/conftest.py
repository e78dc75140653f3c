"""Examples of a task by its name, the global random states, and completions that are code."""

import random

import numpy as np
import pytest

from textenv import tasks

RUNS = "__import__('sys').modules.__setitem__('ran_a_completion', 1)"


@pytest.fixture
def examples():
    def made(name, n=300, split="train", **kwargs):
        task = tasks.make(name, split=split, **kwargs)
        return [task.example(i) for i in range(n)]

    return made


@pytest.fixture
def states():
    """The states of the global random generators, to compare."""
    return lambda: (random.getstate(), repr(np.random.get_state()))  # noqa: NPY002


@pytest.fixture
def code():
    """Completions that are Python; one that is run puts ``ran_a_completion`` into sys.modules."""
    return [
        RUNS,
        f"[{RUNS}]",
        f"[[{RUNS}]]",
        f"({RUNS}) or 1",
        "getattr(sin, chr(95)) + exec(chr(49))",
        "x.__class__",
        "S('1')",
        "input()",
    ]
