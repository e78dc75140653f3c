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
    """Completions that are Python code. If one is run, sys.modules has ``ran_a_completion``."""
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


@pytest.fixture
def chi_square():
    """The chi-square statistic per degree of freedom: about 1 if the counts are as expected."""

    def statistic(counts, expected):
        counts = np.asarray(counts)
        return float(((counts - expected) ** 2 / expected).sum() / (len(counts) - 1))

    return statistic
