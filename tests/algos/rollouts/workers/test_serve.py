"""The notes that a worker leaves of what it scores."""

from __future__ import annotations

import tempfile

from textenv.algos.episodes.scoring import Scored
from textenv.algos.rollouts.workers.serve import Notes


def test_notes():
    with tempfile.TemporaryFile() as file:
        notes = Notes(file.fileno())
        assert notes.read() is None
        for scored in [
            Scored(2**63, "a prompt", "x" * 10_000),
            Scored(None, None, "short \ud800"),  # no rest of the longer one stays
            None,
            Scored(1, "again", ""),
        ]:
            notes.write(scored)
            assert notes.read() == scored
