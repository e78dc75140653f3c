"""How near answers are that are not right."""

import pytest

from tests.algos.rollouts.health.shared import played
from textenv import tasks
from textenv.algos.rollouts.health.answers import (
    Answer,
    answer_of,
    contains,
    expected_answer,
    misses_of,
    quoted,
    told,
)
from textenv.tasks.dataset import Dataset


def answers(*texts, expected="42", extracted="as written"):
    """Answers of these texts."""
    return [Answer(t, t if extracted == "as written" else extracted, expected) for t in texts]


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("12 + 30 = 42", "42", True),
        ("12 + 30 = 42.", "42", True),
        ("it is (42)", "42", True),
        ("It is 142.", "42", False),
        ("It is 420.", "42", False),
        ("It is 42.5", "42", False),
        ("It is 42,000", "42", False),
        ("x42", "42", False),
        ("5-12=-7", "-7", True),
        ("3-7", "-7", False),
        ("Paris is the capital", "Paris", True),
        ("Parisian", "Paris", False),
        ("anything", "", False),
        ("f(x) = (1+2)*3", "(1+2)*3", True),
    ],
)
def test_what_contains_an_answer(text, answer, expected):
    assert contains(text, answer) == expected


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("12 + 30 = 42.", "last_number"),
        (r"so \boxed{42}, 1 of 2", "boxed"),
        ("<answer> 42 </answer> of 50", "tag:answer"),
        ("12 and 30\n#### 42\nthat is 12 + 30", "after:####"),
        ("2 + 2\nforty-two, that is\n42", "last_number"),
        ("42 is what 12 and 30 make", None),
    ],
)
def test_the_extraction_that_would_have_found_it(text, kind):
    misses = misses_of(answers(text))
    assert (misses.containing, misses.extract, misses.found) == (1, kind, int(kind is not None))


def test_the_last_line_is_found_for_words():
    misses = misses_of(answers("Let me think.\nParis", "It is\nParis\n", expected="Paris"))
    assert (misses.containing, misses.extract, misses.found) == (2, "line:last", 2)


def test_most_of_them_decide_and_the_nearest_is_short():
    misses = misses_of(answers("12+30=42", "= 42, I think", "42 of 50", "no idea"))
    assert (misses.of, misses.containing, misses.extract, misses.found) == (4, 3, "last_number", 2)
    assert misses.nearest.written == "12+30=42"


def test_answers_that_are_the_expected_one_are_told_apart():
    misses = misses_of(answers("42", " 42\n", "42.", "no"))
    assert (misses.equal, misses.containing, misses.nearest.written) == (2, 1, "42")
    assert misses_of(answers("so it is 42", extracted="42")).equal == 1


def test_answers_in_which_nothing_was_found():
    misses = misses_of(answers("a", "b", extracted=None))
    assert (misses.unread, misses.containing, misses.extract) == (2, 0, None)
    assert misses_of([]).nearest is None


def test_an_answer_in_words():
    whole = Answer("12 + 30 = 42", "12 + 30 = 42", "42")
    assert told(whole) == "'12 + 30 = 42' was answered, and '42' expected"
    part = Answer("I say 41", "41", "42")
    assert told(part) == "'I say 41' was answered, from which '41' was extracted, and '42' expected"
    nothing = Answer("hm", None, "42")
    assert told(nothing).startswith("'hm' was answered, from which nothing was extracted")


def test_texts_of_a_model_are_in_one_line_without_codes():
    shown = quoted("\x1b[31mred\n\u202e" + "x" * 200 + "end")
    assert "\x1b" not in shown and "\n" not in shown and "\u202e" not in shown
    assert len(shown) < 90 and shown.endswith("end'") and " .. " in shown


def test_what_was_expected_comes_from_the_task():
    task = tasks.make("arithmetic")
    trajectory = played([[0]], texts=["7"])[0]
    expected = task.example(0)["answer"]
    assert expected_answer(task, trajectory) == expected
    assert answer_of(task, trajectory) == Answer("7", "7", expected)
    trajectory.infos[0]["answer"] = None
    assert answer_of(task, trajectory) == Answer("7", None, expected)
    harder = played([[0]], level=task.levels[-1])[0]
    assert expected_answer(task, harder) == task.at_level(task.levels[-1]).example(0)["answer"]


def test_nobody_knows_what_is_expected_of_games_and_of_own_prompts():
    trajectory = played([[0]])[0]
    assert expected_answer(None, trajectory) is None
    assert expected_answer(tasks.make("guess_number"), trajectory) is None
    assert expected_answer(Dataset([{"prompt": "a"}]), trajectory) is None
    assert expected_answer(Dataset([{"prompt": "a", "answer": 4.0}]), trajectory) == "4"
