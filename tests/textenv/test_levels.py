"""Levels of difficulty: the tasks' knobs, and the reset option that turns them."""

import dataclasses
import pickle
import re
import zlib

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from textenv import tasks
from textenv.errors import ConfigError, ConfigTypeError

BUILT_IN = ["arithmetic", "calculator", "countdown", "reverse", "sort"]
HARDNESS = {  # of an example, read from its prompt
    "arithmetic": lambda e: max(map(len, re.findall(r"\d+", e["prompt"]))),
    "calculator": lambda e: max(map(len, re.findall(r"\d+", e["prompt"]))),
    "countdown": lambda e: len(e["numbers"]),
    "reverse": lambda e: len(e["answer"]),
    "sort": lambda e: len(e["answer"].split()),
}
# crc32 of the prompts of examples 0 to 199, one a line, before there were levels
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


def test_tasks_without_levels_say_so():
    for env in (
        gym.make("TextGen-v0", task="guess_number"),
        gym.make("TextGen-v0", prompts=["a"], reward_fn="length"),
    ):
        assert env.unwrapped.task.levels is None
        assert env.unwrapped.task.level is None
        with pytest.raises(ConfigError, match="has no levels of difficulty"):
            env.reset(options={"level": 1})


def test_a_reset_at_a_level_draws_the_same_id_and_another_example():
    env = gym.make("TextGen-v0")
    plain, info = env.reset(seed=3)
    prompt, at = env.reset(seed=3, options={"level": 4})
    assert re.fullmatch(r"\d{4}\+\d{4}=", prompt)
    assert (at["example_id"], at["level"]) == (info["example_id"], 4)
    assert prompt == tasks.make("arithmetic", digits=4).example(at["example_id"])["prompt"]
    again, _ = env.reset(options={"level": 4, "example_id": at["example_id"]})
    assert again == prompt
    assert env.reset(seed=3) == (plain, info)  # of this episode alone
    assert "level" not in info


def test_what_is_drawn_at_a_level_moves_the_generator_as_without():
    one, two = gym.make("TextGen-v0"), gym.make("TextGen-v0")
    one.reset(seed=5)
    two.reset(seed=5, options={"level": 7})
    assert one.reset() == two.reset()


def test_options_that_cannot_be_are_refused():
    env = gym.make("TextGen-v0")
    with pytest.raises(ConfigError, match="'lever'; known: 'example_id', 'level'"):
        env.reset(options={"lever": 1})
    with pytest.raises(ConfigError, match="from 1 to 12, got 'two'"):
        env.reset(options={"level": "two"})
    with pytest.raises(ConfigTypeError, match="example_id must be an integer, got NoneType"):
        env.reset(options={"example_id": None, "level": 1})


class Strict(tasks.Task):
    """Whose verifier knows its level."""

    name, levels = "strict", range(1, 4)

    def __init__(self, level=1):
        self.at = level

    @property
    def level(self):
        return self.at

    def at_level(self, level):
        return Strict(level)

    def example(self, example_id):
        return {"prompt": f"{self.at}:{example_id}"}

    def score(self, example, completion):
        return float(completion == str(self.at))


@pytest.mark.parametrize("task", ["calculator", Strict(), "sort"])
def test_the_own_vector_form_agrees_with_gymnasiums(task):
    own = gym.make_vec("TextGen-v0", num_envs=3, task=task, autoreset_mode=AutoresetMode.DISABLED)
    sync = gym.make_vec(
        "TextGen-v0",
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
        task=task,
    )
    mask = np.array([False, True, False])
    everyone = np.ones(3, bool)
    for options in (
        None,
        {"level": 2},
        {"level": 3, "reset_mask": mask},  # the others stay at level 2
        {"reset_mask": everyone},
        {"level": 1, "example_id": 4},
    ):
        seen = [env.reset(seed=[1, 2, 3], options=options and {**options}) for env in (own, sync)]
        assert seen[0][0] == seen[1][0]
        assert flat(seen[0][1]) == flat(seen[1][1])
        if options and "reset_mask" in options:
            continue
        answers = tuple(str(2) for _ in range(3))
        steps = [env.step(answers) for env in (own, sync)]
        for one, two in zip(*steps):
            assert flat(one) == flat(two) if isinstance(one, dict) else list(one) == list(two)


def test_lanes_at_different_levels_are_scored_by_their_own():
    envs = gym.make_vec(
        "TextGen-v0", num_envs=3, task=Strict(), autoreset_mode=AutoresetMode.NEXT_STEP
    )
    envs.reset(seed=1, options={"level": 2})
    envs.reset(seed=1, options={"level": 3, "reset_mask": np.array([False, True, False])})
    _, rewards, *_ = envs.step(["2", "3", "1"])
    assert rewards.tolist() == [1, 1, 0]
    prompts, *_ = envs.step(["", "", ""])  # begins anew, at the task's own level
    assert [prompt[0] for prompt in prompts] == ["1", "1", "1"]
    _, rewards, *_ = envs.step(["1", "3", "1"])
    assert rewards.tolist() == [1, 0, 1]


def flat(info):
    return {k: flat(v) if isinstance(v, dict) else np.asarray(v).tolist() for k, v in info.items()}


def test_the_levels_of_reasoning_gym_are_its_curricula():
    pytest.importorskip("reasoning_gym")
    task = tasks.make("reasoning_gym:chain_sum", min_terms=2, max_terms=2)
    assert task.level is None
    at = task.at_level(2)
    same = tasks.make("reasoning_gym:chain_sum", level=2, min_terms=2, max_terms=2)
    assert (task.levels, at.level) == (same.levels, 2)
    assert [at.example(i) for i in range(9)] == [same.example(i) for i in range(9)]
    assert task.at_level(2) is at
    assert at.at_level(0).example(1) != at.example(1)
    with pytest.raises(ConfigError, match=r"level of reasoning_gym:chain_sum .* got 99"):
        task.at_level(99)
    copy = pickle.loads(pickle.dumps(at))
    assert (copy.example(1), copy.level) == (at.example(1), 2)


def test_a_dataset_without_a_curriculum_has_no_levels():
    pytest.importorskip("reasoning_gym")
    task = tasks.make("reasoning_gym:list_functions")
    assert task.levels is None
    with pytest.raises(ConfigError, match="list_functions' has no levels"):
        task.at_level(0)
