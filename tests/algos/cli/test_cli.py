"""The command line as a whole: its commands, their help, and what is not installed."""

import json
import os
import subprocess
import sys

import pytest

from textenv.algos import cli
from textenv.algos.cli import COMMANDS, main


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
