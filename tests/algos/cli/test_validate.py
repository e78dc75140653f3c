"""textenv validate: refuses a task that would teach the wrong thing, and says at which example."""

import random
from dataclasses import dataclass

import pytest

from textenv import tasks
from textenv.algos.cli import main
from textenv.tasks import GeneratedTask
from textenv.tasks.built_in.arithmetic import Arithmetic


@pytest.fixture
def register():
    """Tasks by these names, for one test."""
    names = []

    def add(name, factory):
        tasks.register_task(name, factory)
        names.append(name)

    yield add
    for name in names:
        del tasks._factories[name]


class Off(Arithmetic):
    """Sums, of which the oracle gets those with a 9 wrong."""

    def oracle(self, example):
        right = super().oracle(example)
        return f"{right}0" if "9" in example["prompt"] else right


def test_an_oracle_without_full_marks_is_refused(refused, register):
    register("off", Off)
    task = tasks.make("off")
    first = next(i for i in range(5, 100) if "9" in task.example(i)["prompt"])
    prompt, answer = task.example(first)["prompt"], task.example(first)["answer"]
    error = refused("validate", "--task", "off", "--seed", "5")
    assert f"example {first} ({prompt!r})" in error
    assert f"answer '{answer}0'" in error and "scores 0.0, expected 1" in error


@dataclass(frozen=True)
class Gap(Arithmetic):
    """Sums, whose right answers do not get through the extractor of style chat."""

    chat_extract = "boxed"


def test_both_styles_are_checked(refused, register, capsys):
    register("gap", Gap)
    assert "answer '148' to example 0 ('What is 89+59? Reply" in refused(
        "validate", "--task", "gap"
    )
    assert main(["validate", "--task", "sort", "--examples", "5"]) == 0
    assert "full marks in style plain and chat, and the splits" in capsys.readouterr().out
    register("one", lambda split: Arithmetic(split=split))
    assert main(["validate", "--task", "one", "--examples", "5"]) == 0
    assert "full marks in style plain, and" in capsys.readouterr().out


class Half(Arithmetic):
    """Sums, whose right answers score a half."""

    def score(self, example, completion):
        return super().score(example, completion) / 2


def test_half_marks_are_not_full_marks(refused, register):
    register("half", Half)
    assert "scores 0.5, expected 1" in refused("validate", "--task", "half")


class Changing(GeneratedTask):
    """Another example at each call."""

    name, split = "changing", "train"
    drawn = random.Random(0)

    def __init__(self, split):
        self.split = split

    def example(self, example_id):
        number = str(self.drawn.random())
        return {"prompt": number, "answer": number}

    def generate(self, rng):
        raise NotImplementedError

    def score(self, example, completion):
        return float(completion == example["answer"])


def test_an_id_must_name_one_example(refused, register):
    register("changing", Changing)
    assert "example 3 is another one" in refused("validate", "--task", "changing", "--seed", "3")


class OneSplit(Arithmetic):
    """Sums that are the same in both splits."""

    def __init__(self, split):
        super().__init__()


def test_splits_that_share_examples_are_refused(refused, register):
    register("one_split", OneSplit)
    error = refused("validate", "--task", "one_split", "--examples", "3")
    assert "is in the train and the test split" in error


def test_tasks_of_other_libraries(capsys, refused):
    pytest.importorskip("reasoning_gym")
    argv = ["--task", "reasoning_gym:spell_backward", "--examples", "20"]
    assert main(["validate", *argv]) == 0
    assert "20 train and 20 test examples score full marks" in capsys.readouterr().out
    assert "no answer" in refused("validate", "--task", "reasoning_gym:rush_hour")
    pytest.importorskip("textarena")
    assert "no oracle" in refused("validate", "--task", "textarena:Mastermind-v0")


def test_the_extractor_is_that_of_the_environment(refused, tmp_path, capsys):
    assert "unknown extractor 'foo'" in refused("validate", "--extract", "foo")
    assert "scores 0.0" in refused("validate", "--extract", "tag:answer")
    path = tmp_path / "gsm.jsonl"
    path.write_text('{"question": "1+1?", "answer": "One and one make 2.\\n#### 2"}\n')
    argv = ["validate", "--dataset", str(path), "--extract"]
    assert main([*argv, "after:####"]) == 0
    assert "1 rows score full marks" in capsys.readouterr().out
    assert "scores {'exact_match': 0.0}, expected 1" in refused(*argv, "boxed")
