"""Environments from ids, functions and objects, and what they are."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.algos.control_envs import Steps
from textenv import TextGenerationEnv
from textenv.algos import RolloutRunner
from textenv.algos.episodes.environments import (
    as_dict_step,
    copies,
    innermost,
    is_text,
    make_env,
    make_training_env,
    max_turns,
    title,
)
from textenv.errors import ConfigError, ConfigTypeError
from textenv.wrappers import DictStep

TEXT = "textenv:TextGen-v0"


def text(**kwargs):
    return gym.make(TEXT, **kwargs)


def test_an_environment_is_made_from_an_id_a_function_or_as_it_is():
    env = make_env("CartPole-v1", {"max_episode_steps": 7})
    assert env.spec.id == "CartPole-v1" and env.spec.max_episode_steps == 7
    assert make_env(env) is env
    assert make_env(lambda: env) is env


@pytest.mark.parametrize(
    ("env", "kwargs", "said"),
    [
        ("NoSuchEnv-v0", None, "'NoSuchEnv-v0' is not registered"),
        (lambda: None, {"a": 1}, "env_kwargs go with an environment's id"),
    ],
)
def test_what_cannot_be_made_is_named(env, kwargs, said):
    with pytest.raises(ConfigError, match=said):
        make_env(env, kwargs)


def test_a_library_that_is_missing_is_named(monkeypatch):
    def make(env, **kwargs):
        raise gym.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(gym, "make", make)
    with pytest.raises(ConfigError, match="'LunarLander-v3' cannot be made: Box2D"):
        make_env("LunarLander-v3")


def test_copies_for_training_reset_in_the_same_step():
    for env in ("CartPole-v1", lambda: gym.make("CartPole-v1")):
        made = make_training_env(env, None, 3)
        assert made.num_envs == 3
        assert made.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
        made.close()
    assert make_training_env(TEXT, None, 3).unwrapped.__class__ is TextGenerationEnv
    assert not hasattr(make_training_env("CartPole-v1", None, 1), "num_envs")


def test_one_environment_for_all_lanes_is_refused():
    """A function that gives the same one again, itself or in new wrappers; an id's entry point."""
    one = Steps(10)
    same = "gave the same Steps more than once"
    for make in (lambda: one, lambda: gym.wrappers.TimeLimit(one, 5)):
        with pytest.raises(ConfigError, match=f"2 environments were to be made.*{same}"):
            make_training_env(make, None, 2)
    assert make_training_env(lambda: one, None, 1) is one
    gym.register("OneForAll-v0", lambda: one)
    try:
        with pytest.raises(ConfigError, match=same):
            make_training_env("OneForAll-v0", None, 2)
    finally:
        del gym.registry["OneForAll-v0"]
    with pytest.raises(ConfigError, match=same):
        RolloutRunner(SyncVectorEnv([lambda: one] * 2), lambda o: (0, {}), max_steps=4)


def test_text_that_is_always_one_environment_is_played_one_after_another():
    one = TextGenerationEnv(["a", "b"], "length")
    one.spec = gym.envs.registration.EnvSpec("OneText-v0", lambda **_: one)
    with pytest.warns(UserWarning, match=r"gave the same TextGenerationEnv.*one after another"):
        assert copies(one, 2) == []


def test_a_vector_environment_stays_what_it_is():
    vector = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)
    assert make_training_env(vector, None, 1) is vector
    assert make_training_env(vector, None, 2) is vector
    with pytest.raises(ConfigError, match="num_envs=3, and the environment has 2"):
        make_training_env(vector, None, 3)
    with pytest.raises(ConfigError, match="copies need an id or a function"):
        make_training_env(gym.make("CartPole-v1"), None, 2)


def test_the_most_steps_of_an_episode():
    assert max_turns(text()) == 1
    assert max_turns(text(task="guess_number", task_kwargs={"max_turns": 3})) == 3
    assert max_turns(gym.make("CartPole-v1", max_episode_steps=12)) == 12
    assert max_turns(SyncVectorEnv([lambda: gym.make("CartPole-v1", max_episode_steps=9)])) == 9
    assert max_turns(TextGenerationEnv(["a"], "length")) == 1


def test_text_is_told_by_the_actions():
    vector = SyncVectorEnv([text] * 2, autoreset_mode=AutoresetMode.DISABLED)
    assert is_text(text()) and is_text(vector) and is_text(DictStep(vector))
    assert not is_text(gym.make("CartPole-v1")) and not is_text(object())


def test_titles():
    assert title(text(task="sort")) == "TextGen-v0, task sort"
    own = TextGenerationEnv(["a", "b"], "length")
    assert title(own) == "TextGen-v0, task prompts, 2 examples"
    assert title(Bare()) == "Bare"
    assert title(gym.make("CartPole-v1")) == "CartPole-v1"


class Bare:
    """Steps in dicts, and is no Gymnasium environment."""

    def reset(self, **kwargs):
        return {"observation": "a", "info": kwargs}

    def step(self, action):
        return {"observation": action, "reward": 1, "terminated": True, "truncated": False} | (
            {} if action == "no info" else {"info": {}}
        )


def test_what_steps_in_dicts_is_checked():
    env = gym.make("CartPole-v1")
    wrapped = as_dict_step(env)
    assert isinstance(wrapped, DictStep) and as_dict_step(wrapped) is wrapped
    bare = as_dict_step(Bare())
    assert bare.reset(seed=3)["info"] == {"seed": 3}
    assert bare.step("b")["reward"] == 1.0
    with pytest.raises(KeyError, match="no 'info'"):
        bare.step("no info")
    with pytest.raises(ConfigTypeError, match="got list"):
        as_dict_step([])
    assert isinstance(innermost(bare), Bare)


def test_copies_have_settings_of_the_same_and_share_the_reward():
    first = text(task="sort", reward_fn="exact_match")
    made = copies(first, 2)
    assert len(made) == 2 and len({id(innermost(env)) for env in (first, *made)}) == 3
    for copy in made:
        assert innermost(copy).task.name == "sort"
        assert innermost(copy).reward is innermost(first).reward
        ours, theirs = (env.reset(seed=5) for env in (copy, DictStep(first)))
        assert ours["observation"] == theirs["observation"]


def test_copies_that_cannot_be_made_warn():
    with pytest.warns(UserWarning, match=r"copies of Bare cannot be made \(it has no spec\)"):
        assert copies(Bare(), 2) == []


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (np.zeros(2, np.float32), "reset of .* must return"),
        ((np.zeros(2, np.float32), {}), r"step of .*: the reward .* shape \(1,\)"),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_an_environment_of_the_old_api_names_its_method(result, says, count):
    class Old(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return result

        def step(self, action):
            return np.zeros(2, np.float32), np.ones(1), False, False, {}

    env = as_dict_step(make_training_env(Old, None, count))
    with pytest.raises(TypeError, match=says):
        env.reset(seed=0)
        env.step(np.zeros(count, int) if count > 1 else 0)
