"""The process that loads changed files, and says of each what was wrong with how it was loaded.

``python -m tests.fuzzing.child '[["TARGET", FIRST, COUNT]]'`` prints a line of JSON before each
input, and one for each fault. The process that reads them notices if this one hangs or dies.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzzing.mutations import mutate
from textenv.errors import TextEnvError

SPARE = 64 * 2**20
"""Bytes that loading may take beside ten times the bytes of the files."""
_MOST_SECONDS = 5
_MOST_ADDRESSES = 4 * 2**30  # bytes; what asks for more gets a MemoryError

Load = Callable[[Path], Any]
"""Loads files; returns True if it was to write beside them."""
Fix = Callable[[random.Random, Path], None]


def check(load: Load, folder: Path) -> str | None:
    """Load a folder's files; says what was wrong with it, or None.

    Args:
        load: raises errors of this package for files that are not valid, and nothing else.
        folder: the files, which loading must leave as they are.
    """
    before, size = _content(folder), sum(f.stat().st_size for f in _files(folder))
    _reset_peak()
    used, started = _status("VmRSS"), time.monotonic()
    try:
        may_write = load(folder) is True
    except TextEnvError as error:
        if not str(error).strip():
            return f"{type(error).__name__} says nothing"
        may_write = False
    except BaseException as error:  # whatever it is, it is what this is looking for
        lines = traceback.format_exception(error)
        return "".join(lines)[-3000:]
    seconds, grown = time.monotonic() - started, _status("VmHWM") - used
    if seconds > _MOST_SECONDS:
        return f"took {seconds:.1f} s"
    if grown > SPARE + 10 * size:
        return f"took {grown} bytes of memory for files of {size} bytes"
    after = _content(folder)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if changed and not may_write:
        return f"changed {', '.join(changed)}"
    return None


def change(seed: int, name: str, base: Path, folder: Path, fix: Fix | None) -> str:
    """Make a folder like another one in which a file is changed; returns the file's name.

    Args:
        seed: decides what is changed; the same one gives the same files.
        name: of the target, a part of the seed.
        base: the valid files.
        folder: the folder to make.
        fix: what else must change with a file, such as a hash.
    """
    rng = random.Random(f"{name} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    path = rng.choice(_files(folder))
    path.write_bytes(mutate(rng, path.name, path.read_bytes()))
    if fix is not None:
        fix(rng, folder)
    return str(path.relative_to(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _content(folder: Path) -> dict[str, Any]:
    """What a folder holds, hidden files too."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


def _status(name: str) -> int:
    """Bytes of memory of this process, as Linux counts them; 0 on other systems."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(x.split()[1]) * 1024 for x in text.splitlines() if x.startswith(name + ":"))


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # another system, or one that forbids it
        Path("/proc/self/clear_refs").write_text("5")


def _limit_addresses(most: int | None) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    # Other systems than Linux do not keep such a limit.
    if sys.platform == "linux" and hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (hard if most is None else most, hard))


def main(jobs: list[tuple[str, int, int]]) -> None:
    """Load inputs: of each target so many, from a first seed on."""
    from tests.fuzzing.targets import TARGETS

    answers = os.fdopen(os.dup(1), "w")

    def say(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    errors = os.dup(2)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as after:
        after.callback(os.dup2, errors, 2)  # to say why this process ends, if it does
        quiet = os.open(Path(scratch, "printed"), os.O_RDWR | os.O_CREAT)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        for name, first, count in jobs:
            target = TARGETS[name]
            place = Path(scratch, name)
            base, folder = place / "base", place / "it"
            base.mkdir(parents=True)
            os.chdir(place)
            _limit_addresses(None)
            say(target=name, seed=None, file="the valid files")
            try:
                target.make(base)
            except BaseException:
                say(target=name, seed=None, file="none", fault=traceback.format_exc())
                continue
            shutil.copytree(base, folder)
            for _ in range(2):  # the first time modules are imported
                fault = check(target.load, folder)
            if fault:
                say(target=name, seed=None, file="the valid files", fault=fault)
            _limit_addresses(_status("VmSize") + _MOST_ADDRESSES)
            gc.collect()
            gc.freeze()  # what collections need not look at again
            for seed in range(first, first + count):
                file = change(seed, name, base, folder, target.fix)
                say(target=name, seed=seed, file=file)
                if fault := check(target.load, folder):
                    say(target=name, seed=seed, file=file, fault=fault)
                os.ftruncate(quiet, 0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
