"""The random generators that a process has once: those of Python, NumPy and MLX.

Nothing here draws from them. A user's reward functions or environments may.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from textenv.algos.runtime import backend
from textenv.algos.storage.checkpoints.state import State

backend.prepare()

import mlx.core as mx  # noqa: E402


def random_state() -> State:
    """The states of the generators of this process."""
    # The global one is what is meant.
    numpys: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    mlx: Any = mx.random.state
    version, numbers, gauss = random.getstate()
    return State(
        {
            "python": np.array(numbers, np.int64),
            "numpy": np.array(numpys["state"]["key"]),
            "mlx": np.array(mlx[0]),
        },
        {
            "python": [version, gauss],
            "numpy": [numpys["state"]["pos"], numpys["has_gauss"], numpys["gauss"]],
        },
    )


def load_random_state(state: State) -> None:
    """Set the generators of this process to what `random_state` gave.

    Raises:
        DataError: if a part is missing.
    """
    version, gauss = state.value("python")
    random.setstate((version, tuple(state.array("python").tolist()), gauss))
    position, has_gauss, gauss = state.value("numpy")
    key = {"key": state.array("numpy"), "pos": position}
    numpys = {"bit_generator": "MT19937", "state": key, "has_gauss": has_gauss, "gauss": gauss}
    np.random.set_state(numpys)  # noqa: NPY002
    high, low = state.array("mlx").tolist()  # the halves of a seed
    mx.random.seed(high << 32 | low)
