"""A product and a sum, with a tool that may be called before the answer."""

import re

import gymnasium as gym
import pytest

from textenv import tasks
from textenv.tools.calls import write_call


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
    [
        ({"digits": 10}, "digits.*1 to 9.*10"),
        ({"max_turns": 0}, "max_turns.*1 to 1000.*0"),
        ({"style": "odd"}, "has no style 'odd'.*plain, chat"),
    ],
)
def test_bad_parameters_are_named(kwargs, says):
    with pytest.raises(ValueError, match=says):
        tasks.make("calculator", **kwargs)


# -- style "chat"


def chat(**kwargs):
    return gym.make("TextGen-v0", task="calculator", style="chat", **kwargs)


def test_in_style_chat_the_tool_is_called_and_the_last_number_counts():
    env = chat()
    observation, info = env.reset(options={"example_id": 3})
    example = env.unwrapped.example
    plain = tasks.make("calculator").example(3)
    a, b, c = map(int, re.match(r"(\d+)\*(\d+)\+(\d+)", plain["prompt"]).groups())
    question = f"What is {a}*{b}+{c}? Use the calculator, then reply with the number only."
    assert info["messages"] == [{"role": "user", "content": question}]
    assert example["answer"] == plain["answer"] == str(a * b + c)
    assert question in observation and '"name": "calculator"' in observation
    *_, info = env.step(write_call("calculator", {"expression": f"{a}*{b}"}))
    assert info["messages"][-1]["content"] == str(a * b)
    *_, info = env.step(write_call("calculator", {"expression": "1/0"}))
    assert info["messages"][-1]["content"].startswith("error: calculator raised ZeroDivision")
    _, reward, terminated, *_ = env.step(f"{a}*{b} and {c} make {a * b + c:,}.")
    assert (reward, terminated) == (1.0, True)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("{}", 1),
        ("It is {}.", 1),
        ("12*34+56={}", 1),
        ("<think>1</think>{}", 1),
        ("{} or 1", 0),
        ("-{}", 0),
        ("", 0),
        ("{}0", 0),
        ("{}.5", 0),
        ("<think>{}", 0),
        ("calc({})", 1),
    ],
)
def test_scores_in_style_chat(answer, score):
    env = chat()
    env.reset(options={"example_id": 3})
    right = env.unwrapped.example["answer"]
    assert env.step(answer.format(right))[1:3] == (score, True)


def test_a_number_in_a_call_is_no_answer():
    env = chat(task_kwargs={"max_turns": 1})
    env.reset(options={"example_id": 3})
    call = write_call("calculator", {"expression": env.unwrapped.example["answer"]})
    _, reward, terminated, truncated, info = env.step(call)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["answer"] is None and info["is_correct"] is False


def test_both_styles_have_the_same_problems_and_splits():
    for split in ("train", "test"):
        plain = tasks.make("calculator", split=split)
        worded = tasks.make("calculator", "chat", split=split)
        for i in range(50):
            assert worded.example(i)["answer"] == plain.example(i)["answer"]
            assert worded.score(worded.example(i), worded.oracle(worded.example(i))) == 1


def test_its_tool_needs_no_process():
    from textenv.rewards import limits

    before = limits._process.cache_info().misses
    env = chat()
    env.reset(seed=0)
    env.step(write_call("calculator", {"expression": "1+1"}))
    assert limits._process.cache_info().misses == before


def test_an_extractor_reads_answers_and_leaves_calls_alone():
    env = gym.make("textenv:TextGen-v0", task="calculator", extract="last_number")
    env.reset(seed=0)
    answer = env.unwrapped.example["answer"]
    expression = env.unwrapped.example["prompt"].partition(",")[0]
    _, reward, terminated, _, info = env.step(f"<think>7</think>calc({expression})")
    assert (info["turn"], info["answer"]) == (f"\n{answer}\n", None)
    assert (reward, terminated) == (0.0, False)
    _, reward, terminated, _, info = env.step(f"So it is {answer}.")
    assert (reward, terminated, info["answer"], info["is_correct"]) == (1.0, True, answer, True)
