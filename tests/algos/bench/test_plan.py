"""Which rows are measured, and what cannot be."""

import pytest

from tests.algos.bench.shared import models
from textenv.algos.bench.plan import OURS, make_plan
from textenv.errors import ConfigError


def test_a_plan_has_what_was_asked_for():
    rows = make_plan(["groups", "step"], ["medium", "vocabulary"], ["trl"], models())
    assert [row.part for row in rows] == ["step", "step", "groups"]
    ours, *workers, trl = rows[0].sides
    assert (ours.name, trl.name) == (OURS, "trl")
    assert [side.arguments["workers"] for side in workers] in ([], [2])  # by the processor
    assert rows[0].work[:5] == (4, 8, 128, 128, 48) and rows[1].work[:5] == (4, 16, 400, 400, 24)
    groups = rows[2].sides
    assert [s.arguments["work"].completions for s in groups] == [4, 8, 16, 32]
    assert {s.arguments["work"].longest for s in groups} == {1024}
    (long,) = make_plan(["long"], ["smollm2"], ["trl"], models())
    assert long.work[:5] == (4, 8, 1024, 1024, 512) and long.work.micro_batch == 4
    assert long.work.title == "4 prompts of 1024 tokens, 8 x 512, 4 at a time"
    assert [s.name for s in long.sides] == [OURS, "trl"]
    (alone,) = make_plan(["memory"], ["vocabulary"], [], models())
    assert [s.name for s in alone.sides] == [OURS]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((["speed"], ["small"], []), "unknown part 'speed'; known: step, memory, long"),
        ((["step"], ["smal"], []), "did you mean 'small'? Known: tiny, small, medium, vocabulary"),
        ((["step"], ["small"], ["tlr"]), "unknown peer 'tlr'; did you mean 'trl'"),
        ((["memory"], ["small"], []), "memory: nothing to measure with models small"),
    ],
)
def test_a_plan_that_cannot_be_made(given, said):
    with pytest.raises(ConfigError) as caught:
        make_plan(*given, models())
    assert said in str(caught.value)
