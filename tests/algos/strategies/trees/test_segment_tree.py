"""Trees of fixed segments: chains where nothing branches, and paths that stop."""

from __future__ import annotations

from tests.algos.strategies.trees.shared import collect


def test_segments_that_are_not_branched_are_chains(tiny):
    """A leaf's noise is that of its positions: cut into segments, an answer is the same."""
    rollout, _, _ = collect(tiny, ["segment_tree:segment=2,width=8,repetition=none"])
    plain, _, _ = collect(tiny, [])
    assert [t.token_ids for t in rollout] == [t.token_ids for t in plain]


def test_repetitive_paths_stop(tiny):
    rollout, _, _ = collect(tiny, ["segment_tree:segment=2,ngram=1,repetition=0.3"])
    from textenv.algos.strategies.selection.drop import repeated

    stopped = [t for t in rollout if t.completion_truncated and len(t.token_ids) < 12]
    assert stopped and all(repeated(t.token_ids, 1) > 0.3 for t in stopped)
    for t in rollout:  # none goes on after that
        for end in range(2, len(t.token_ids), 2):
            assert repeated(t.token_ids[:end], 1) <= 0.3
