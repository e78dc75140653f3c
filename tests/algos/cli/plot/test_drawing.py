"""The picture: what is drawn where, and files that are whole and equal for equal curves."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from textenv.algos.cli.plot.curves import Line
from textenv.algos.cli.plot.drawing import draw, write_pictures
from textenv.algos.compare.plot import COLOURS, load_matplotlib
from textenv.errors import MissingDependencyError, StorageError

X = np.array([0.0, 1.0, 2.0])
BANDED = Line("a", X, X + 1, X, X + 2, (X, X - 1), band="95% interval")
BARE = Line("b <&> $x$ \x00", X, 2 * X)


@pytest.fixture(autouse=True)
def matplotlib():
    load_matplotlib()


def test_curves_bands_and_faint_points():
    figure = draw([BANDED, BARE], "tokens", "eval/accuracy", "a title")
    (axes,) = figure.axes
    faint, first, second = (line.get_xydata().tolist() for line in axes.lines)
    assert faint == [[0, -1], [1, 0], [2, 1]]
    assert first == [[0, 1], [1, 2], [2, 3]] and second == [[0, 0], [1, 2], [2, 4]]
    band = {tuple(v) for v in axes.collections[0].get_paths()[0].vertices}
    assert band >= {(0, 0), (2, 2), (0, 2), (2, 4)} and len(axes.collections) == 1
    assert axes.get_xlabel() == "generated tokens"
    assert axes.get_ylabel() == "accuracy on held-out examples"
    assert axes.get_title() == "a title" and axes.texts[0].get_text() == "95% interval"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "a",
        r"b <&> $x$ \x00",
    ]
    assert axes.lines[1].get_color() == axes.lines[0].get_color() != axes.lines[2].get_color()


def contrast(colour, background=1.0):
    """The contrast of WCAG 2 of a colour with white."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (background + 0.05) / (light + 0.05)


# Viénot, Brettel and Mollon 1999: linear RGB as people without one kind of cones see it.
BLIND = {
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


@pytest.mark.parametrize("kind", BLIND)
def test_colours_that_colour_blind_readers_can_tell_apart(kind):
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.array(BLIND[kind]).T).clip(0, 1) ** (1 / 2.4)
    between = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert between[~np.eye(len(COLOURS), dtype=bool)].min() > 0.12  # tab:green, tab:red: 0.05
    assert all(contrast(colour) > 2 for colour in COLOURS)


def test_more_curves_than_colours_differ_in_their_dashes():
    lines = [Line(str(i), X, X + i) for i in range(len(COLOURS) + 1)]
    (axes,) = draw(lines, "steps", "loss").figure.axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == len(lines)


def test_files_are_whole_and_the_same_for_the_same_curves(tmp_path):
    png, svg = tmp_path / "new" / "a.png", tmp_path / "new" / "a.svg"
    assert write_pictures([BANDED, BARE], "x", "y", "", [png, svg]) == [png, svg]
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ElementTree.fromstring(svg.read_bytes()).tag.endswith("svg")
    first = png.read_bytes(), svg.read_bytes()
    write_pictures([BANDED, BARE], "x", "y", "", [png, svg])
    assert (png.read_bytes(), svg.read_bytes()) == first
    assert sorted(path.name for path in png.parent.iterdir()) == ["a.png", "a.svg"]


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"a.png cannot be written to"):
        write_pictures([BARE], "x", "y", "", [tmp_path / "file" / "a.png"])


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        write_pictures([BARE], "x", "y", "", [tmp_path / "a.png"])
    assert not list(tmp_path.iterdir())
