"""The ids of the environments: every one can be made, in every form, and passes the checks."""

import json
import subprocess
import sys
import warnings

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

TASKS = ["arithmetic", "calculator", "countdown", "guess_number", "reverse", "sort"]
IDS = sorted(
    name for name in gym.registry if name.startswith(("TextGen", "textgen/")) and ":" not in name
)


def make(**kwargs):
    return gym.make("TextGen-v0", **kwargs)


def test_making_it_by_module_name_needs_no_import():
    code = (
        "import gymnasium as gym; env = gym.make('textenv:TextGen-v0');"
        "print(env.reset(seed=0)[0], env.step('42')[1:4])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{make().reset(seed=0)[0]} (0.0, True, False)"


@pytest.mark.parametrize("name", IDS)
@pytest.mark.filterwarnings("error")
def test_check_env_has_nothing_to_say_of_any_id(name):
    check_env(gym.make(name).unwrapped)
    env = gym.make(f"textenv:{name}")
    assert env.spec.name == gym.spec(name).name
    assert gym.make(EnvSpec.from_json(env.spec.to_json())).reset(seed=1)[1].keys()
    assert json.loads(gym.spec(name).to_json())["kwargs"] == gym.spec(name).kwargs


def test_every_built_in_task_has_an_id():
    names = {gym.spec(name).kwargs["task"] for name in IDS if name.startswith("textgen/")}
    assert names == set(TASKS)
    assert {"textgen/Arithmetic-v0", "textgen/Countdown-v0", "textgen/GuessNumber-v0"} <= {*IDS}


@pytest.mark.parametrize("name", [name for name in IDS if name.startswith("textgen/")])
def test_a_time_limit_never_adds_a_truncation(name):
    env = gym.make(name)
    turns = env.unwrapped.task.max_turns
    assert env.spec.max_episode_steps > turns
    env.reset(seed=0)
    if turns == 1:
        assert env.step(env.unwrapped.task.oracle(env.unwrapped.example))[1:4] == (1.0, True, False)
        return
    flags = [env.step("calc(1)")[2:4] for _ in range(turns)]
    assert flags == [(False, False)] * (turns - 1) + [(False, True)]
    env.reset(seed=0)
    for _ in range(turns - 1):
        env.step("calc(1)")
    assert env.step(env.unwrapped.example["answer"])[1:4] == (1.0, True, False)


def test_namespaced_ids_keep_gymnasiums_time_limit():
    for form in ("sync", "vector_entry_point"):
        env = gym.make_vec(
            "textgen/GuessNumber-v0", num_envs=2, vectorization_mode=form, max_episode_steps=2
        )
        env.reset(seed=0)
        assert env.step(("", ""))[3].tolist() == [False, False]
        assert env.step(("", ""))[3].tolist() == [True, True]


def test_ids_of_the_namespace_are_made_in_every_form(same):
    for name in [name for name in gym.registry if name.startswith("textgen/")]:
        spec = gym.spec(name)
        assert json.loads(spec.to_json())["kwargs"] == spec.kwargs
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sync, own = (
                gym.make_vec(name, num_envs=2, vectorization_mode=form)
                for form in ("sync", "vector_entry_point")
            )
            same(sync.reset(seed=1), own.reset(seed=1))
            same(sync.step(("1", "é")), own.step(("1", "é")))
