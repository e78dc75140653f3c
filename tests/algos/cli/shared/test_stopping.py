"""Signals that end a training after its step, or at once."""

import os
import signal
import threading

import pytest

from textenv.algos.cli.shared.stopping import SIGNALS, Stopped, StopSignals


def send(number):
    """Send this process a signal, and let Python's handler run."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_at_once(number, code):
    with StopSignals(), pytest.raises(Stopped, match=number.name) as stopped:
        send(number)
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert (stopped.value.signal, stopped.value.exit_code) == (number, code)


def test_the_first_waits_and_the_second_does_not(capfd):
    asked = []
    with StopSignals() as stops:
        with stops.deferring(lambda: asked.append("stop"), "the step is finished"):
            send(signal.SIGTERM)
            assert asked == ["stop"] and stops.requested.signal is signal.SIGTERM
            with pytest.raises(Stopped, match="SIGINT"):
                send(signal.SIGINT)
        with pytest.raises(Stopped):  # a step is waited for in the block alone
            send(signal.SIGTERM)
    assert asked == ["stop"]
    said = capfd.readouterr().err
    assert said == "\nSIGTERM: the step is finished; once more stops at once\n"


def test_nobody_has_to_read_what_it_says(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    kept = os.dup(2)
    os.dup2(writer, 2)
    try:
        with StopSignals() as stops, stops.deferring(lambda: None, "later"):
            send(signal.SIGHUP)
            assert stops.requested.exit_code == 129
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)


def test_afterwards_signals_do_what_they_did():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals():
        assert all(signal.getsignal(n) is not b for n, b in zip(SIGNALS, before))
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_what_was_ignored_stays_so():
    """As by nohup, and for what a shell starts in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_changes_nothing():
    found = []

    def look():
        with StopSignals():
            found.extend(signal.getsignal(number) for number in SIGNALS)

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == before
