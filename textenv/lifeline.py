"""Ends a process as soon as the one that started it is gone, whatever either of them is doing.

The process that starts another one keeps the sending end of a pipe and never sends anything. The
other process waits for the end of that pipe, which comes when the first one closes it or dies.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from multiprocessing.connection import Connection


def end_with(lifeline: Connection) -> None:
    """End this process when the other end of a pipe is closed; call it in the main thread.

    On Linux the system ends the process, also in the middle of code that never returns to Python.
    Elsewhere a thread ends it, as soon as that can run.

    Args:
        lifeline: the receiving end of a pipe through which nothing is ever sent.
    """
    if hasattr(fcntl, "F_SETSIG"):
        number = lifeline.fileno()
        signal.signal(signal.SIGIO, signal.SIG_DFL)  # which is to end the process
        fcntl.fcntl(number, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        fcntl.fcntl(number, fcntl.F_SETFL, flags | os.O_ASYNC)
    # It also sees an end that came before the lines above.
    threading.Thread(target=_end, args=(lifeline,), name="lifeline", daemon=True).start()


def _end(lifeline: Connection) -> None:
    lifeline.poll(None)
    os._exit(1)
