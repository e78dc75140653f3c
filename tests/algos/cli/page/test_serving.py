"""The page on this machine alone: who is answered, and that it follows the run."""

import http.client
import json
import threading
from http import HTTPStatus

import pytest

from textenv.algos.cli.page.serving import PageServer
from textenv.errors import ConfigError


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text("a = 1\n")
    (folder / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    return folder


@pytest.fixture
def server(run):
    with PageServer([run]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path="/", method="GET", **headers):
    """The status, the headers and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_it_listens_on_the_loopback_interface_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_the_page_is_that_of_the_run_and_follows_it(server, run):
    status, headers, first = ask(server)
    assert status == 200 and first.startswith(b"<!doctype html>")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert ask(server)[2] == first
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "reward": 0.75}\n')
    assert ask(server, "/?again")[2] != first
    assert ask(server, Host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "", "0.0.0.0:1"])
def test_a_name_of_somebody_else_that_leads_here_is_refused(server, host):
    status, _, body = ask(server, Host=host)
    assert status == 403 and b"<" not in body


@pytest.mark.parametrize("path", ["/config.toml", "/../config.toml", "/%2e%2e/x"])
def test_nothing_else_is_served(server, path):
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(server, method):
    assert ask(server, method=method)[0] == 501


def test_a_run_that_is_gone_is_said(server, run):
    for path in run.iterdir():
        path.unlink()
    status, headers, body = ask(server)
    assert status == 503 and headers["Content-Type"].startswith("text/plain")
    assert b"run" in body


def test_a_port_that_is_taken_is_named(server, run):
    with pytest.raises(ConfigError, match=f"port {server.server_port} cannot be listened on"):
        PageServer([run], server.server_port)
    with pytest.raises(ConfigError, match="port 70000 cannot"):
        PageServer([run], 70_000)


def test_a_run_is_read_again_only_when_it_has_changed(server, monkeypatch):
    from textenv.algos.cli.page import serving

    made = []
    monkeypatch.setattr(serving, "page_html", lambda *args: made.append(args) or json.dumps("page"))
    for _ in range(3):
        ask(server)
    assert len(made) == 1


def test_an_open_page_follows_a_run_to_its_end(server, run, browser, monkeypatch):
    from selenium.webdriver.support.ui import WebDriverWait

    from textenv.algos.cli.page import serving

    def until(script):
        return WebDriverWait(browser, 20, 0.05).until(lambda _: browser.execute_script(script))

    monkeypatch.setattr(serving, "REFRESH", 0.2)
    (run / "summary.json").write_text('{"state": "running"}')
    browser.get(f"{server.url}#/steps")
    until("return document.querySelectorAll('tbody tr').length === 1")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "reward": 0.75}\n')
    until("return document.querySelectorAll('tbody tr').length === 2")
    assert browser.execute_script("return location.hash") == "#/steps"
    (run / "summary.json").write_text('{"state": "finished"}')
    browser.get(server.url)
    until("return document.body.dataset.ready")
    browser.execute_script("window.stays = true")
    threading.Event().wait(0.6)  # three times as long as until the next load
    assert browser.execute_script("return window.stays") is True


def test_a_browser_leaves_out_the_port_of_http(run, monkeypatch):
    """RFC 9110, 4.2.1: the port 80 is the default of http, so ``Host`` may be without it."""
    with PageServer([run]) as server:
        assert "127.0.0.1" not in server.hosts
        monkeypatch.setattr(server, "server_port", 80)
        assert server.hosts == {"127.0.0.1", "localhost", "127.0.0.1:80", "localhost:80"}


def test_a_reader_that_leaves_before_the_headers_is_no_error(run):
    class Gone:
        def write(self, data):
            raise BrokenPipeError

    with PageServer([run]) as server:
        handler = object.__new__(server.RequestHandlerClass)
        handler.server, handler.wfile = server, Gone()
        handler.requestline = "GET / HTTP/1.1"
        handler.request_version, handler.close_connection = "HTTP/1.1", False
        handler._answer(HTTPStatus.OK, b"page")
        assert handler.close_connection
