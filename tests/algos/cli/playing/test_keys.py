"""On a terminal a key needs no Enter, and the terminal is left as it was."""

import os
import pty
import select
import subprocess
import sys
import termios
import time


def test_keys_without_enter():
    """Two keys, then Ctrl-D; a process of its own, since a terminal is what is tested."""
    outer, inner = pty.openpty()
    before = termios.tcgetattr(inner)
    argv = [sys.executable, "-m", "textenv", "play", "--env", "CartPole-v1"]
    child = subprocess.Popen(argv, stdin=inner, stdout=inner, stderr=inner)

    unread = ""

    def until(text):
        nonlocal unread
        end = time.monotonic() + 60
        while text not in unread and time.monotonic() < end:
            if select.select([outer], [], [], 1)[0]:
                unread += os.read(outer, 4096).decode()
        shown, found, unread = unread.partition(text)
        assert found, shown
        return shown

    until("> ")
    os.write(outer, b"1")
    assert until("1 so far").startswith("1\r\n")  # the key is shown once
    until("> ")
    os.write(outer, b"0")
    until("2 so far")
    until("> ")
    os.write(outer, b"\x04")
    until("0 of 5 episodes played")
    assert child.wait(60) == 0
    assert termios.tcgetattr(inner)[3] == before[3]
    os.close(outer)
    os.close(inner)
