"""Curves as a picture: what is drawn where."""

import sys

import numpy as np
import pytest

from textenv.algos.compare.plot import draw_panels, try_to_draw
from textenv.algos.compare.statistics import Curve
from textenv.errors import MissingDependencyError

X = np.array([0.0, 1.0, 2.0])
RISING = Curve(X, X + 1, X, X + 2)
FLAT = Curve(X[:2], np.array([3.0, 3.0]), np.array([2.5, 2.5]), np.array([3.5, 4.5]))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    return figures


@pytest.mark.parametrize("threshold", [None, 2.5])
def test_each_panel_has_its_curves_and_their_bands(tmp_path, drawn, threshold):
    panels = [("steps", {"a": RISING, "b": FLAT}), ("seconds", {"a": FLAT})]
    draw_panels(panels, "return", "a title", threshold, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    first, second = figure.axes
    lines = [line.get_xydata().tolist() for line in first.lines]
    curves = [[[0, 1], [1, 2], [2, 3]], [[0, 3], [1, 3]]]
    assert lines[:2] == curves and [line.get_label() for line in first.lines[:2]] == ["a", "b"]
    assert [line.get_xydata().tolist() for line in second.lines][:1] == curves[1:]
    assert len(lines) == 2 + (threshold is not None)
    if threshold is not None:
        assert {y for _, y in lines[2]} == {threshold}
    bands = [{tuple(v) for v in band.get_paths()[0].vertices} for band in first.collections]
    assert bands[0] >= {(0, 0), (2, 2), (0, 2), (2, 4)}
    assert bands[1] >= {(0, 2.5), (1, 2.5), (0, 3.5), (1, 4.5)}
    assert (first.get_xlabel(), second.get_xlabel()) == ("steps", "seconds")
    assert first.get_ylabel() == "return" and figure.get_suptitle() == "a title"
    # A name has one colour in all panels.
    assert first.lines[0].get_color() == second.lines[0].get_color() != first.lines[1].get_color()


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        draw_panels([("x", {})], "", "", None, tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def test_a_picture_that_fails_is_a_warning(tmp_path):
    def fail():
        raise ZeroDivisionError("of the picture")

    with pytest.warns(UserWarning, match="curves.png was not drawn: of the picture"):
        try_to_draw("curves.png", fail)


def test_without_matplotlib_the_warning_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.warns(UserWarning, match=r"curves.png was not drawn: .*matplotlib.*pip install"):
        try_to_draw("curves.png", lambda: None)


def test_names_in_a_picture_are_no_formulas(tmp_path):
    path = tmp_path / "curves.png"
    panels = [(r"$a$b$\foo$", {r"$x$y$\bar$": RISING})] * 2
    try_to_draw("it", lambda: draw_panels(panels, r"$\l$", r"$a$b$\foo$", None, path))
    assert path.read_bytes().startswith(b"\x89PNG")
