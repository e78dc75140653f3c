"""The ranks of one machine: all of them end when one fails, and say why."""

import os
import signal
import time
from contextlib import suppress

import pytest


def is_running(pid):
    """Whether there is a process of this number that has not ended."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def until(condition, seconds=10):
    """Wait until a condition holds, and give the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


def test_all_ranks_end_well(launch, program):
    code = "print('rank', rank, os.environ['MLX_HOSTFILE'] != '', sys.argv[1:], flush=True)"
    process = launch("-n", "3", program(code), "a", "--b")
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out == "rank 0 True ['a', '--b']\n"
    assert sorted(err.splitlines()) == [
        f"[rank {i}] rank {i} True ['a', '--b']" for i in range(1, 3)
    ]


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("sys.exit(7)", 7, "rank 1 ended with 7"),
        ("os.kill(os.getpid(), 9)", 137, "rank 1 was ended by signal 9"),
    ],
)
def test_one_that_fails_ends_the_others_within_two_seconds(
    launch, program, tmp_path, how, code, said
):
    mark = tmp_path / "failed"
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    process = launch(
        program(
            f"if rank == 0:\n    {deaf}\n    open({str(tmp_path / 'there')!r}, 'w').close()\n"
            f"    time.sleep(60)\n"
            f"while not os.path.exists({str(tmp_path / 'there')!r}): time.sleep(0.01)\n"
            f"open({str(mark)!r}, 'w').close()\n{how}"
        )
    )
    until(mark.exists)
    began = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 2
    assert process.returncode == code
    assert said in err


def test_the_code_is_that_of_the_cause_and_not_of_a_rank_that_left_because_of_it(launch, program):
    process = launch("-n", "2", program("if rank == 0: sys.exit(75)\ntime.sleep(0.1)\nsys.exit(9)"))
    _, err = process.communicate(timeout=20)
    assert process.returncode == 9 and "rank 1 ended with 9" in err


def test_a_signal_reaches_every_rank_once(launch, program, tmp_path):
    process = launch(
        program(
            "import signal\n"
            "def on(number, frame):\n"
            f"    with open({str(tmp_path)!r} + f'/got{{rank}}', 'a') as f: f.write('x')\n"
            "    time.sleep(0.3)\n    sys.exit(130 if rank == 0 else 0)\n"
            "signal.signal(signal.SIGINT, on)\n"
            f"open({str(tmp_path)!r} + f'/there{{rank}}', 'w').close()\ntime.sleep(60)"
        )
    )
    until(lambda: all((tmp_path / f"there{i}").exists() for i in range(2)))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert [(tmp_path / f"got{i}").read_text() for i in range(2)] == ["x", "x"]


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks at /proc")
def test_ranks_end_when_their_launcher_is_killed(launch, program, tmp_path):
    process = launch(
        program(
            "from textenv.algos.runtime.launched import watch_launcher\nwatch_launcher()\n"
            "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            f"open({str(tmp_path)!r} + f'/{{rank}}.new', 'w').write(str(os.getpid()))\n"
            f"os.chdir({str(tmp_path)!r})\n"
            "os.rename(f'{rank}.new', f'{rank}.pid')\n"
            "time.sleep(60)"
        )
    )
    files = [tmp_path / f"{i}.pid" for i in range(2)]
    until(lambda: all(file.exists() for file in files))
    pids = [int(file.read_text()) for file in files]
    process.kill()
    assert until(lambda: not any(map(is_running, pids))) < 2


def test_it_starts_again_as_often_as_it_may(launch, program, tmp_path):
    count = tmp_path / "count"
    code = (
        f"if rank == 1:\n    open({str(count)!r}, 'a').write('x')\n    sys.exit(5)\ntime.sleep(60)"
    )
    process = launch("--restarts", "2", program(code))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 5 and count.read_text() == "xxx"
    assert "starting again, 1 more left" in err and "starting again, 0 more left" in err


def test_a_wrong_setting_is_not_tried_again(launch, program):
    process = launch("--restarts", "2", program("sys.exit(2)"))
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2 and "again" not in err
