"""The command line, ``textenv COMMAND``.

A new command is one module in this folder, and one line in `COMMANDS`.
"""

from __future__ import annotations

import errno
import importlib
import os
import select
import sys
from collections.abc import Sequence
from typing import TextIO

from textenv.algos.cli.shared.escape import say
from textenv.algos.config import check_types
from textenv.algos.runtime.backend import EXTRA
from textenv.errors import MissingDependencyError, TextEnvError

# command -> what it does; its module has ``Args``, a dataclass, and ``run(args)``.
COMMANDS = {
    "train": "train by GRPO, PPO or given answers (with no argument: GRPO on sums, with tiny-lm)",
    "launch": "train on several CPUs or machines at once",
    "rollout": "collect rollouts and save them as files, without training",
    "eval": "evaluate a model on test examples, or a control policy in episodes",
    "fuse": "merge adapters into the model that they were trained on",
    "compare": "train agents side by side: same environment, seeds and evaluation for all",
    "bench": "measure speed and memory on this machine, beside other libraries",
    "envs": "list the environments, tasks and reward functions",
    "play": "play yourself, alone or against a policy, or watch recorded episodes",
    "view": "show transcripts, rollouts and runs, in the terminal or as a page",
    "plot": "draw a metric of runs and comparisons, as PNG and SVG",
    "validate": "check that the answers of a task's oracle score full marks",
    "doctor": "show versions, device, BLAS and its speed, compiler",
}

# What the system says of a disk when something is written, which names no file then.
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the command and its options; None takes those of the process.

    Returns:
        The exit code: 0; 2 after an error that the user can fix; 75 if another rank of the
        training has ended; 130 after Ctrl-C, and in general
        128 and the number of the signal that ended the command.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        say(f"textenv: unknown command {name!r}; known: {', '.join(COMMANDS)}", sys.stderr)
        return 2
    try:
        code = _run(name, rest)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _is_closed(sys.stdout):  # another pipe: a bug of ours
            raise
        return 141  # as of a program that SIGPIPE ended
    except TextEnvError as error:
        say(f"textenv {name}: {' '.join(str(error).split())}", sys.stderr)
        return getattr(error, "exit_code", 2)
    except OSError as error:
        if error.filename is None and error.errno not in _OF_DISKS:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        say(f"textenv {name}: {place}{error.strerror}", sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"textenv {name}: interrupted", file=sys.stderr)
        return getattr(error, "exit_code", 130)


def _run(name: str, argv: list[str]) -> int:
    try:
        import tyro
    except ImportError as error:
        raise MissingDependencyError("tyro", EXTRA, "The command line") from error
    command = importlib.import_module(f"textenv.algos.cli.{name}")
    if hasattr(command, "parse"):
        args = command.parse(argv)
    else:
        prog, description = f"textenv {name}", COMMANDS[name]
        args = tyro.cli(command.Args, args=argv, prog=prog, description=description)
    check_types(args)  # the settings that are in no config of their own
    return command.run(args)


def _is_closed(stream: TextIO) -> bool:
    """Whether nobody reads a stream any longer; what waits in it is then thrown away."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # not a file of the system
        return False
    poll = select.poll()
    poll.register(number, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)  # for the flush at the exit
    return True


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: textenv COMMAND [options]", "", *lines, "", "textenv COMMAND --help says more."]
    )
