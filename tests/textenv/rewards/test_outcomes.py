"""Answers reach the functions that are declared to score them, and nothing else does."""

import pytest

import textenv
from textenv.errors import RewardError
from textenv.rewards import Reward
from textenv.rewards.calls import Rows
from textenv.rewards.outcomes import NO_ANSWER, call_with_answers, components_of


def test_rows_without_an_answer_are_not_called_and_the_others_keep_their_places():
    rows = Rows(["a", "b", "c"], ["1!", "2!", "3!"], [{"n": 1}, {"n": 2}, {"n": 3}])
    called = []

    def function(found):
        called.append(found)
        return [f"{prompt}{text}" for prompt, text in zip(found.prompts, found.completions)]

    assert call_with_answers(function, rows, ["1", None, "3"]) == ["a1", NO_ANSWER, "c3"]
    assert called == [Rows(["a", "c"], ["1", "3"], [{"n": 1}, {"n": 3}])]
    assert call_with_answers(function, rows, [None] * 3) == [NO_ANSWER] * 3
    assert len(called) == 1


@pytest.mark.parametrize("batch", [False, True])
def test_a_function_that_is_declared_scores_the_answer_and_others_the_completion(batch):
    log = []

    @textenv.reward(answer=True, verifies=True)
    def right(prompt, completion, example):
        log.append(("right", completion))
        return float(completion == "42")

    def as_written(prompt, completion, example):
        log.append(("as_written", completion))
        return float(len(completion))

    reward = Reward([right, as_written])
    rows = ["p"] * 3, ["is 42", "is 4", "nothing"], [{}] * 3
    answers = ["42", "4", None]
    if batch:
        scored = reward.batch(*rows, [None] * 3, answers)
    else:
        scored = [reward(*row, answers=[a]) for *row, a in zip(*rows, answers)]
    assert scored == [
        (6.0, {"right": 1.0, "as_written": 5.0}, True),
        (4.0, {"right": 0.0, "as_written": 4.0}, False),
        (7.0, {"right": 0.0, "as_written": 7.0}, False),
    ]
    assert sorted(log) == sorted(
        [("right", "42"), ("right", "4"), *(("as_written", text) for text in rows[1])]
    )
    # Without an extractor, both score what was written.
    assert reward("p", "42", {})[1] == {"right": 1.0, "as_written": 2.0}


def test_no_answer_is_wrong_even_if_the_function_would_pay_for_nothing():
    @textenv.reward(answer=True, verifies=True)
    def generous(prompt, completion, example):
        return 1.0

    assert Reward(generous)("p", "", {}, answers=[None]) == (0.0, {"generous": 0.0}, False)
    assert Reward(generous)("p", "", {}, answers=["x"]) == (1.0, {"generous": 1.0}, True)


def test_no_answer_of_a_function_of_components_is_one_score():
    @textenv.reward(answer=True)
    def parts(prompt, completion, example):
        return {"first": 1.0, "second": 2.0}

    reward = Reward(parts, weights={"second": 0.5})
    assert reward("p", "c", {}, answers=["c"]) == (2.0, {"first": 1.0, "second": 2.0}, None)
    assert reward("p", "c", {}, answers=[None]) == (0.0, {"parts": 0.0}, None)


def test_async_and_batch_functions_get_answers_too():
    @textenv.reward(answer=True)
    async def awaited(prompt, completion, example):
        return float(len(completion))

    @textenv.reward(answer=True, batch=True)
    def together(prompts, completions, examples):
        return [10.0 * len(completion) for completion in completions]

    reward = Reward([awaited, together])
    rows = ["p"] * 3, ["long one", "long two", "none"], [{}] * 3
    answers = ["a", "bb", None]
    expected = [11.0, 22.0, 0.0]
    assert [row[0] for row in reward.batch(*rows, [None] * 3, answers)] == expected
    begun = [dict(b) for b in reward.together(*rows, answers)]
    for each, *row, answer in zip(begun, *rows, answers):
        each.update(reward.begin(*row, [answer]))
    assert [sorted(each) for each in begun] == [["awaited", "together"]] * 2 + [["together"]]
    calls = [reward(*row, None, b, [a])[0] for *row, b, a in zip(*rows, begun, answers)]
    assert calls == expected


def test_components_by_hand():
    assert components_of("f", 1, "p", True) == [("f", 1.0)]
    assert components_of("f", {"a": 1, "b": None}, "p", True) == [("a", 1.0), ("b", None)]
    assert components_of("f", None, "p", True) == [("f", None)]
    for wrong in (None, {"a": None}, {}, {1: 2.0}, "1", float("nan"), 10**400):
        with pytest.raises(RewardError, match="f"):
            components_of("f", wrong, "p", False)
