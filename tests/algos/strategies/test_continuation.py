"""Parts that remember: what goes on from a saved state is what would have come."""

from __future__ import annotations

import json

import pytest

from tests.algos.strategies.shared import make_runner, plain

PARTS = [
    "uniform",
    "curriculum:window=6,up=.6,down=.4",
    "greso:num_seeds=16",
    "pools:num_seeds=16,easy=.3,hard=.2",
]


@pytest.mark.parametrize(
    ("part", "finite"),
    [*((part, False) for part in PARTS), *((PARTS[i], True) for i in (0, 2, 3))],  # no levels there
)
def test_equal_continuation(answers, part, finite):
    runner = make_runner(answers, part, finite)
    for _ in range(6):
        runner.collect()
    saved = json.dumps(runner.state())
    expected = [plain(runner.collect()) for _ in range(4)]
    again = make_runner(answers, part, finite)
    again.load_state(json.loads(saved))
    assert [plain(again.collect()) for _ in range(4)] == expected
    assert again.state() == runner.state()
    assert again.strategy.prompts.skipped == runner.strategy.prompts.skipped


@pytest.mark.parametrize("part", PARTS)
def test_a_saved_state_does_not_move_with_the_part(answers, part):
    runner = make_runner(answers, part, False)
    runner.collect()
    state = runner.state()
    before = json.dumps(state)
    for _ in range(3):
        runner.collect()
    assert json.dumps(state) == before
