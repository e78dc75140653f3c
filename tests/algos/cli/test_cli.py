"""The command line as a whole: its commands, their help, and what is not installed."""

import errno
import io
import json
import os
import subprocess
import sys

import pytest

from textenv.algos import cli, load_rollout
from textenv.algos.cli import COMMANDS, main
from textenv.algos.config import read_toml


def test_unknown_command_and_help(capsys):
    assert main(["trian"]) == 2
    assert "train" in capsys.readouterr().err
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert all(command in usage for command in COMMANDS)


def test_every_command_has_help_a_seed_and_defaults(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert "--seed" in capsys.readouterr().out


def test_validate_and_envs(tmp_path, capsys, refused):
    problems = tmp_path / "problems.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(10) for b in range(10)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["validate", "--task", "countdown", "--examples", "20"]) == 0
    assert main(["validate", "--task", "guess_number"]) == 0  # prompts recur, numbers do not
    assert main(["validate", "--dataset", str(problems)]) == 0
    assert main(["envs"]) == 0
    assert "TextGen-v0" in capsys.readouterr().out
    problems.write_text('{"prompt": "a", "answer": "1"}\n{"prompt": "b"}\n')
    assert "row 2" in refused("validate", "--dataset", str(problems))


@pytest.mark.parametrize("missing", ["mlx", "mlx_lm", "tyro"])
def test_without_mlx_the_error_names_the_extra(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from textenv.algos.cli import main; sys.exit(main(['train']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    extra = "mlx" if sys.platform == "darwin" else "cpu"
    assert f"pip install -e '.[{extra}]'" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_reader_who_leaves_ends_a_command_quietly():
    for unbuffered in ("", "1"):
        command = subprocess.Popen(
            [sys.executable, "-m", "textenv", "envs"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
        command.stdout.close()
        assert command.stderr.read() == b"" and command.wait() == 141


def test_a_broken_pipe_of_another_kind_is_not_hidden(monkeypatch):
    def run(*_):
        raise BrokenPipeError("a worker")

    monkeypatch.setattr(cli, "_run", run)
    with pytest.raises(BrokenPipeError, match="a worker"):
        main(["envs"])


def test_a_file_that_cannot_be_used_is_one_line(refused, monkeypatch):
    def run(*_):
        open("/no/such\x1b")  # noqa: SIM115

    monkeypatch.setattr(cli, "_run", run)
    assert refused("envs") == "textenv envs: /no/such\\x1b: No such file or directory\n"


def test_a_full_disk_is_one_line_though_it_names_no_file(refused, monkeypatch):
    def run(number):
        def fail(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(cli, "_run", fail)

    run(errno.ENOSPC)
    assert refused("envs") == "textenv envs: No space left on device\n"
    run(errno.EINVAL)
    with pytest.raises(OSError, match="Invalid argument"):
        cli.main(["envs"])


OWN = """
from dataclasses import dataclass, field
from textenv.algos.strategies import Generation, Selection
from textenv.tasks import GeneratedTask


@dataclass(frozen=True)
class Sums(GeneratedTask):
    "Sums of two digits, as tiny-lm knows them."

    name = "own sums"
    most: int = 99
    split: str = "train"

    def generate(self, rng):
        a, b = rng.randint(10, self.most), rng.randint(10, self.most)
        return {"prompt": f"{a}+{b}=", "answer": str(a + b)}

    def score(self, example, completion):
        return float(completion == example["answer"])


def digits(prompt, completion, example):
    return {"all": completion.isdigit(), "first": completion[:1].isdigit()}


@dataclass
class Shortest(Selection):
    keep: int = 4

    def select(self, groups):
        return [sorted(group, key=lambda t: len(t.token_ids))[: self.keep] for group in groups]


@dataclass
class Counting(Generation):
    played: int = field(default=0, init=False)

    def play(self, player, starts):
        self.played += len(starts)
        return player.chains(starts)


number = 3
"""


@pytest.fixture
def own(tmp_path):
    """A file of parts of one's own; ``own(name)`` is how the command line calls one of them."""
    (tmp_path / "own.py").write_text(OWN)
    return lambda name: f"{tmp_path / 'own.py'}:{name}"


TINY = ["--num-prompts", "2", "--num-generations", "4", "--max-completion-length", "4"]


def test_parts_of_a_file_train_here_and_in_workers_and_the_config_repeats_it(own, tmp_path, capsys):
    argv = ["--task", own("Sums"), "--task-kwargs", "most", "50", "--eval-examples", "4"]
    argv += ["--reward", "correct=2", own("digits=0.5"), *TINY, "--max-steps", "1"]
    argv += ["--strategy", own("Shortest:keep=3"), own("Counting")]
    config = ["--config", str(tmp_path / "a" / "config.toml")]
    assert main(["train", *argv, "--out", str(tmp_path / "a")]) == 0
    assert main(["train", *config, "--out", str(tmp_path / "b")]) == 0
    assert main(["train", *config, "--num-workers", "2", "--out", str(tmp_path / "c")]) == 0
    assert "Sums" in capsys.readouterr().out
    played = []
    for out in (tmp_path / name for name in "abc"):
        [file] = (out / "rollouts").iterdir()
        played.append([(t.prompt, t.actions, t.rewards) for t in load_rollout(file)])
    assert played[0] == played[1] == played[2]
    assert len(played[0]) == 6  # of two groups of four, the three shortest each
    metrics = json.loads((tmp_path / "a" / "metrics.jsonl").read_text())
    shares = {name: metrics[f"rewards/{name}/mean"] for name in ("correct", "all", "first")}
    total = 2 * shares["correct"] + 0.5 * (shares["all"] + shares["first"])
    assert metrics["reward"] == pytest.approx(total)
    saved = read_toml(tmp_path / "a" / "config.toml")
    assert saved["text"]["reward"] == ["correct=2", own("digits=0.5")]
    assert saved["text"]["task"] == own("Sums")
    assert saved["grpo"]["strategy"] == [own("Shortest:keep=3"), own("Counting")]


def test_parts_of_a_file_in_the_other_commands(own, tmp_path, capsys, monkeypatch):
    task = ["--task", own("Sums"), "--reward", own("digits")]
    assert main(["validate", *task[:2], "--examples", "20"]) == 0
    assert "20 train and 20 test examples score full marks" in capsys.readouterr().out
    assert main(["eval", *task, "--examples", "4", "--max-completion-length", "4"]) == 0
    assert "(4 test examples)" in capsys.readouterr().out
    out = tmp_path / "rollouts"
    argv = ["--strategy", own("Shortest:keep=2"), "--num-generations", "4", "--n-steps", "8"]
    assert main(["rollout", *task, *argv, "--out", str(out)]) == 0
    assert "exported 4 transitions" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("42\n"))
    assert main(["play", *task, "--episodes", "1"]) == 0
    assert "own sums, example" in (told := capsys.readouterr().out) and "reward 2" in told
    argv = ["--agents", "random", "--seeds", "1", "--total-timesteps", "8", "--eval-episodes", "2"]
    argv += ["--env", "TextGen-v0", "--choices", "1", "2", "--out", str(tmp_path / "compared")]
    assert main(["compare", *task, *argv]) == 0
    argv = ["compare", "--strategies", "plain", own("Shortest:keep=2+num_iterations=2"), *task]
    argv += ["--tokens", "40", "--seeds", "1", "--learning-rates", "1e-4", "--eval-examples", "2"]
    assert main([*argv, *TINY, "--out", str(tmp_path / "strategies")]) == 0
    argv = ["--algo", "ppo", *task, "--total-timesteps", "16", "--n-steps", "8", "--batch-size"]
    argv += ["4", "--n-epochs", "1", "--eval-examples", "2", "--max-completion-length", "4"]
    assert main(["train", *argv, "--out", str(tmp_path / "ppo")]) == 0


def test_code_that_rollouts_name_is_run_only_if_the_user_names_it(own, tmp_path, capsys):
    out = tmp_path / "rollouts"
    argv = ["--task", own("Sums"), "--n-steps", "64", "--num-generations", "8", "--out", str(out)]
    assert main(["rollout", *argv]) == 0
    capsys.readouterr()
    offline = ["train", "--from-rollouts", str(out), "--eval-examples", "3", "--epochs", "1"]
    assert main([*offline, "--out", str(tmp_path / "a")]) == 0
    told = capsys.readouterr().out
    assert "is code that the rollouts name, which is not run: --task names it" in told
    assert "before: not evaluated" in told
    argv = ["--task", own("Sums"), "--out", str(tmp_path / "b")]
    assert main([*offline, *argv]) == 0
    assert "on 3 test examples" in capsys.readouterr().out
    config = ["--config", str(tmp_path / "b" / "config.toml")]
    assert main(["train", *config, "--out", str(tmp_path / "c")]) == 0
    assert "on 3 test examples" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "rollout", "eval", "validate", "play", "compare"])
def test_what_is_wrong_with_a_part_of_a_file_is_one_line(own, refused, command, tmp_path):
    def told(*argv):
        return refused(command, *argv, *(() if command != "compare" else ("--env", "TextGen-v0")))

    missing = f"{tmp_path / 'none.py'}:Sums"
    assert f"{missing}: {tmp_path / 'none.py'} is not a file" in told("--task", missing)
    assert "has no task 'Sum'; it has Sums, digits" in told("--task", own("Sum"))
    assert "is no task: expected a class" in told("--task", own("Shortest"))
    if command != "validate":  # which makes the rewards of datasets alone
        assert "has no function 'digit'" in told("--reward", own("digit"))
        assert "has no function 'number': it is of type int" in told("--reward", own("number"))
        assert "weight must be a finite number, got 'x'" in told("--reward", own("digits=x"))
    if command in ("train", "rollout"):
        text = () if command == "train" else ("--task", "sort")
        assert "has no strategy part 'Short'" in told(*text, "--strategy", own("Short"))
        assert "must derive from one of Prompts" in told(*text, "--strategy", own("Sums"))
        assert "unknown setting 'kep'" in told(*text, "--strategy", own("Shortest:kep=2"))
