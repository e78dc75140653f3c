"""Serves a run's page on this machine alone, made again whenever the run has written something."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from http.client import HTTP_PORT
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from textenv.algos.cli.page.html import page_html
from textenv.errors import ConfigError, TextEnvError

REFRESH = 5.0
"""Seconds after which a browser loads the page of a run that goes on again."""

_HOST = "127.0.0.1"
_WATCHED = ("*", "rollouts/*", "inspection/*")  # the files of a run that its page is made of


class PageServer(ThreadingHTTPServer):
    """Listens on the loopback interface, so that no other machine can reach it.

    Requests are answered only if they name this machine as their host. Otherwise a page of somebody
    else could read a run by a name of its own that leads to 127.0.0.1.

    Args:
        runs: one or two folders of runs, or files of rollouts.
        port: the port; 0 takes a free one.

    Raises:
        ConfigError: if the port is taken.
    """

    daemon_threads = True

    def __init__(self, runs: Sequence[Path], port: int = 0):
        self._runs, self._lock = list(runs), threading.Lock()
        self._stamp: Any = None
        self._page = b""
        try:
            super().__init__((_HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port {port} cannot be listened on ({error}): choose another --port, or 0 for a "
                "free one"
            ) from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{_HOST}:{self.server_port}/"

    @property
    def hosts(self) -> set[str]:
        """What a request may call this machine."""
        names = {_HOST, "localhost"}
        # Browsers leave out the port of HTTP.
        bare = names if self.server_port == HTTP_PORT else set()
        return {f"{name}:{self.server_port}" for name in names} | bare

    def page(self) -> bytes:
        """The page of the runs as they are now.

        Raises:
            TextEnvError: if there is no run any longer.
        """
        with self._lock:
            stamp = sorted(_stamps(self._runs))
            if stamp != self._stamp:
                self._page = page_html(self._runs, REFRESH).encode()
                self._stamp = stamp
            return self._page


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "textenv", ""

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            self._answer(HTTPStatus.FORBIDDEN, b"this page is for this machine alone\n")
        elif self.path.partition("?")[0] != "/":
            self._answer(HTTPStatus.NOT_FOUND, b"there is one page here, /\n")
        else:
            try:
                page = self.server.page()
            except TextEnvError as error:  # the folder may be gone
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())
            else:
                self._answer(HTTPStatus.OK, page, "text/html")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        try:
            self.end_headers()  # which sends them
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):  # the reader has left
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


def _stamps(runs: Sequence[Path]) -> Iterator[tuple[str, int, int]]:
    """What changes when a run writes something."""
    for run in runs:
        for path in [run] if run.is_file() else [p for each in _WATCHED for p in run.glob(each)]:
            try:
                found = path.stat()
            except OSError:  # it was replaced just now
                continue
            yield str(path), found.st_mtime_ns, found.st_size
