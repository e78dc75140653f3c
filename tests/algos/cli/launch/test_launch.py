"""The options of `textenv launch`, and how it goes on after a failure."""

import pytest

from textenv.algos.cli import launch
from textenv.algos.cli.launch import Args, Hosts, parse
from textenv.algos.cli.launch.processes import Ended
from textenv.errors import ConfigError

TRAIN = ("-m", "textenv.algos.cli.launch", "train")


def test_options():
    assert parse(["train", "--seed", "3"]) == Args((*TRAIN, "--seed", "3"), None, (0, 1), 0)
    assert parse(["-n", "4", "--", "train"]) == Args(TRAIN, None, (0, 1, 2, 3), 0)
    assert parse(["--hosts", "10.0.0.1,10.0.0.2", "--rank", "1", "--restarts", "2", "train"]) == (
        Args(TRAIN, Hosts((("10.0.0.1", 29400), ("10.0.0.2", 29400))), (1,), 2)
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "expected a command"),
        (["eval"], "'eval'"),
        (["-n", "0", "train"], "--ranks must be between 1 and 1024, got 0"),
        (["--restarts", "-1", "train"], "got -1"),
        (["--rank", "0", "train"], "--rank is for --hosts"),
        (["--hosts", "10.0.0.1,10.0.0.2", "train"], "0 to 1, got None"),
        (["--hosts", "10.0.0.1,10.0.0.2", "--rank", "2", "train"], "0 to 1, got 2"),
        (["--hosts", "10.0.0.1", "-n", "2", "train"], "--ranks is for this machine"),
    ],
)
def test_what_is_wrong_is_named(options, said):
    with pytest.raises(ConfigError, match=said):
        parse(options)


def test_the_first_rank_goes_on_from_the_last_checkpoint(tmp_path, capsys):
    def again(*options, ranks=(0, 1), code=1):
        args = Args((*TRAIN, *options), None, ranks)
        return launch._can_start_again(args, Ended(code)), args.command[3:]

    out = str(tmp_path / "run")
    assert again("--out", out) == (False, ("--out", out))
    assert "has no checkpoint" in capsys.readouterr().err
    (tmp_path / "run" / "checkpoints" / "step-00000002").mkdir(parents=True)
    assert again("--out", out, "--seed", "3", "--config", "c.toml") == (
        (True, ("--seed", "3", "--resume", out))
    )
    assert again(f"--out={out}") == (True, ("--resume", out))
    assert again("--resume", out) == (True, ("--resume", out))
    assert again("--out", out, ranks=(1,)) == (True, ("--out", out))  # another one's folder
    assert again("--out", out, code=2) == (False, ("--out", out))
    assert again() == (False, ())
    assert "needs --out" in capsys.readouterr().err
