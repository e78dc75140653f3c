"""The answers that agents without language choose from are found in the task."""

import pytest

from tests.algos.compare.shared import text_arena
from textenv.algos.compare.arena import Arena
from textenv.algos.compare.loop import compare
from textenv.errors import ConfigError


def test_answers_are_found_in_the_task(tmp_path):
    assert text_arena(tmp_path, EXAMPLES).answers == ["0", "1", "2", "3", "4"]
    assert Arena("TextGen-v0", {"task": "guess_number"}).answers == sorted(map(str, range(1, 21)))
    assert text_arena(tmp_path, EXAMPLES, choices=("b", "a")).answers == ["b", "a"]
    rows = [{"prompt": "more?", "answer": "1", "choices": ["0", "1"]}] * 2
    assert text_arena(tmp_path, rows).answers == "choices"


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"task": "sort"}, "sort has more than 256 different answers: give --choices"),
        (
            {"prompts": ["a", "b"], "reward_fn": "exact_match", "examples": [{"answer": "1"}] * 2},
            "no known answers|answer",
        ),
    ],
)
def test_a_task_without_a_list_of_answers_says_what_is_needed(kwargs, says):
    with pytest.raises(ConfigError, match=says):
        compare(["random"], Arena("TextGen-v0", kwargs), [0])


EXAMPLES = [
    {"prompt": f"{a} against {b}: which is more?", "answer": str(max(a, b))}
    for a in range(5)
    for b in range(5)
]
