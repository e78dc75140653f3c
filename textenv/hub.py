"""Finds the folder of a model or a tokenizer by its name, and downloads it if needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textenv.errors import DataError, MissingDependencyError, MissingFileError

ASSETS = Path(__file__).parent / "assets"


def find_folder(name: str, what: str, files: Sequence[str]) -> Path:
    """The local folder of a model or tokenizer, downloaded from the Hugging Face hub if needed.

    Args:
        name: ``"tiny-lm"`` (ships with this package), a folder, or the name of a model on the
            Hugging Face hub (``owner/model``), which is downloaded unless it is cached.
        what: ``"model"`` or ``"tokenizer"``, for error messages.
        files: patterns of the files to download.

    Raises:
        MissingFileError: if there is no such folder, and nothing can be downloaded.
        DataError: if the name is that of a file.
        MissingDependencyError: for a hub name, if the library that downloads is not installed.
    """
    if not name:
        raise MissingFileError(f"the name of the {what} is empty; expected a folder or a hub name")
    if (ASSETS / name / "config.json").is_file():
        return ASSETS / name
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"{what} {name} is a file; expected a folder or a hub name")
    # A hub name is "owner/model". Any other name that does not exist is a mistyped folder.
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        shipped = ", ".join(sorted(p.parent.name for p in ASSETS.glob("*/config.json")))
        raise MissingFileError(
            f"{what} {name!r} is not a folder, not a hub name (owner/model), "
            f"and not one that ships with textenv ({shipped})"
        )
    try:
        import huggingface_hub
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise MissingDependencyError("huggingface-hub", "tokenizers", f"{what} {name!r}") from error
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise MissingFileError(
            f"{what} {name!r} is not a local folder and could not be downloaded: {reason}"
        ) from error
