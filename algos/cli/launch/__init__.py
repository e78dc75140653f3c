"""textenv launch: starts the processes of one training on several CPUs or machines."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from textenv.algos.cli.launch.machines import Hosts, Machines
from textenv.algos.cli.launch.processes import Attempt, Ended
from textenv.algos.cli.shared.escape import say
from textenv.algos.cli.shared.stopping import SIGNALS
from textenv.algos.storage.checkpoints.store import CHECKPOINTS, checkpoints
from textenv.errors import ConfigError

_USAGE = """textenv launch [-n RANKS | --hosts A,B,... --rank RANK] [--restarts N] COMMAND ...

Start the processes of one training, its ranks: each plays a share of every rollout and computes a
share of every gradient. If one of them fails, all leave within two seconds, and the exit code is
that of the one that failed."""
_RANK = "textenv.algos.cli.launch"  # the module that a rank runs
_COMMAND = """train and its options, such as --seed 3; or a file of Python, and its arguments. Give
all machines the same."""


@dataclass
class Args:
    """What to start, and where."""

    command: tuple[str, ...]
    """Arguments of Python: a file or a module, and what it is given."""
    hosts: Hosts | None
    """The addresses of all ranks; None: all are on this machine."""
    ranks: tuple[int, ...]
    """Those to start on this machine."""
    restarts: int = 0
    """How often all ranks are started again."""


def parse(argv: Sequence[str]) -> Args:
    """Parse the options.

    Raises:
        ConfigError: for hosts without a rank, a rank that is no host's, or no command.
    """
    parser = argparse.ArgumentParser(
        "textenv launch",
        usage=_USAGE.partition("\n")[0],
        description=_USAGE.partition("\n\n")[2],
        allow_abbrev=False,
    )
    parser.add_argument("--ranks", "-n", type=int, help="how many ranks, on this machine (2)")
    parser.add_argument(
        "--hosts", help="the addresses of all machines, IP or IP:PORT, first that of rank 0"
    )
    parser.add_argument("--rank", type=int, help="with --hosts: which of them this machine is")
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        help="after a failure, start again so often, from the last checkpoint (0)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help=_COMMAND)
    given = parser.parse_args(list(argv))
    if given.restarts < 0:
        raise ConfigError(f"--restarts must be at least 0, got {given.restarts}")
    command = tuple(given.command[1:] if given.command[:1] == ["--"] else given.command)
    if not command:
        raise ConfigError("expected a command to start, such as: textenv launch -n 2 train")
    if command[0] == "train":
        command = ("-m", _RANK, *command)
    elif not Path(command[0]).is_file():
        raise ConfigError(f"expected train or a file of Python to start, got {command[0]!r:.80}")
    if given.hosts is None:
        if given.rank is not None:
            raise ConfigError("--rank is for --hosts")
        count = 2 if given.ranks is None else given.ranks
        if not 1 <= count <= 1024:
            raise ConfigError(f"--ranks must be between 1 and 1024, got {count}")
        return Args(command, None, tuple(range(count)), given.restarts)
    if given.ranks is not None:
        raise ConfigError("--ranks is for this machine alone, and --hosts names several")
    hosts = Hosts.parse(given.hosts)
    if given.rank is None or not 0 <= given.rank < len(hosts):
        raise ConfigError(
            f"--hosts has {len(hosts)} addresses: --rank must say which of them this machine is, "
            f"0 to {len(hosts) - 1}, got {given.rank}"
        )
    return Args(command, hosts, (given.rank,), given.restarts)


def run(args: Args) -> int:
    """Start the ranks, wait for them, and start them again if they fail and may be.

    Returns:
        The exit code: 0 if all ranks ended with 0, or that of the first one that failed; 128 and
        the number of the signal, if one ended it.
    """
    for left in range(args.restarts, -1, -1):
        hosts = args.hosts or Hosts.local(len(args.ranks))
        with Machines(hosts, args.ranks) as machines, _signals() as stopped:
            ended = Attempt(args.command, hosts, args.ranks, machines, stopped).run()
        if ended.code == 0 or stopped:
            break
        say(f"textenv launch: {ended.reason}", sys.stderr)
        if not left or not _can_start_again(args, ended):
            break
        say(f"textenv launch: starting again, {left - 1} more left", sys.stderr)
    return ended.code


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A block in which signals to stop are only noted, in the list that it is given."""
    noted: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: noted.append(number)) for number in SIGNALS
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _can_start_again(args: Args, ended: Ended) -> bool:
    """Let the first rank go on from the run's last checkpoint."""
    if ended.code == 2:  # a wrong setting, which stays wrong
        return False
    if 0 not in args.ranks or _RANK not in args.command:
        return True
    options = list(args.command)
    out = _take(options, "--out")
    if out is None:
        if "--resume" in options:
            return True
        say("textenv launch: to start again, the command needs --out", sys.stderr)
        return False
    if not checkpoints(Path(out) / CHECKPOINTS):
        say(f"textenv launch: {out} has no checkpoint to start again from", sys.stderr)
        return False
    _take(options, "--config")
    args.command = (*options, "--resume", out)
    return True


def _take(options: list[str], name: str) -> str | None:
    """Take an option and its value out of a command line."""
    for i, option in enumerate(options):
        if option == name and i + 1 < len(options):
            value = options[i + 1]
            del options[i : i + 2]
            return value
        if option.startswith(f"{name}="):
            del options[i]
            return option.partition("=")[2]
    return None
