"""Tasks of a user's own file: classes, functions and objects."""

import gymnasium as gym
import numpy as np
import pytest

from textenv import tasks
from textenv.errors import ConfigError, DataError, MissingFileError

CODE = '''
from dataclasses import dataclass
from textenv.tasks import GeneratedTask, Task
from textenv.tasks.dataset import Dataset

@dataclass(frozen=True)
class Double(GeneratedTask):
    """Double a number.

    More about it.
    """
    name = "double"
    most: int = 999
    split: str = "train"

    def generate(self, rng):
        number = rng.randint(0, self.most)
        return {"prompt": f"double {number}=", "answer": str(2 * number)}

    def score(self, example, completion):
        return float(completion.strip() == example["answer"])

class Three(Task):
    name, size = "three", 3

    def __init__(self, factor: int = 1):
        self.factor = factor

    def example(self, example_id):
        return {"prompt": f"{example_id}*{self.factor}=", "answer": example_id * self.factor}

    def score(self, example, completion):
        return float(completion == str(example["answer"]))

class Nameless(Three):
    name = None

class Incomplete(Task):
    name = "incomplete"

def triple(split, most=9):
    return Double(most=most, split=split)

double, three, rows = Double(most=5), Three(), Dataset([{"prompt": f"{i}"} for i in range(50)])

def seven():
    return 7

@dataclass(frozen=True)
class Triple(Double):
    name = "triple"
    style: str = "plain"
    chat_extract = "last_number"

    def chat_prompt(self, example):
        return "In words: " + example["prompt"]

stylish = Triple()
'''


@pytest.fixture
def at(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    return lambda name: f"{tmp_path / 'mine.py'}:{name}"


def test_a_class_a_function_and_an_object_make_the_same_task(at):
    made = [
        tasks.make(at("Double"), split="test", most=5),
        tasks.make(at("triple"), split="test", most=5),
        tasks.make(at("double"), split="test"),
    ]
    assert made[0] == made[1] == made[2] and made[0].split == "test"
    assert tasks.make(at("double"), most=6).most == 6
    assert tasks.describe(at("Double")) == "Double a number."


def test_it_is_played_by_every_form_of_the_environment(at):
    made = {"task": at("Double"), "task_kwargs": {"most": 50}}
    env = gym.make("textenv:TextGen-v0", **made)
    prompt, info = env.reset(seed=3)
    assert info["task"] == "double" and prompt.startswith("double ")
    assert env.step(str(2 * int(prompt[7:-1])))[1] == 1.0
    prompts = []
    for mode in (None, "sync", "async"):
        envs = gym.make_vec("TextGen-v0", num_envs=2, vectorization_mode=mode, **made)
        prompts.append(list(envs.reset(seed=3)[0]))
        answers = [str(2 * int(each[7:-1])) for each in prompts[-1]]
        assert np.array_equal(envs.step(answers)[1], [1.0, 1.0])
        envs.close()
    assert prompts[0] == prompts[1] == prompts[2] and prompts[0][0] == prompt


def test_a_task_without_splits_has_train_examples_alone(at):
    for name in ("Three", "three"):
        assert tasks.make(at(name)).example(2) == {"prompt": "2*1=", "answer": 2}
        with pytest.raises(DataError, match=f"{name}' takes no split, so it has no test examples"):
            tasks.make(at(name), split="test")
    assert tasks.make(at("Three"), factor=4).example(2)["answer"] == 8


def test_a_task_of_a_file_may_have_styles(at):
    for name in ("Triple", "stylish"):
        assert tasks.styles(at(name)) == ("plain", "chat")
        plain, chat = (tasks.make(at(name), style) for style in ("plain", "chat"))
        assert chat.example(5)["prompt"] == "In words: " + plain.example(5)["prompt"]
    for name in ("Double", "double", "three", "Three", "seven"):
        assert tasks.styles(at(name)) == ("plain",)
    with pytest.raises(ConfigError, match="has no style 'chat'"):
        tasks.make(at("Double"), "chat")


def test_rows_are_split_as_those_of_a_dataset(at):
    halves = [tasks.make(at("rows"), split=split).ids for split in ("train", "test")]
    assert sorted(halves[0] + halves[1]) == list(range(50)) and halves[1]


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("Double", {"least": 3}, "least"),
        ("three", {"factor": 3}, "is an object, which takes no settings"),
        ("double", {"least": 3}, "least"),
        ("seven", {}, "seven is no task: expected a class .* got int"),
        ("GeneratedTask", {}, "abstract"),
        ("Incomplete", {}, "abstract"),
        ("Nameless", {}, "has no name: write name = 'nameless' in its class"),
        ("dataclass", {}, "dataclass"),
        ("CODE", {}, "has no task 'CODE'; it has Double, Three"),
    ],
)
def test_what_is_no_task_says_so(at, name, settings, says):
    with pytest.raises(ConfigError, match=says) as caught:
        tasks.make(at(name), **settings)
    assert at(name) in str(caught.value) and "\n" not in str(caught.value)


def test_the_file_is_named(tmp_path):
    with pytest.raises(MissingFileError, match="none"):
        tasks.make(str(tmp_path / "none.py:Double"))
    with pytest.raises(ConfigError, match=r"FILE\.py:NAME"):
        tasks.make("mine.py")
