"""Starts the ranks of this machine, and ends all of them when one fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from textenv.algos.cli.launch.machines import Hosts, Machines
from textenv.algos.runtime.launched import HOSTS, LAUNCHER, LOST, RANK

GRACE = 1.5
"""Seconds in which a rank may save what it has, after another one failed; then it is killed."""

_AGAIN = 0.5  # seconds until it is asked once more, which ends it within its step
_CAUSE = 0.3  # seconds in which the rank is found that failed first, if others fail by it
_EVERY = 0.02  # seconds between two looks
_OWN_LIMIT = "OPENBLAS_NUM_THREADS"


class Ended(NamedTuple):
    """How the ranks ended."""

    code: int
    """The exit code; `LOST` after a failure of another machine, or of the network."""
    reason: str = ""


class Attempt:
    """One start of the ranks of this machine.

    Args:
        command: arguments of Python.
        hosts: the addresses of all ranks.
        ranks: those of this machine.
        machines: the other machines.
        stopped: the signals that asked the launcher to stop so far; each is passed on to the ranks.
    """

    def __init__(
        self,
        command: Sequence[str],
        hosts: Hosts,
        ranks: Sequence[int],
        machines: Machines,
        stopped: list[int],
    ):
        self._command, self._hosts, self._ranks = command, hosts, ranks
        self._machines, self._stopped = machines, stopped
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []

    def run(self) -> Ended:
        """Start the ranks, and wait until they have ended, here and on the other machines."""
        with tempfile.TemporaryDirectory(prefix="textenv-launch-") as folder:
            file = Path(folder) / "hosts.json"
            file.write_text(json.dumps(self._hosts.for_mlx()))
            ours, theirs = os.pipe()  # the ranks read the end of this process from it
            try:
                for rank in self._ranks:
                    self._start(rank, file, ours)
                os.close(ours)
                ended = self._wait()
            finally:
                self._end()
                os.close(theirs)
                for reader in self._readers:
                    reader.join()
        return ended

    def _start(self, rank: int, file: Path, pipe: int) -> None:
        env = {**os.environ, RANK: str(rank), HOSTS: str(file), LAUNCHER: str(pipe)}
        if len(self._ranks) > 1:  # they share the CPUs
            threads = max(1, (os.cpu_count() or 1) // len(self._ranks))
            env.setdefault(_OWN_LIMIT, str(threads))
        first = rank == self._ranks[0]
        process = subprocess.Popen(
            [sys.executable, *self._command],
            env=env,
            pass_fds=(pipe,),
            stdin=subprocess.DEVNULL,
            stdout=None if first else subprocess.PIPE,
            stderr=None if first else subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes to the launcher, which passes it on once
        )
        self._processes[rank] = process
        if process.stdout is not None:
            reader = threading.Thread(target=_name_lines, args=(process.stdout, rank), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _wait(self) -> Ended:
        passed_on, since = 0, 0.0
        causes: dict[int, int] = {}
        while True:
            for number in self._stopped[passed_on:]:
                passed_on += 1
                for process in self._processes.values():
                    process.send_signal(number)
            codes = {rank: process.poll() for rank, process in self._processes.items()}
            failed = {rank: code for rank, code in codes.items() if code}
            if failed and not causes:
                causes, since = failed, time.monotonic()
            if failed and (set(failed.values()) != {LOST} or time.monotonic() - since > _CAUSE):
                self._machines.fail()
                rank, code = min(failed.items(), key=lambda item: item[1] == LOST)
                how = f"ended with {code}" if code > 0 else f"was ended by signal {-code}"
                rest = ", so all ranks end" if len(self._hosts) > 1 else ""
                return Ended(code if code > 0 else 128 - code, f"rank {rank} {how}{rest}")
            if all(code == 0 for code in codes.values()):
                self._machines.finish()
                if self._machines.have_finished():
                    return Ended(0)
            if lost := self._machines.lost():
                return Ended(LOST, lost)
            time.sleep(_EVERY)

    def _end(self) -> None:
        """End the processes that are left."""
        began, asked = time.monotonic(), 0
        while any(process.poll() is None for process in self._processes.values()):
            waited = time.monotonic() - began
            for process in self._processes.values():
                if process.poll() is not None:
                    continue
                if waited > GRACE:
                    process.kill()
                elif waited >= asked * _AGAIN and asked < 2:
                    process.terminate()
            if waited >= asked * _AGAIN:
                asked += 1
            time.sleep(_EVERY)


def _name_lines(stream: IO[bytes], rank: int) -> None:
    """Print what a rank prints, each line with its number."""
    for line in stream:
        os.write(2, f"[rank {rank}] ".encode() + line)
