"""Several ranks train as one process does, and leave together."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.algos.trainers.rank_program import COUNTS

PROGRAM = Path(__file__).with_name("rank_program.py")
ROOT = PROGRAM.parents[3]


def run(ranks, *arguments):
    """Run a part of the program in one process or as several ranks."""
    command = [sys.executable, "-m", "textenv.algos.cli.launch", "launch", "-n", str(ranks)]
    alone = [sys.executable] if ranks == 1 else command
    return subprocess.run(
        [*alone, str(PROGRAM), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def load(path):
    """The arrays of a file."""
    with np.load(path) as file:
        return dict(file)


def relative_difference(found, expected):
    """The length of the difference of two gradients, as a share of the length of one."""
    names = expected.keys() - {"losses", "history"}
    assert names == found.keys() - {"losses", "history"}
    norms = [np.linalg.norm(np.float64(found[n]) - expected[n]) for n in sorted(names)]
    return np.linalg.norm(norms) / np.linalg.norm([np.linalg.norm(expected[n]) for n in names])


def test_the_gradient_of_two_ranks_is_that_of_one_process(tmp_path):
    for ranks in (1, 2):
        done = run(ranks, "gradient", tmp_path)
        assert done.returncode == 0, done.stderr
    for count in COUNTS:
        one, *both = [
            load(tmp_path / f"{count}-{who}.npz") for who in ("0-of-1", "0-of-2", "1-of-2")
        ]
        for name in one:
            assert np.array_equal(both[0][name], both[1][name]), name
        assert relative_difference(both[0], one) < 1e-6
        np.testing.assert_array_equal(both[0]["losses"], one["losses"])


def test_two_ranks_train_as_one_process_and_go_on_from_a_checkpoint(tmp_path):
    folders = [tmp_path / name for name in ("one", "two", "stopped")]
    for folder in folders:
        folder.mkdir()
    one, two, stopped = folders
    for ranks, folder, steps in ((1, one, 3), (2, two, 3), (2, stopped, 2), (2, stopped, 3)):
        done = run(ranks, "train", folder, steps)
        assert done.returncode == 0, done.stderr
    alone, first, second = [
        load(path) for path in (one / "0-of-1.npz", two / "0-of-2.npz", two / "1-of-2.npz")
    ]
    for name in first:  # all ranks have the same weights and metrics
        assert np.array_equal(first[name], second[name]), name
    # Rewards, tokens, loss, the gradient's norm and the entropy of each step.
    np.testing.assert_allclose(first["history"], alone["history"], rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(first["history"][0, 3], alone["history"][0, 3], rtol=1e-6)
    for rank in ("0-of-2", "1-of-2"):
        resumed = load(stopped / f"{rank}.npz")
        for name in first:
            assert np.array_equal(first[name], resumed[name]), name
    for folder in (two, stopped):
        assert sorted(path.name for path in (folder / "run").iterdir()) == ["best", "checkpoints"]


def test_a_rank_that_is_left_alone_leaves_and_does_not_wait_again(tmp_path):
    done = run(2, "lonely", tmp_path)
    assert done.returncode == 75
    assert "another rank has ended, so rank 0 of 2 ends too" in done.stdout


def test_ranks_with_other_settings_are_refused(tmp_path):
    done = run(2, "unequal", tmp_path)
    assert done.returncode != 0
    assert "all ranks must have the same epsilon: rank 0 has 0.1, rank 1 0.2" in done.stderr


REWARD = """
import os, signal
from pathlib import Path

calls = 0

def reward(prompt, completion, example):
    global calls
    calls += 1
    mark = Path({mark!r})
    if calls > {calls} and os.environ["MLX_RANK"] == "1" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(len(completion))
"""


def train(tmp_path, *options):
    """Train by the command line in two ranks, of which one is killed in its third step."""
    rewards = tmp_path / "rewards.py"
    rewards.write_text(REWARD.format(mark=str(tmp_path / "killed"), calls=16))
    return subprocess.run(
        [
            *(sys.executable, "-m", "textenv.algos.cli.launch", "launch", *options, "train"),
            *("--reward", f"{rewards}:reward", "--out", str(tmp_path / "run")),
            *("--num-prompts", "4", "--num-generations", "4", "--max-steps", "4"),
            *("--save-steps", "1", "--eval-examples", "0", "--rollouts-every", "0"),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )


def steps_of(tmp_path):
    """The steps that the run's metrics have."""
    import json

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_a_killed_rank_ends_the_run_which_says_so_and_keeps_what_it_has(tmp_path):
    done = train(tmp_path)
    assert done.returncode == 137, done.stderr
    assert "rank 1 was ended by signal 9, so all ranks end" in done.stderr
    assert steps_of(tmp_path) == [1, 2]
    assert "to go on: textenv train --resume" in done.stdout


def test_after_a_killed_rank_the_training_starts_again_from_its_checkpoint(tmp_path):
    done = train(tmp_path, "--restarts", "1")
    assert done.returncode == 0, done.stderr
    assert "starting again, 0 more left" in done.stderr
    assert steps_of(tmp_path) == [1, 2, 3, 4]
    assert "going on after 2 updates" in done.stdout
