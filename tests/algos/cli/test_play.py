"""textenv play: a person at the keyboard, and the same again from the file."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest

import textenv  # noqa: F401  (registers the environments)
from textenv.algos import Buffer, RolloutRunner, Trajectory, load_rollout
from textenv.algos.cli import main


def play(monkeypatch, capsys, typed, *argv):
    """What a command prints where this is typed; after it, the end of input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert main(["play", *argv]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def prompts(n, **kwargs):
    """What the environment asks from seed 3 on, and the right answers."""
    env = gym.make("TextGen-v0", **kwargs)
    found = []
    for i in range(n):
        prompt, info = env.reset(seed=3 if i == 0 else None)
        found.append((prompt, env.unwrapped.example["answer"], info["example_id"]))
    return found


def test_codes_in_what_was_recorded_do_not_reach_the_terminal(tmp_path, capsys):
    code = "\x1b[2J\x07"
    trajectory = Trajectory(
        [code],
        [code],
        [0.5],
        [{}],
        {code: code},
        True,
        reset_info={"task": code, "example_id": code},
    )
    path = Buffer([trajectory]).save(tmp_path / "rollout.json")
    assert main(["play", "--replay", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count(r"\x1b[2J\x07") == 6
    assert printed.replace("\n", "").isprintable()


def test_answers_are_scored_and_the_right_one_is_told(monkeypatch, capsys):
    (first, right, number), (second, missed, _) = prompts(2)
    argv = ("--episodes", "2", "--seed", "3")
    printed = play(monkeypatch, capsys, f"{right}\nno idea\n", *argv)
    assert printed == (
        "Enter ends an answer, Ctrl-C ends the game\n"
        f"\n== episode 1 of 2: arithmetic, example {number}\n{first}\n"
        "> right, reward 1\n"
        f"\n== episode 2 of 2: arithmetic, example {prompts(2)[1][2]}\n{second}\n"
        f"> wrong, reward 0; an answer with full marks: {missed}\n"
        "\n2 of 2 episodes played, total reward 1\n"
    )


def test_hints_come_turn_by_turn(monkeypatch, capsys):
    kwargs = {"task": "guess_number", "task_kwargs": {"low": 5, "high": 15, "max_turns": 2}}
    [(prompt, number, _)] = prompts(1, **kwargs)
    argv = ("--task", "guess_number", "--task-kwargs", "low", "5", "high", "15", "max_turns", "2")
    argv = (*argv, "--episodes", "1", "--seed", "3")
    printed = play(monkeypatch, capsys, f"0\n{number}\n", *argv)
    assert printed.splitlines()[3:7] == [prompt.strip(), "> higher", "> right", "right, reward 1"]
    printed = play(monkeypatch, capsys, "0\n99\n", *argv)
    solution = f"; an answer with full marks: {number}"
    assert printed.splitlines()[3:7] == [
        *(prompt.strip(), "> higher", "> lower"),
        f"no turns left, reward 0{solution}",
    ]


def test_the_test_split_has_other_examples(monkeypatch, capsys):
    [(prompt, _, _)] = prompts(1, split="test")
    printed = play(monkeypatch, capsys, "", "--split", "test", "--seed", "3")
    assert f"\n{prompt}\n> " in printed and prompt != prompts(1)[0][0]


@pytest.mark.parametrize("stop", [EOFError, KeyboardInterrupt])
def test_it_ends_cleanly_where_the_player_stops(monkeypatch, capsys, tmp_path, stop):
    typed = iter(["1", "2", stop])

    def read(_):
        line = next(typed)
        if line is stop:
            raise stop
        return line

    monkeypatch.setattr("builtins.input", read)
    assert main(["play", "--seed", "3", "--record", str(tmp_path / "new")]) == 0
    said = capsys.readouterr()
    path = tmp_path / "new" / "transcript_0.jsonl"
    assert said.err == "" and said.out.endswith(
        f"\n2 of 5 episodes played, total reward 0\nrecorded in {path}\n"
    )
    assert [t.actions for t in load_rollout(path)] == [["1"], ["2"]]
    assert [t.prompt for t in load_rollout(path)] == [prompt for prompt, *_ in prompts(2)]


def test_a_backslash_goes_on_in_the_next_line(monkeypatch, capsys, tmp_path):
    argv = ("--episodes", "1", "--record", str(tmp_path))
    play(monkeypatch, capsys, "1 2\\\n3 4\\\n5\n", *argv)
    [trajectory] = load_rollout(tmp_path / "transcript_0.jsonl")
    assert trajectory.actions == ["1 2\n3 4\n5"]


def test_what_the_environment_refuses_is_asked_again(monkeypatch, capsys):
    [(_, right, _)] = prompts(1)
    typed = f"\ud800\n{right}\n"  # a terminal's stray byte, say
    printed = play(monkeypatch, capsys, typed, "--seed", "3", "--episodes", "1")
    assert "surrogate" in printed and "right, reward 1" in printed


def test_a_replay_shows_each_turn(monkeypatch, capsys, tmp_path):
    argv = ("--task", "guess_number", "--episodes", "2", "--seed", "3", "--record", str(tmp_path))
    (first, number, one), (second, _, two) = prompts(2, task="guess_number")
    play(monkeypatch, capsys, f"0\n{number}\n0\n", *argv)
    path = str(tmp_path / "transcript_0.jsonl")
    printed = play(monkeypatch, capsys, "", "--replay", path)
    assert printed == (
        f"\n== episode 1 of 2: guess_number, example {one}, seed 3\n{first}"
        "> 0\nhigher\nreward 0\n"
        f"> {number}\nright\nreward 1\n"
        "terminated after 2 turns, total reward 1\n"
        f"\n== episode 2 of 2: guess_number, example {two}\n{second}"
        "> 0\nhigher\nreward 0\n"
        "left in the middle after 1 turn, total reward 0\n"
    )
    assert (
        play(monkeypatch, capsys, "", "--replay", path, "--episodes", "1")
        == (printed[: printed.index("\n== episode 2")])
    )


def test_a_replay_of_numbers(monkeypatch, capsys, tmp_path):
    runner = RolloutRunner(gym.make("CartPole-v1"), lambda obs: (1, {}), max_steps=3)
    path = runner.collect().save(tmp_path / "rollout.json")
    [trajectory] = load_rollout(path)
    lines = play(monkeypatch, capsys, "", "--replay", str(path)).splitlines()
    assert lines[1].startswith("== episode 1 of 1")
    numbers = [[float(x) for x in line[1:-1].split()] for line in lines if line[0:1] == "["]
    after = [*trajectory.observations, trajectory.final_observation]
    assert np.allclose(numbers, after, atol=1e-4)
    assert lines.count("> 1") == lines.count("reward 1") == 3
    assert lines[-1] == "left in the middle after 3 turns, total reward 3"


def test_what_was_recorded_cannot_write_to_the_terminal(monkeypatch, capsys, tmp_path):
    evil = Trajectory(
        observations=["a\x1b[2J"], actions=["\x1b]0;title\x07"], rewards=[0.0], infos=[{}],
        final_observation="b\r\x9b1m", terminated=True, prompt="a\x1b[2J",
    )  # fmt: skip
    path = Buffer([evil]).save(tmp_path / "rollout.json")
    printed = play(monkeypatch, capsys, "", "--replay", str(path))
    assert "a\\x1b[2J\n> \\x1b]0;title\\x07\nb\\r\\x9b1m\n" in printed
    assert all(char.isprintable() or char == "\n" for char in printed)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--episodes", "0"], "episodes must be an integer >= 1, got 0"),
        (["--task", "guess"], "unknown task 'guess'"),
        (["--split", "dev"], "'dev'"),
        (["--task-kwargs", "digit", "3"], "digit"),
        (["--replay", "no-such-file.jsonl"], "no-such-file.jsonl"),
        (["--replay", "x.jsonl", "--record", "y"], "--record or --replay"),
    ],
)
def test_settings_that_are_wrong(capsys, argv, says):
    assert main(["play", *argv]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_file_that_is_cut_off_is_named(capsys, tmp_path):
    path = tmp_path / "transcript_0.jsonl"
    path.write_text('{"format": "textenv.rollout", "schema_version": 3}\n{"actions": [')
    assert main(["play", "--replay", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_on_a_terminal(tmp_path):
    """A replay waits for Enter between turns; Ctrl-C in the middle of a game ends it."""
    row = {
        "observations": ["x", "x1a"], "actions": ["1", "2"], "rewards": [0.0, 1.0],
        "infos": [{}, {}], "final_observation": "x1a2b", "terminated": True, "truncated": False,
    }  # fmt: skip
    path = tmp_path / "transcript_0.jsonl"
    header = {"format": "textenv.rollout", "schema_version": 3}
    path.write_text(f"{json.dumps(header)}\n{json.dumps(row)}\n")

    def start(*argv):
        outer, inner = pty.openpty()
        # A process in the background of a script is started without Ctrl-C.
        code = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from textenv.algos.cli import main; sys.exit(main(sys.argv[1:]))"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code, "play", *argv], stdin=inner, stdout=inner, stderr=inner
        )
        os.close(inner)
        return child, outer

    def until(outer, text, meanwhile=lambda: None):
        shown, end = "", time.monotonic() + 60
        while text not in shown and time.monotonic() < end:
            if select.select([outer], [], [], 1)[0]:
                shown += os.read(outer, 4096).decode()
            else:
                meanwhile()
        assert text in shown
        return shown

    child, outer = start("--replay", str(path))
    assert "> 1" not in until(outer, "Enter")
    os.write(outer, b"\n")
    assert "> 2" not in until(outer, "Enter shows the next turn ")
    os.write(outer, b"\n")
    assert "total reward 1" in until(outer, "total reward 1")
    assert child.wait(60) == 0
    os.close(outer)

    child, outer = start("--seed", "3")
    until(outer, "> ")

    def interrupt():
        child.send_signal(signal.SIGINT)

    interrupt()
    # One that comes between the prompt and the wait for input is seen after the wait alone.
    until(outer, "0 of 5 episodes played", meanwhile=interrupt)
    assert child.wait(60) == 0
    os.close(outer)


@pytest.mark.parametrize(
    ("argv", "typed", "said", "actions"),
    [
        (["--env", "CartPole-v1"], b"\xff\n0\n", "expected an action from 0 to 1", [0]),
        ([], b"\xc3\n7\n", "action contains a lone surrogate", ["7"]),
    ],
)
def test_bytes_that_are_no_text_are_asked_for_again(
    monkeypatch, capsys, tmp_path, argv, typed, said, actions
):
    """As a terminal in another encoding sends them, to a Python that is strict about UTF-8."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), "utf-8", "strict"))
    assert main(["play", "--episodes", "1", "--record", str(tmp_path), *argv]) == 0
    printed = capsys.readouterr()
    assert printed.out.count(said) == 1 and printed.err == ""
    assert load_rollout(tmp_path / "transcript_0.jsonl").trajectories[0].actions == actions


def test_a_folder_to_replay_is_told_which_files_it_has(capsys, tmp_path):
    def refused(folder):
        assert main(["play", "--replay", str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error.strip()

    assert refused(tmp_path).endswith(
        f"{tmp_path} is a folder without recordings: --replay shows a file, such as the "
        "transcript_0.jsonl that --record writes or a rollout_... of a run"
    )
    files = [tmp_path / "rollouts" / f"rollout_{number}_x.json" for number in range(7)]
    files[0].parent.mkdir()
    for file in files:
        file.write_text("")
    (tmp_path / "config.toml").write_text("")
    listed = ", ".join(map(str, files[:5]))
    assert refused(tmp_path).endswith(
        f"{tmp_path} is a folder, and --replay shows one file: give one of {listed} and 2 more"
    )


def test_a_replay_of_no_episodes_says_so(monkeypatch, capsys, tmp_path):
    path = Buffer([]).save(tmp_path / "none.json")
    assert play(monkeypatch, capsys, "", "--replay", str(path)) == "none.json: no episodes\n"
