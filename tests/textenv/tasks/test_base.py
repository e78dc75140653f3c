"""Ids, splits, lists of problems and levels of generated tasks."""

import copy
import dataclasses
import pickle
import random
import re
import zlib

import numpy as np
import pytest

from textenv import tasks
from textenv.errors import ConfigError
from textenv.tasks import GeneratedTask
from textenv.tasks.base import draw_seed, split_of
from textenv.tasks.built_in.arithmetic import Arithmetic
from textenv.tasks.built_in.guess_number import GuessNumber
from textenv.tasks.example_random import ExampleRandom

TASKS = ["arithmetic", "countdown", "reverse", "sort"]
SPLITS = ["train", "test"]


def problem(name, example):
    """A key that is equal for equal problems, read from the prompt."""
    if name == "reverse":
        return example["prompt"]
    target, given = re.fullmatch(r"(?:make (\d+) from )?(.*)=", example["prompt"]).groups()
    return target, *sorted(map(int, re.findall(r"\d+", given)))


@pytest.mark.parametrize("name", TASKS)
def test_no_problem_is_in_both_splits(name, examples):
    train, test = examples(name, 1000), examples(name, 1000, "test")
    key = tasks.make(name).split_key
    assert not {e["prompt"] for e in train} & {e["prompt"] for e in test}
    assert not {key(e) for e in train} & {key(e) for e in test}
    assert not {problem(name, e) for e in train} & {problem(name, e) for e in test}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", TASKS)
def test_an_id_is_an_example(name, split, examples):
    one, two = (tasks.make(name, split=split) for _ in range(2))
    ids = [0, 1, 2**47, 2**70, 1]
    assert [one.example(i) for i in ids] == [two.example(i) for i in reversed(ids)][::-1]
    first = one.example(5)
    first["prompt"] = "changed"
    assert one.example(5) == two.example(5) != first
    assert len({e["prompt"] for e in examples(name, 200, split)}) > (
        150 if split == "train" else 50
    )


@pytest.mark.parametrize("name", TASKS)
def test_negative_ids_are_refused(name):
    with pytest.raises(ConfigError, match="-1"):
        tasks.make(name).example(-1)


@pytest.mark.parametrize("limit", [2**32, 2**31])
@pytest.mark.parametrize("split", SPLITS)
def test_an_examples_seed_is_the_first_of_its_generator_in_the_split(split, limit):
    for number in range(50):
        rng = random.Random(number)
        drawn = (rng.randrange(limit) for _ in range(1000))
        in_split = (s for s in drawn if (zlib.crc32(b"%d" % s) % 10 == 0) == (split == "test"))
        assert draw_seed(number, split, limit) == next(in_split)
    with pytest.raises(ConfigError, match="example_id must be an integer >= 0, got -1"):
        draw_seed(-1, split)


def test_the_seeds_of_saved_examples_stay_the_same():
    """The values that this package has drawn since its tasks of TextArena."""
    assert [draw_seed(i, "train") for i in range(3)] == [3626764237, 3280387012, 242886303]
    assert [draw_seed(i, "test") for i in range(3)] == [2195908194, 2878940490, 2191394736]


def test_a_task_too_small_for_a_split_says_so():
    task = tasks.make("sort", min_count=1, max_count=1, max_number=1, split="test")
    with pytest.raises(ConfigError, match=r"'sort'.*'test' split"):
        task.example(0)


@pytest.mark.parametrize(
    "task",
    [
        Arithmetic(digits=1),
        Arithmetic(digits=1, operands=3, operations="+-*"),
        Arithmetic(digits=1, operations="++-"),
        GuessNumber(high=12),
        GuessNumber(low=3, high=40),
    ],
)
def test_listed_problems_are_what_the_generator_draws(task, chi_square):
    listed = list(task.problems())
    rng, drawn = ExampleRandom(), []
    for seed in range(30 * len(listed)):
        rng.seed(seed)
        drawn.append(task.generate(rng))
    expected, found = {}, {}
    for weights, problems in ((expected, listed), (found, drawn)):
        for problem in problems:
            key = tuple(problem.items())
            weights[key] = weights.get(key, 0) + 1
    assert expected.keys() == found.keys()
    expected_counts = np.array([30 * count for count in expected.values()])
    assert chi_square([found[key] for key in expected], expected_counts) < 1.5


