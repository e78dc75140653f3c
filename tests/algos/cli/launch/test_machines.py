"""The machines of a training: addresses, and launchers that notice each other's end."""

import socket
import time

import pytest

from tests.algos.cli.launch.test_processes import until
from textenv.algos.cli.launch import machines
from textenv.algos.cli.launch.machines import Hosts, Machines
from textenv.errors import ConfigError


def test_addresses():
    hosts = Hosts.parse("10.0.0.1, 10.0.0.2:5000")
    assert hosts.addresses == (("10.0.0.1", 29400), ("10.0.0.2", 5000))
    assert hosts.watch == ("10.0.0.1", 29399)
    assert hosts.for_mlx() == [["10.0.0.1:29400"], ["10.0.0.2:5000"]]
    ports = [port for _, port in Hosts.local(3).addresses]
    assert len(set(ports)) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mac.local,10.0.0.1", "'mac.local'"),
        ("10.0.0.1:x", "'10.0.0.1:x'"),
        ("10.0.0.1:70000", "a port that is not one"),
        ("10.0.0.1,10.0.0.1", "there twice"),
        ("", "got ''"),
    ],
)
def test_what_is_no_address_is_named(text, said):
    with pytest.raises(ConfigError, match=said):
        Hosts.parse(text)


def free_hosts():
    """Two addresses of loopback, with a free port before the first."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as held:
            port = held.getsockname()[1]
        try:
            with socket.create_server(("127.0.0.1", port + 1)):
                return f"127.0.0.1:{port + 1},127.0.0.1:{port + 2}"
        except OSError:
            continue


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_is_killed_ends_those_of_the_other_machine(launch, program, tmp_path, failing):
    hosts, there = free_hosts(), tmp_path / "there"
    code = (
        f"if rank != {failing}:\n    open({str(there)!r}, 'w').close()\n    time.sleep(60)\n"
        f"while not os.path.exists({str(there)!r}): time.sleep(0.01)\n"
        f"time.sleep(0.5)\nopen({str(tmp_path / 'now')!r}, 'w').close()\nos.kill(os.getpid(), 9)"
    )
    path = program(code)
    both = [launch("--hosts", hosts, "--rank", str(rank), path) for rank in range(2)]
    until((tmp_path / "now").exists)
    began = time.monotonic()
    errors = [process.communicate(timeout=20)[1] for process in both]
    assert time.monotonic() - began < 2
    assert both[failing].returncode == 137
    assert both[1 - failing].returncode == 75
    assert "a rank of another machine has failed" in errors[1 - failing]


@pytest.mark.parametrize("failing", [0, 1])
def test_all_machines_start_again_together(launch, program, tmp_path, failing):
    hosts, count = free_hosts(), str(tmp_path / "count")
    path = program(
        f"open({count!r} + str(rank), 'a').write('x')\n"
        f"if rank == {failing} and len(open({count!r} + str(rank)).read()) == 1:\n"
        f"    while not os.path.exists({count!r} + str(1 - rank)): time.sleep(0.01)\n"
        "    sys.exit(5)\n"
        f"if len(open({count!r} + str(rank)).read()) == 1:\n"
        "    import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    time.sleep(60)\n"
        "time.sleep(1)"
    )
    options = ("--restarts", "1", "--hosts", hosts, "--rank")
    both = [launch(*options, str(rank), path) for rank in range(2)]
    errors = [process.communicate(timeout=30)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert [(tmp_path / f"count{rank}").read_text() for rank in range(2)] == ["xx", "xx"]


def test_launchers_wait_for_each_other_at_the_end(launch, program):
    hosts = free_hosts()
    path = program("time.sleep(0.8 * rank)")
    both = [launch("--hosts", hosts, "--rank", str(rank), path) for rank in range(2)]
    assert [process.wait(timeout=20) for process in both] == [0, 0]


def test_a_silent_machine_counts_as_lost(monkeypatch):
    hosts = Hosts.parse(free_hosts())
    with Machines(hosts, [0]) as here, socket.create_connection(hosts.watch) as there:
        until(lambda: here.lost() == "" and len(here._peers) == 1)
        assert there.recv(9)[:1] == b"?"
        monkeypatch.setattr(machines, "SILENCE", 0.1)
        there.send(b".")
        assert here.lost() == ""
        assert until(lambda: here.lost() != "") >= 0.1
        assert "silent" in here.lost()


def test_a_machine_that_does_not_start_is_waited_for_a_while(monkeypatch):
    hosts = Hosts.parse(free_hosts())
    monkeypatch.setattr(machines, "PATIENCE", 0.0)
    with Machines(hosts, [0]) as here:
        time.sleep(0.01)
        assert "1 of the other machines did not start" in here.lost()
    with pytest.raises(ConfigError, match="does not answer"):
        Machines(hosts, [1])


def test_a_machine_that_left_without_reading_has_failed():
    hosts = Hosts.parse(free_hosts())
    with Machines(hosts, [0]) as here:
        with socket.create_connection(hosts.watch) as there:
            until(lambda: here.lost() == "" and len(here._peers) == 1)
            until(lambda: len(there.recv(9, socket.MSG_PEEK)) > 1)  # a sign of life, not read
        found = []
        until(lambda: found.append(here.lost()) or found[-1] != "")
        assert found[-1].startswith("a rank of another machine has failed")
