"""What a process knows if `textenv launch` or `mlx.launch` started it as one of several ranks."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import cache

RANK, HOSTS = "MLX_RANK", "MLX_HOSTFILE"
"""MLX's names in the environment: the number of the rank, and the file of all their addresses."""

LAUNCHER = "TEXTENV_LAUNCHER"
"""In the environment of a rank: the descriptor of a pipe that is closed when its launcher ends."""

LOST = 75
"""The exit code of a rank that ends because another one has: the cause is not its own."""

_PATIENCE = 1.0  # seconds that a rank whose launcher has ended is given to end by itself


def is_rank() -> bool:
    """Whether this process was started as a rank."""
    return RANK in os.environ


def is_follower() -> bool:
    """Whether this process was started as another rank than the first."""
    return os.environ.get(RANK, "0") != "0"


@cache
def watch_launcher() -> None:
    """Let this process end soon after the launcher that started it, if one did."""
    pipe = os.environ.get(LAUNCHER)
    if pipe is None:
        return

    def wait() -> None:
        os.read(int(pipe), 1)  # nobody writes to it: this returns when the launcher has ended
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="launcher", daemon=True).start()
