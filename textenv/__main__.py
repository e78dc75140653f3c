"""``python -m textenv COMMAND``: the command line, for an interpreter without its ``textenv``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run a command, as ``textenv`` does; returns its exit code."""
    # The one import upwards. The command line is in `textenv.algos`, and a package runs by
    # ``python -m`` only through a file of its own.
    from textenv.algos.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
