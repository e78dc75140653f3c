"""What a worker process of this machine runs: it answers the messages that come through a pipe."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import struct
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, TextIO

from textenv.algos.episodes.scoring import Scored
from textenv.algos.rollouts.workers.shared_weights import SharedWeights
from textenv.algos.rollouts.workers.worker import GradientItem, RolloutItem, RolloutWorker
from textenv.lifeline import end_with

SHOW_TRACEBACK = signal.SIGUSR1
"""The signal at which a worker prints what all its threads are doing."""

END = signal.SIGUSR2
"""The signal at which a worker ends, whatever it is doing."""

_SIZE = struct.Struct("q")


class Notes:
    """What a worker is scoring, in a file that outlives it; the file has no name.

    Args:
        number: the file's descriptor.
    """

    def __init__(self, number: int):
        self._number = number

    def write(self, scored: Scored | None) -> None:
        """Note what is about to be scored; None: nothing is."""
        data = b"" if scored is None else json.dumps(scored).encode()
        os.pwrite(self._number, _SIZE.pack(len(data)) + data, 0)

    def read(self) -> Scored | None:
        """What was being scored when the worker ended, if anything was."""
        head = os.pread(self._number, _SIZE.size, 0)
        size = _SIZE.unpack(head)[0] if len(head) == _SIZE.size else 0
        return Scored(*json.loads(os.pread(self._number, size, _SIZE.size))) if size else None


def serve(
    connection: Connection,
    lifeline: Connection,
    output: Connection,
    notes: Connection,
    weights: Connection,
) -> None:
    """Answer messages until the other end of the pipe is closed; the target of the process.

    Args:
        connection: the pipe of the messages.
        lifeline: the process ends with the other end of this pipe, at once.
        output: where what is printed goes.
        notes: the file of `Notes`.
        weights: the file of `SharedWeights`.
    """
    _redirect(output)
    end_with(lifeline)
    faulthandler.enable(2)
    faulthandler.register(SHOW_TRACEBACK, 2, all_threads=True)
    # Ctrl-C, the end of a terminal and that of a service go to all processes of a group, and the
    # parent decides what to do. What a reward function starts must not ignore SIGTERM too, as it
    # would if this process had SIG_IGN.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, _do_nothing)
    signal.signal(signal.SIGTERM, _do_nothing)
    signal.signal(END, _end)
    worker: RolloutWorker | None = None
    note, area = Notes(notes.fileno()).write, SharedWeights(weights.fileno())
    try:
        connection.send(("started", os.getpid()))
        while True:
            try:
                message = connection.recv()
                if worker is None:
                    worker = RolloutWorker(message, note)
                    answer: Any = None
                else:
                    answer = _answer(area, worker, message)
                data = ForkingPickler.dumps(("done", answer))
            except EOFError:
                return
            except Exception as error:  # the user's code may raise anything, which is passed on
                data = ForkingPickler.dumps(("raised", sendable(error)))
            connection.send_bytes(data)
    except (ConnectionError, _Ended):  # the other end of the pipe is gone, or is about to
        return
    finally:
        if worker is not None:
            worker.close()


class _Ended(BaseException):
    """The parent wants the process to end; user code must not take it for its own error."""


def _do_nothing(*_: Any) -> None:
    pass


def _end(*_: Any) -> None:
    raise _Ended


def _redirect(output: Connection) -> None:
    """Send what this process prints through a pipe, line by line."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(output.fileno(), number)
        setattr(sys, name, _stream(number))  # the one that was there may be that of a file
    output.close()


def _stream(number: int) -> TextIO:
    """A stream that writes each line at once."""
    return open(number, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _answer(area: SharedWeights, worker: RolloutWorker, message: Any) -> Any:
    """Do what a message asks for."""
    if isinstance(message, RolloutItem):
        return worker.play(message)
    if isinstance(message, GradientItem):
        return worker.compute_gradient(message)
    version, places = message
    worker.set_weights(version, area.read(places))
    return version


def sendable(error: Exception) -> tuple[Exception | None, str]:
    """An exception, or None if pickling would change it, and its traceback as text."""
    text = "".join(traceback.format_exception(error))
    with suppress(Exception):  # a user's exception may not allow that
        again = ForkingPickler.loads(ForkingPickler.dumps(error))
        if type(again) is type(error) and str(again) == str(error):
            return error, text
    return None, text
