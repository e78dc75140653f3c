"""Put the chart library of the page of a run into the package: uPlot, from npm.

    python examples/make_page_assets.py            # writes the files
    python examples/make_page_assets.py --check    # fails if they are not those of this version

It needs ``npm``, but users of the page do not: the files are in the package, unchanged. For another
version, change the three constants below.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "algos" / "cli" / "page" / "assets"
PACKAGE = "uplot@1.6.32"
FILES = {
    "uPlot.iife.min.js": (
        "package/dist/uPlot.iife.min.js",
        "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    ),
    "uPlot.min.css": (
        "package/dist/uPlot.min.css",
        "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    ),
    "uPlot.LICENSE": (
        "package/LICENSE",
        "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    ),
}
"""For each file its place in the package, and its SHA-256."""


def fetch() -> dict[str, bytes]:
    """The files, from npm, which checks the package against the registry's own hash."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", PACKAGE]
        name = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        with tarfile.open(Path(folder) / name.stdout.strip()) as archive:
            opened = {file: archive.extractfile(place) for file, (place, _) in FILES.items()}
            return {file: each.read() for file, each in opened.items() if each is not None}


def faults(files: dict[str, bytes]) -> list[str]:
    """What is missing, or is not what its hash says."""
    return [
        f"{name} is not the file of {PACKAGE}: run examples/make_page_assets.py"
        for name, (_, digest) in FILES.items()
        if hashlib.sha256(files.get(name, b"")).hexdigest() != digest
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and compare")
    check = parser.parse_args().check
    there = {name: FOLDER / name for name in FILES if (FOLDER / name).is_file()}
    files = {name: path.read_bytes() for name, path in there.items()} if check else fetch()
    if wrong := faults(files):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    if not check:
        for name, content in files.items():
            (FOLDER / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
