"""A product and a sum, with a tool that may be called before the answer."""

import re

import gymnasium as gym
import pytest

from textenv import tasks


@pytest.mark.parametrize("digits", [1, 3])
def test_it_is_what_was_asked_for_and_right(examples, digits):
    for example in examples("calculator", 100, digits=digits):
        prompt = re.fullmatch(r"(\d+)\*(\d+)\+(\d+), tool calc\(EXPRESSION\):\n", example["prompt"])
        a, b, c = prompt.groups()
        assert {len(number) for number in (a, b, c)} == {digits}
        assert example["answer"] == str(int(a) * int(b) + int(c))


def play(*actions, **task_kwargs):
    env = gym.make("TextGen-v0", task="calculator", task_kwargs=task_kwargs)
    env.reset(options={"example_id": 3})
    return env.unwrapped.example, [env.step(action)[1:] for action in actions]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("calc(12*34)", "\n408\n"),
        (" calc( (1+2)*3 )\n", "\n9\n"),
        ("calc(1/3)", "\n1/3\n"),
        ("calc(\n1\n)", "\n1\n"),
        ("calc(1/0)", "\nerror: Fraction(1, 0)\n"),
        ("calc()", "\nerror: not an expression of numbers, + - * / and brackets\n"),
        ("calc(2**3)", "\nerror: BinOp is not allowed"),
        ("calc(x)", "\nerror: not an expression"),
    ],
)
def test_a_call_is_answered_and_earns_nothing(call, said):
    _, [(reward, terminated, truncated, info)] = play(call)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["turn"].startswith(said) and info["turn"].endswith("\n")


def test_the_answer_ends_it_right_or_wrong():
    example, steps = play("calc(1+1)", " 7 ")
    assert steps[1][:3] == (0.0, True, False) and steps[1][3]["is_correct"] is False
    _, [step] = play(f" {example['answer']}\n")
    assert step[:3] == (1.0, True, False) and step[3]["turn"] == ""
    _, [step] = play(f"calc({example['answer']}) ")  # a call of the tool is not an answer
    assert step[:3] == (0.0, False, False)


def test_calls_use_up_the_turns():
    _, steps = play(*["calc(1)"] * 2, max_turns=2)
    assert [step[1:3] for step in steps] == [(False, False), (False, True)]
    assert steps[1][3]["is_correct"] is False


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [({"digits": 10}, "digits.*1 to 9.*10"), ({"max_turns": 0}, "max_turns.*1 to 1000.*0")],
)
def test_bad_parameters_are_named(kwargs, says):
    with pytest.raises(ValueError, match=says):
        tasks.make("calculator", **kwargs)
