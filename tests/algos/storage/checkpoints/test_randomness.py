"""The random generators of the process go on where they were."""

import random

import mlx.core as mx
import numpy as np

from textenv.algos.storage.checkpoints.randomness import load_random_state, random_state
from textenv.algos.storage.checkpoints.store import read_checkpoint, write_checkpoint


def draws():
    return (
        [random.random() for _ in range(3)],
        random.gauss(),
        np.random.normal(size=3).tolist(),  # noqa: NPY002
        mx.random.normal((3,)).tolist(),
    )


def test_all_generators_go_on_from_a_checkpoint(tmp_path):
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    mx.random.seed(3)
    draws()  # of the two numbers that gauss makes, one is kept for the next call
    path = write_checkpoint(tmp_path, 1, random_state(), {})
    expected = draws(), draws()
    load_random_state(read_checkpoint(path).state)
    assert (draws(), draws()) == expected
