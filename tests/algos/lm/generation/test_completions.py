"""Answers that are told as they end, and rewards that begin while others are decoded."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.algos.lm.generation.completions import Completion
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402

from textenv.algos.lm.generation import generator as generation  # noqa: E402
from textenv.algos.lm.generation.generator import Generator  # noqa: E402
from textenv.algos.lm.generation.plain import PlainGenerator  # noqa: E402
from textenv.algos.lm.generation.sampling import SamplingParams  # noqa: E402

NO_EOS = [10**6]
LIMITS = [9, 2, 12, 2, 5, 30]


@pytest.fixture
def events(monkeypatch):
    """What happens, in order: a step that is sent to the device is one of them."""
    happened = []
    real = mx.async_eval

    def sent(*arrays):
        happened.append("sent")
        real(*arrays)

    monkeypatch.setattr(generation.mx, "async_eval", sent)
    return happened


@pytest.mark.parametrize("way", ["shared", "plain"])
@pytest.mark.parametrize("batch_size", [6, 2])
def test_each_row_is_told_once_it_has_ended(tiny, events, way, batch_size):
    model = tiny[0]
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 40, 4).tolist() for _ in LIMITS]
    noise = rng.random((len(prompts), 30), dtype=np.float32)
    generator = Generator(model, NO_EOS, batch_size, sync_every=1)
    if way == "plain":
        generator = PlainGenerator(model, generator._body, generator._head, NO_EOS, batch_size)
    told = {}

    def ended(row, completion):
        assert row not in told
        told[row] = completion
        events.append(row)

    done = generator.generate(
        prompts, 30, SamplingParams(), noise, limits=LIMITS, on_completion=ended
    )
    assert [told[row] for row in range(len(prompts))] == done
    assert [len(completion.token_ids) for completion in done] == LIMITS
    steps = {row: events[: events.index(row)].count("sent") for row in range(len(prompts))}
    if batch_size == 6:
        # After a row's last step no other is waited for, but the next is under way.
        assert steps == {row: min(limit + 1, 29) for row, limit in enumerate(LIMITS)}
    else:
        assert steps[1] < steps[2] < steps[5]


def test_trees_tell_rows_by_their_own_numbers(tiny):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 40, 4).tolist() for _ in range(7)]
    noise = rng.random((7, 8), dtype=np.float32)
    told = {}
    done = Generator(tiny[0], NO_EOS, batch_size=3).generate(
        prompts, 8, SamplingParams(), noise, branches=True, on_completion=told.__setitem__
    )
    assert [told[row] for row in range(7)] == done


def test_the_beginning_of_a_completion_and_what_came_after():
    rng = np.random.default_rng(0)
    support = [rng.integers(9, size=3) for _ in range(4)]
    whole = Completion([5, 6, 7, 1], [-1.0, -2.0, -3.0, -4.0], [0.1, 0.2, 0.3, 0.4], support, False)
    head = whole.head(3)
    assert head.truncated and head.token_ids == [5, 6, 7] and head.support == support[:3]
    rest = Completion([1], [-4.0], [0.4], support[3:], False)
    assert head.followed_by(rest) == whole
    assert whole.head(0) == Completion(support=[])
    assert whole.token_ids == [5, 6, 7, 1]  # as it was


def test_without_support_there_is_none():
    assert Completion([5], [-1.0], [0.5]).head(1).support is None
    both = Completion([5], [-1.0], [0.5]).followed_by(Completion([6], [-1.0], [0.5]))
    assert both.support is None and both.truncated
