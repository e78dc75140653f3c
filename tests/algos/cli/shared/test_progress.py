"""How far an evaluation is, on a terminal and in a file."""

import io

import pytest
from rich.console import Console

from textenv.algos.cli.shared.progress import duration, evaluation_progress


def console(terminal):
    return Console(
        force_terminal=terminal, width=100, record=True, file=io.StringIO(), highlight=False
    )


def test_lines_with_the_time_left_now_and_then(clock):
    out = console(False)
    with evaluation_progress(out, "greedy answers") as on_progress:
        for done in range(100, 501, 100):
            clock(6.0)
            on_progress(done, 500)
    # After 12 and 24 s, at 0.06 s an example; the last batch says nothing.
    assert out.export_text().splitlines() == [
        "greedy answers: 200 of 500 examples, about 18 s left",
        "greedy answers: 400 of 500 examples, about 6 s left",
    ]


def test_a_short_one_says_nothing(clock):
    out = console(False)
    with evaluation_progress(out, "greedy answers") as on_progress:
        clock(9.0)
        on_progress(32, 500)
    assert out.export_text() == ""


def test_a_bar_on_a_terminal_that_is_gone_afterwards():
    out = console(True)
    with evaluation_progress(out, "sampled answers") as on_progress:
        on_progress(32, 500)
    shown = out.file.getvalue()
    assert "sampled answers" in shown and "32/500" in shown and "time left" in shown
    assert shown.rstrip().endswith("\x1b[2K")  # the line is cleared


def test_an_interrupt_leaves_the_bar_too():
    out = console(True)
    with pytest.raises(KeyboardInterrupt), evaluation_progress(out, "greedy answers"):
        raise KeyboardInterrupt
    out.print("back")
    assert out.file.getvalue().rstrip().endswith("back")
    assert "\x1b[?25h" in out.file.getvalue()  # the cursor is shown again


def test_without_a_console_there_is_nothing():
    with evaluation_progress(None, "greedy answers") as on_progress:
        assert on_progress is None


@pytest.mark.parametrize(
    ("seconds", "said"), [(42, "42 s"), (150, "2 minutes"), (7200, "2.0 hours")]
)
def test_times_in_words(seconds, said):
    assert duration(seconds) == said
