"""What workers print, line by line."""

from __future__ import annotations

import multiprocessing
import os

from textenv.algos.rollouts.workers.local import Output


def test_lines_have_the_name_before_them_however_they_come(capsys):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    output = Output(ours, "worker 3")
    for piece in [b"one\ntw", b"o\n\nthree", b" and \xff\nlast"]:
        os.write(theirs.fileno(), piece)
    theirs.close()
    output.end()
    lines = ["one", "two", "", "three and \\xff", "last"]
    assert capsys.readouterr().err == "".join(f"[worker 3] {line}\n" for line in lines)
    assert output.last() == "\n".join(lines)


def test_a_line_without_end_is_passed_on_in_pieces(capsys):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    output = Output(ours, "w")
    for _ in range(40):
        os.write(theirs.fileno(), b"x" * 4096)
    theirs.close()
    output.end()
    pieces = capsys.readouterr().err.splitlines()
    assert len(pieces) > 1 and all(len(piece) < 2**17 + 10 for piece in pieces)
    assert sum(piece.removeprefix("[w] ").count("x") for piece in pieces) == 40 * 4096
