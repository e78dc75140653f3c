"""Recorded text on a terminal."""

import numpy as np
import pytest

from textenv.algos.cli.shared.escape import count, one_line, printable, say, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é中🙂", "plain é中🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\rb\x00\x7f", r"a\rb\x00\x7f"),
        ("\u202eturned", r"\u202eturned"),  # writes from right to left
    ],
)
def test_codes_of_a_terminal_are_written_out(text, expected):
    assert printable(text) == expected
    assert all(char.isprintable() or char in "\n\t" for char in printable(text))


def test_all_kinds_of_values():
    assert shown("a\nb\x1b") == "a\nb\\x1b"
    assert shown(np.float32(0.5)) == "0.5" and shown(np.int64(3)) == "3"
    assert shown(np.array([1.23456, 2.0])) == "[1.2346 2.    ]"
    assert "..." in shown(np.zeros(1000))
    assert shown({"a": 1, "b": "x\ny"}) == "a: 1\nb: x\ny"
    assert "\x1b" not in shown(("\x1b", 1))


def test_one_line_is_one_line():
    assert one_line("a\nb\tc") == r"a\nb\tc"
    assert one_line(np.zeros((2, 2))) == "[[0. 0.] [0. 0.]]"
    assert one_line({"a": "x\ny", "b": 2}) == "a: x y b: 2"


def test_one_is_one():
    assert [count(n, "episode") for n in (0, 1, 2)] == ["0 episodes", "1 episode", "2 episodes"]


def test_what_is_said_has_no_codes_and_no_markup(capsys):
    say("[red]a[/]\x1b[2J\nb")
    assert capsys.readouterr().out == "[red]a[/]\\x1b[2J\nb\n"
