"""The machines of a training: their addresses, and a watch that notices the end of one.

A rank notices the end of another only at the next exchange. So the launchers of all machines are
connected to that of the first, and send it a byte twice a second. A connection that ends, or that
is silent for too long, ends the ranks of all machines.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from textenv.errors import ConfigError

PORT = 29400
"""The port of a rank whose address names none. The launcher of rank 0 takes the port before."""

SILENCE = 5.0
"""Seconds without a sign of life after which a machine counts as lost."""

PATIENCE = 60.0
"""Seconds in which all machines must have been started."""

_BEAT = 0.5
_WELCOME, _HERE, _DONE = b"?", b".", b"!"


@dataclass(frozen=True)
class Hosts:
    """The addresses of all ranks."""

    addresses: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.addresses)

    @classmethod
    def local(cls, count: int) -> Hosts:
        """Free ports of this machine."""
        held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        try:
            return cls(tuple(("127.0.0.1", each.getsockname()[1]) for each in held))
        finally:
            for each in held:
                each.close()

    @classmethod
    def parse(cls, text: str) -> Hosts:
        """Read addresses, IP or IP:PORT, with commas between them.

        Raises:
            ConfigError: naming what is not an address, or what is there twice.
        """
        found: list[tuple[str, int]] = []
        for part in text.split(","):
            name, _, port = part.strip().partition(":")
            try:
                address = str(ipaddress.IPv4Address(name)), int(port or PORT)
            except ValueError:
                raise ConfigError(
                    f"--hosts: expected addresses such as 192.168.1.10 or 192.168.1.10:{PORT}, "
                    f"got {part!r:.80}"
                ) from None
            if not 1 < address[1] < 2**16:
                raise ConfigError(f"--hosts: {part!r:.80} has a port that is not one")
            if address in found:
                raise ConfigError(f"--hosts: {part!r:.80} is there twice: give it another port")
            found.append(address)
        return cls(tuple(found))

    @property
    def watch(self) -> tuple[str, int]:
        """Where the launcher of rank 0 waits for the others."""
        name, port = self.addresses[0]
        return name, port - 1

    def for_mlx(self) -> list[list[str]]:
        """As MLX reads them from a file."""
        return [[f"{name}:{port}"] for name, port in self.addresses]


class Machines:
    """The other machines, as the launcher of one sees them. As a context it closes what it opened.

    Args:
        hosts: the addresses of all ranks.
        ranks: those of this machine. There are no other machines if these are all.

    Raises:
        ConfigError: if the launcher of rank 0 cannot be reached, or its port is taken.
    """

    def __init__(self, hosts: Hosts, ranks: Sequence[int]):
        self._expected = 0
        self._server: socket.socket | None = None
        self._peers: list[socket.socket] = []
        self._heard: dict[socket.socket, float] = {}
        self._done: set[socket.socket] = set()
        self._began, self._beat, self._finished = time.monotonic(), 0.0, False
        if len(ranks) == len(hosts):
            return
        if 0 in ranks:
            self._expected = len(hosts) - len(ranks)
            try:
                self._server = socket.create_server(hosts.watch)
            except OSError as error:
                raise ConfigError(
                    f"the launcher of rank 0 cannot wait at {hosts.watch[0]}:{hosts.watch[1]} "
                    f"({error.strerror}): is it this machine's address, and the port free?"
                ) from error
        else:
            self._expected = 1
            self._add(_connect(hosts.watch))

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *error: object) -> None:
        for each in (*self._peers, self._server):
            if each is not None:
                each.close()

    def lost(self) -> str:
        """Look at the others, and show them that this machine is there.

        Returns:
            Why the ranks must end; empty if all is well.
        """
        now = time.monotonic()
        if self._server is not None and len(self._peers) < self._expected:
            if select.select([self._server], [], [], 0)[0]:
                peer = self._server.accept()[0]
                peer.send(_WELCOME + _DONE if self._finished else _WELCOME)
                self._add(peer)
            elif now - self._began > PATIENCE:
                missing = self._expected - len(self._peers)
                return f"{missing} of the other machines did not start within {PATIENCE:.0f} s"
        for peer in [peer for peer in self._peers if peer not in self._done]:
            if why := self._hear(peer, now):
                return why
        if now - self._beat >= _BEAT:
            self._beat = now
            self._send(_HERE)
        return ""

    def finish(self) -> None:
        """Say that the ranks of this machine have ended as they should."""
        if not self._finished:
            self._finished = True
            self._send(_DONE)

    def have_finished(self) -> bool:
        """Whether the ranks of the other machines have ended as they should."""
        return len(self._done) == self._expected

    def fail(self) -> None:
        """Let the other machines end their ranks."""
        for peer in self._peers:
            peer.close()

    def _add(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self._peers.append(peer)
        self._heard[peer] = time.monotonic()

    def _hear(self, peer: socket.socket, now: float) -> str:
        try:
            data = peer.recv(1024)
        except BlockingIOError:
            silent = now - self._heard[peer]
            return f"another machine was silent for {silent:.0f} s" if silent > SILENCE else ""
        except ConnectionError:  # it has left before it read our last signs of life
            data = b""
        except OSError as error:
            return f"another machine cannot be reached any more ({error.strerror})"
        if _DONE in data:
            self._done.add(peer)
        elif not data:
            return "a rank of another machine has failed: see what its launcher says"
        self._heard[peer] = now
        return ""

    def _send(self, sign: bytes) -> None:
        for peer in self._peers:
            try:
                peer.send(sign)
            except OSError:  # that it has left is heard
                continue


def _connect(address: tuple[str, int]) -> socket.socket:
    """Connect to the launcher of rank 0, once it takes machines in for this start of the ranks."""
    began = time.monotonic()
    while True:
        left = PATIENCE - (time.monotonic() - began)
        peer: socket.socket | None = None
        try:
            peer = socket.create_connection(address, timeout=max(_BEAT, left))
            if peer.recv(1) == _WELCOME:
                return peer
            raise ConnectionResetError("it is at its end")
        except OSError as error:
            if peer is not None:
                peer.close()
            if left <= 0:
                raise ConfigError(
                    f"the launcher of rank 0 does not answer at {address[0]}:{address[1]} "
                    f"({error}): start it on that machine, with the same --hosts"
                ) from error
            time.sleep(0.2)