@pytest.mark.parametrize("split", ["train", "test"])
def test_lists_keep_the_splits_apart_and_examples_are_the_callers(split):
    task = Arithmetic(split=split)
    for example_id in range(300):
        example = task.example(example_id)
        assert split_of(task.split_key(example)) == split
        assert example["answer"] == str(sum(map(int, example["prompt"][:-1].split("+"))))
        example.clear()
        assert task.example(example_id) == task.examples([example_id])[0] != {}


def test_more_problems_than_a_few_thousand_are_drawn():
    assert Arithmetic(digits=3).problems() is None
    task = Arithmetic(digits=3)
    assert task.example(7) == task.example(7)
    assert len({task.example(i)["prompt"] for i in range(200)}) > 190


def test_copies_of_a_task_leave_the_list_behind():
    task = Arithmetic()
    task.example(0)
    assert len(pickle.dumps(task)) < 500
    for twin in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert twin == task
        assert twin.example(3) == task.example(3)


def test_a_task_may_draw_from_another_while_it_draws():
    class Outer(GeneratedTask):
        name, split = "outer", "train"

        def generate(self, rng):
            first = rng.randrange(10**6)
            inner = Arithmetic(digits=3).example(first)
            return {"prompt": f"{first} {inner['prompt']} {rng.randrange(10**6)}"}

        def score(self, example, completion):
            return 0.0

    task = Outer()
    prompts = [task.example(i)["prompt"] for i in range(20)]
    assert prompts == [task.example(i)["prompt"] for i in range(20)]


BUILT_IN = ["arithmetic", "calculator", "countdown", "reverse", "sort"]
HARDNESS = {  # how hard an example is, read from its prompt
    "arithmetic": lambda e: max(map(len, re.findall(r"\d+", e["prompt"]))),
    "calculator": lambda e: max(map(len, re.findall(r"\d+", e["prompt"]))),
    "countdown": lambda e: len(e["numbers"]),
    "reverse": lambda e: len(e["answer"]),
    "sort": lambda e: len(e["answer"].split()),
}
# CRC-32 of the prompts of examples 0 to 199, one per line: train and test split
BEFORE = {
    "arithmetic": (800738312, 3174319075),
    "calculator": (3732377256, 1913700828),
    "countdown": (2120369877, 2424298428),
    "guess_number": (2285188967, 1684360217),
    "reverse": (1399365147, 777032021),
    "sort": (4186438850, 2243415298),
}


def hardest(name, task):
    return max(HARDNESS[name](task.example(i)) for i in range(100))


@pytest.mark.parametrize("name", BEFORE)
def test_tasks_without_a_level_named_are_what_they_were(name):
    prompts = [
        [tasks.make(name, split=split).example(i)["prompt"] for i in range(200)]
        for split in ("train", "test")
    ]
    assert tuple(zlib.crc32("\n".join(p).encode()) for p in prompts) == BEFORE[name]


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_task_is_at_its_own_level(name):
    task = tasks.make(name)
    assert task.level in task.levels
    assert task.at_level(task.level) == task
    assert hardest(name, task) == task.level


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_level_is_how_hard_the_examples_are_and_all_else_stays(name):
    task = tasks.make(name, split="test")
    for level in (3, 5):
        harder = task.at_level(level)
        assert harder.level == level
        assert hardest(name, harder) == level
        others = {f.name for f in dataclasses.fields(task)} - set(task.knobs)
        assert all(getattr(harder, field) == getattr(task, field) for field in others)
        example = harder.example(7)
        assert harder.score(example, harder.oracle(example)) == 1


def test_a_range_of_lengths_moves_as_a_whole_and_stays_inside():
    task = tasks.make("sort", min_count=3, max_count=7)
    harder = task.at_level(10)
    assert (harder.min_count, harder.max_count) == (6, 10)
    easier = task.at_level(2)
    assert (easier.min_count, easier.max_count) == (1, 2)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_ends_are_the_ends(name):
    task = tasks.make(name)
    for level in (task.levels[0], task.levels[-1]):
        assert task.at_level(level).level == level
    for level in (task.levels[0] - 1, task.levels[-1] + 1, True, 2.0):
        with pytest.raises(ConfigError, match=f"level of {name} must be .*, got {level}"):
            task.at_level(level)


def test_other_turns_leave_the_task_as_it_was():
    task = Arithmetic(digits=3)
    longer = task.with_max_turns(5)
    assert (task.max_turns, longer.max_turns) == (1, 5)
    assert longer.example(7) == task.example(7) and longer == task
    assert longer.with_max_turns(5) is longer
    guess = GuessNumber().with_max_turns(9)
    assert guess.max_turns == 9 and guess == GuessNumber(max_turns=9)
