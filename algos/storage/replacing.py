"""Replaces a file or a saved model, without losing the old one or anything else on the way."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from textenv.errors import ConfigError, StorageError

_STAGING = ".saving-"
_OF_MLX = "[write]"  # what MLX's RuntimeError for a full disk begins with
_SHOWN = 5  # names in an error message


def write_whole(path: Path, content: str | Callable[[Path], object]) -> None:
    """Write a file, which appears complete; one that is there is replaced.

    If the writing fails or is interrupted, the old file stays, and nothing of the new one. A link
    is replaced; nothing is written through it.

    Args:
        path: the file.
        content: its text, or what writes it to the path that it is given, which has the same name.

    Raises:
        OSError: if it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=path.parent) as folder:
        staged = Path(folder, path.name)
        if isinstance(content, str):
            staged.write_text(content, encoding="utf-8")
        else:
            content(staged)
        os.replace(staged, path)


@contextmanager
def replacing(folder: str | Path, own: Sequence[str], keep: Sequence[str] = ()) -> Iterator[Path]:
    """A new folder to write a model's files into, which take their places when the block ends.

    A folder that does not exist yet appears whole. In one that exists, all files that belong to the
    old model give way to the new ones. If the block fails, everything stays as it was.

    Args:
        folder: where the model is to be.
        own: patterns of the names of all files that such a model may have.
        keep: patterns of names that may be there too, and stay as they are.

    Raises:
        ConfigError: if the folder is a file, or holds anything else; nothing is changed.
        StorageError: if MLX cannot write, as on a full disk; otherwise an OSError says so.
    """
    place = Path(os.path.realpath(folder))
    others = sorted(name for name in _names(place) if not _matches(name, (*own, *keep)))
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise ConfigError(
            f"a model cannot be saved to {folder}: it holds {', '.join(others[:_SHOWN])}{more}, "
            "which are no files of such a model and would be mixed with it; choose a new folder, "
            "an empty one, or one that a model was saved to"
        )
    new = not place.exists()
    place.parent.mkdir(parents=True, exist_ok=True)
    # In the same file system, so that files are moved and not copied.
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=place.parent if new else place) as inside:
        staged, old = Path(inside) / "new", Path(inside) / "old"
        staged.mkdir()
        try:
            yield staged
        except RuntimeError as error:
            if not str(error).startswith(_OF_MLX):
                raise
            raise StorageError(f"{folder} cannot be written to: {error}") from error
        if new:
            os.rename(staged, place)
        else:
            old.mkdir()
            _exchange(place, staged, old, own)


def _names(place: Path) -> list[str]:
    """The names in a folder, but for what a save that was killed left there; none if it is new."""
    if place.exists() and not place.is_dir():
        raise ConfigError(f"a model is saved to a folder, and {place} is a file")
    if not place.exists():
        return []
    return [path.name for path in place.iterdir() if not path.name.startswith(_STAGING)]


def _matches(name: str, own: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in own)


def _exchange(place: Path, staged: Path, old: Path, own: Sequence[str]) -> None:
    """Move a folder's own files to ``old`` and those of ``staged`` to it, or leave all in place."""
    moves = [(place / name, old / name) for name in _names(place) if _matches(name, own)]
    moves += [(path, place / path.name) for path in staged.iterdir()]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            os.rename(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.rename(target, source)
        raise
