"""Two network namespaces stand in for two machines. Run by hand, as root on Linux:

TEXTENV_NAMESPACES=1 python -m pytest tests/algos/cli/launch/test_namespaces.py
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.algos.cli.launch.test_processes import until

pytestmark = pytest.mark.skipif(
    os.environ.get("TEXTENV_NAMESPACES") != "1", reason="changes the network; run by hand"
)
HOSTS = "10.213.0.1,10.213.0.2"


def ip(*arguments):
    """Change the network."""
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture
def machines():
    """Two namespaces that are connected, and the means to start programs in them."""
    names = ["textenv0", "textenv1"]
    started = []
    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "tv0",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "tv1",
            "netns",
            names[1],
        )
        for i, name in enumerate(names):
            ip("-n", name, "address", "add", f"10.213.0.{i + 1}/24", "dev", f"tv{i}")
            ip("-n", name, "link", "set", f"tv{i}", "up")
            ip("-n", name, "link", "set", "lo", "up")

        def start(rank, *command):
            launcher = (sys.executable, "-m", "textenv.algos.cli.launch", "launch")
            where = ("ip", "netns", "exec", names[rank], *launcher)
            process = subprocess.Popen(
                [*where, "--hosts", HOSTS, "--rank", str(rank), *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            started.append(process)
            return process

        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def train(folder, *options):
    """The command of a training whose rank 0 writes to a folder."""
    size = ("--num-prompts", "4", "--num-generations", "8", "--eval-examples", "0")
    return ("train", "--task", "reverse", *size, "--out", str(folder / "run"), *options)


def lines(folder):
    """The steps that were made so far."""
    path = folder / "run" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_two_machines_train_and_only_the_first_writes(machines, tmp_path):
    both = [machines(rank, *train(tmp_path, "--max-steps", "3")) for rank in range(2)]
    said = [process.communicate(timeout=90)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [metrics["step"] for metrics in lines(tmp_path)] == [1, 2, 3]
    assert "2 ranks" in said[0] and said[1] == ""


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_both_machines(machines, tmp_path, killed):
    both = [machines(rank, *train(tmp_path, "--max-steps", "9999")) for rank in range(2)]
    until(lambda: len(lines(tmp_path)) >= 2, 60)
    found = subprocess.run(
        ["pgrep", "-P", str(both[killed].pid)], capture_output=True, text=True, check=True
    )
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
    began = time.monotonic()
    said = [process.communicate(timeout=20)[0] for process in both]
    assert time.monotonic() - began < 2
    assert both[killed].returncode == 137, said
    assert both[1 - killed].returncode == 75, said


def test_a_cable_that_is_pulled_ends_both_machines(machines, tmp_path):
    both = [machines(rank, *train(tmp_path, "--max-steps", "9999")) for rank in range(2)]
    until(lambda: len(lines(tmp_path)) >= 2, 60)
    ip("-n", "textenv1", "link", "set", "tv1", "down")
    began = time.monotonic()
    said = [process.communicate(timeout=30)[0] for process in both]
    assert time.monotonic() - began < 9  # five seconds of silence, and two to leave
    assert [process.returncode for process in both] == [75, 75], said
    assert all("silent" in text for text in said)
