"""Step results as dicts, and the way back to Gymnasium's tuples."""

import warnings
from fractions import Fraction

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from textenv.wrappers import DictStep, TupleStep, standardize_step
from textenv.wrappers.step import CheckedStep

KEYS = ["observation", "reward", "terminated", "truncated", "info"]
STEP = {"observation": 1, "reward": 2.0, "terminated": False, "truncated": True, "info": {"a": 1}}


class Returns(gym.Env):
    """An environment whose step returns whatever it is given."""

    observation_space = action_space = gym.spaces.Discrete(9)

    def __init__(self, result):
        self.result = result

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return self.result


class Foreign:
    """An environment that is not Gymnasium's and counts to three; its steps are dicts."""

    observation_space = gym.spaces.Discrete(4)
    action_space = gym.spaces.Discrete(2)
    closed = 0

    def reset(self, seed=None, options=None):
        self.count = 0
        return {"observation": 0, "info": {"seed": seed, "options": options}}

    def step(self, action):
        self.count += 1
        return {
            "info": {"action": action},
            "truncated": np.False_,
            "terminated": np.bool_(self.count == 3),
            "reward": 0.5 * action,
            "observation": self.count,
            "more": "ignored",
        }


@pytest.mark.parametrize("env_id", ["CartPole-v1", "TextGen-v0"])
def test_dict_steps_are_the_tuples_steps(env_id):
    plain, dicts = gym.make(env_id), DictStep(gym.make(env_id))
    assert (dicts.observation_space, dicts.action_space) == (
        plain.observation_space,
        plain.action_space,
    )
    for seed in range(3):
        observation, info = plain.reset(seed=seed)
        start = dicts.reset(seed=seed)
        assert list(start) == ["observation", "info"]
        assert np.array_equal(start["observation"], observation)
        assert start["info"] == info
        plain.action_space.seed(seed)
        for _ in range(5):
            action = plain.action_space.sample()
            observation, reward, terminated, truncated, info = plain.step(action)
            step = dicts.step(action)
            assert type(step) is dict
            assert list(step) == KEYS
            assert np.array_equal(step["observation"], observation)
            assert (step["reward"], step["info"]) == (reward, info)
            assert (step["terminated"], step["truncated"]) == (terminated, truncated)
            assert type(step["terminated"]) is type(step["truncated"]) is bool
            if terminated or truncated:
                break


def test_a_dict_step_is_no_gym_env():
    env = DictStep(gym.make("TextGen-v0", render_mode="ansi"))
    assert not isinstance(env, (gym.Env, gym.vector.VectorEnv))
    assert env.reset(seed=0)["observation"] == env.render()
    assert env.spec.id == env.unwrapped.spec.id == "TextGen-v0"
    env.close()


def test_options_reach_the_environment():
    start = DictStep(gym.make("TextGen-v0")).reset(options={"example_id": 7})
    assert start["info"]["example_id"] == 7


def test_numpys_flags_become_pythons():
    step = DictStep(Returns((1, 2.0, np.True_, np.array(False), {}))).step(0)
    assert step == {**STEP, "terminated": True, "truncated": False, "info": {}}
    assert type(step["terminated"]) is type(step["truncated"]) is bool


@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_flags_of_a_vector_environment_stay_arrays(mode):
    plain, made = (gym.make_vec("CartPole-v1", 3, vectorization_mode=mode) for _ in range(2))
    dicts = DictStep(made)
    observations, _ = plain.reset(seed=1)
    assert np.array_equal(dicts.reset(seed=1)["observation"], observations)
    ended = 0
    for _ in range(30):
        values = plain.step(np.array([0, 1, 1]))
        step = dicts.step(np.array([0, 1, 1]))
        assert list(step) == KEYS
        for key, value in zip(KEYS[:4], values):
            assert np.array_equal(step[key], value)
        assert step["terminated"].dtype == bool
        assert step["terminated"].shape == step["truncated"].shape == (3,)
        ended += step["terminated"].sum()
    assert ended > 0


@pytest.mark.parametrize("env", [None, 3, "CartPole-v1", Foreign(), gym.Env, lambda: 0])
def test_what_is_no_environment_is_named(env):
    with pytest.raises(TypeError, match=type(env).__name__):
        DictStep(env)


@pytest.mark.parametrize("result", [STEP, "abcde", {1, 2, 3, 4, 5}])
def test_a_step_that_is_no_tuple_is_refused_and_not_garbled(result):
    with pytest.raises(TypeError):
        DictStep(Returns(result)).step(0)


@pytest.mark.parametrize("result", [(1, 2.0, False, {}), (1, 2.0, False, False, {}, 3), ()])
def test_a_tuple_of_another_length_is_a_type_error(result):
    with pytest.raises(TypeError):
        DictStep(Returns(result)).step(0)


@pytest.mark.parametrize(
    "result",
    [
        np.zeros(3),
        np.zeros(2),
        "ab",
        (1, 2),
        (1, {}, 3),
        {"observation": 1, "info": {}},
        None,
        [1, {}],
    ],
)
def test_a_reset_that_returns_something_else_names_the_method(result):
    env = Returns(STEP)
    env.reset = lambda **_: result
    for checked in (DictStep(env), CheckedStep(env)):
        with pytest.raises(
            TypeError, match=r"reset of .*Returns.* must return \(observation, info\)"
        ):
            checked.reset()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"reward": np.array([1.0])}, r"reward .* must be a number, got an array of shape \(1,\)"),
        ({"reward": [1.0]}, r"reward .* must be a number, got \[1.0\]"),
        ({"reward": None}, "reward .* must be a number, got None"),
        ({"reward": "1"}, "reward .* must be a number, got '1'"),
        ({"terminated": np.array([True])}, r"terminated must be True or False, .* \(1,\)"),
        ({"truncated": np.zeros((2, 1), bool)}, r"truncated must be True or False, .* \(2, 1\)"),
        ({"terminated": None}, "terminated must be a flag"),
        ({"info": None}, "info must be a dict, got NoneType"),
    ],
)
def test_what_a_step_may_not_return_names_the_method(changed, says):
    env = Returns(tuple({**STEP, **changed}.values()))
    for checked in (DictStep(env), CheckedStep(env)):
        with pytest.raises(TypeError, match=f"step of .*Returns.*{says}"):
            checked.step(0)


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.array(1.0), np.True_, Fraction(1)])
def test_any_single_number_is_a_reward(reward):
    step = DictStep(Returns(tuple({**STEP, "reward": reward}.values()))).step(0)
    assert step["reward"] is reward
    assert standardize_step({**STEP, "reward": reward})["reward"] is reward


def test_rewards_of_a_vector_are_one_for_each_environment():
    both = {**STEP, "terminated": np.zeros(2, bool), "truncated": np.zeros(2, bool)}
    for reward in (np.zeros(2), [0.0, 1.0]):
        assert standardize_step({**both, "reward": reward})["reward"] is reward
    for reward in (np.zeros((2, 1)), 1.0, [0.0], np.zeros(3)):
        envs = gym.vector.VectorEnv()
        envs.num_envs, envs.observation_space, envs.action_space = 2, None, None
        envs.step = lambda _: tuple({**both, "reward": reward}.values())  # noqa: B023
        with pytest.raises(TypeError, match=r"step of .* an array of shape \(2,\), like the flags"):
            DictStep(envs).step(0)
        if np.ndim(reward) and isinstance(reward, np.ndarray):
            with pytest.raises(TypeError, match=r"shape \(2,\), like the flags"):
                standardize_step({**both, "reward": reward})


def test_a_checked_step_changes_nothing():
    env = gym.make("CartPole-v1")
    checked = CheckedStep(env)
    assert checked.spec is env.spec
    assert np.array_equal(checked.reset(seed=3)[0], env.reset(seed=3)[0])


def test_standardize_step_returns_the_dict():
    assert standardize_step(STEP) == STEP
    shuffled = {**dict(reversed(STEP.items())), "terminated": np.True_}
    step = standardize_step(shuffled)
    assert step == {**STEP, "terminated": True}
    assert (list(step), type(step["terminated"])) == (KEYS, bool)
    assert step["info"] is STEP["info"]
    assert shuffled["terminated"] is np.True_  # the argument is unchanged


@pytest.mark.parametrize("value", [False, True, np.False_, np.array(True), 0, 1])
def test_standardize_step_makes_a_flag_plain(value):
    step = standardize_step({**STEP, "terminated": value})
    assert step["terminated"] is bool(value)


def test_standardize_step_leaves_arrays_of_flags():
    flags = np.array([True, False])
    step = standardize_step({**STEP, "terminated": flags})
    assert step["terminated"].tolist() == [True, False]
    one = standardize_step({**STEP, "terminated": np.array([False])})
    assert one["terminated"].shape == (1,)


@pytest.mark.parametrize("flags", [[False, False], (False,), "False", None])
def test_standardize_step_does_not_make_up_a_flag(flags):
    with pytest.raises(TypeError, match="terminated must be a flag or an array of flags, got"):
        standardize_step({**STEP, "terminated": flags})


@pytest.mark.parametrize(
    "result", [(1, 2.0, False, False, {}), [1], None, "observation", 3, list(STEP.items())]
)
def test_standardize_step_refuses_other_shapes(result):
    with pytest.raises(TypeError, match=rf"dict.* got {type(result).__name__}"):
        standardize_step(result)


@pytest.mark.parametrize("key", KEYS)
def test_standardize_step_names_a_missing_key(key):
    with pytest.raises(KeyError, match=f"no '{key}'"):
        standardize_step({k: v for k, v in STEP.items() if k != key})


@pytest.mark.parametrize("env_id", ["CartPole-v1", "TextGen-v0"])
@pytest.mark.filterwarnings("ignore:.*A Box observation space m:UserWarning")  # CartPole's own
@pytest.mark.filterwarnings("error")
def test_there_and_back_is_a_gymnasium_environment(env_id):
    env = TupleStep(DictStep(gym.make(env_id)))
    assert isinstance(env, gym.Env)
    check_env(env, skip_render_check=True)


def test_there_and_back_changes_nothing():
    plain, back = gym.make("CartPole-v1"), TupleStep(DictStep(gym.make("CartPole-v1")))
    for seed in (3, None):
        assert np.array_equal(plain.reset(seed=seed)[0], back.reset(seed=seed)[0])
        done = False
        while not done:
            values, again = plain.step(1), back.step(1)
            assert type(again) is tuple
            assert np.array_equal(values[0], again[0])
            assert values[1:] == again[1:]
            done = again[2] or again[3]


def test_a_foreign_environment_becomes_a_gymnasium_one():
    env = TupleStep(Foreign())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert env.reset(seed=5, options={"a": 1}) == (0, {"seed": 5, "options": {"a": 1}})
        steps = [env.step(1) for _ in range(3)]
    assert steps[0] == (1, 0.5, False, False, {"action": 1})
    assert [(s[0], s[2]) for s in steps] == [(1, False), (2, False), (3, True)]
    assert {type(flag) for s in steps for flag in s[2:4]} == {bool}
    assert env.render() is None
    env.close()
    limited = gym.wrappers.TimeLimit(TupleStep(Foreign()), 2)
    limited.reset()
    assert [limited.step(0)[3] for _ in range(2)] == [False, True]


def test_a_foreign_environment_that_steps_in_tuples_is_refused():
    class Tuples(Foreign):
        def step(self, action):
            return 1, 0.0, False, False, {}

    env = TupleStep(Tuples())
    env.reset()
    with pytest.raises(TypeError, match="tuple"):
        env.step(0)


def test_a_foreign_environment_keeps_its_render_mode():
    class Rendered(Foreign):
        metadata = {"render_modes": ["ansi"]}  # noqa: RUF012
        render_mode = "ansi"

    env = TupleStep(Rendered())
    assert (env.render_mode, env.metadata) == ("ansi", Rendered.metadata)


@pytest.mark.parametrize("start", [(0, {}), {"observation": 0}, None])
def test_a_reset_of_another_shape_is_named(start):
    class Resets(Foreign):
        def reset(self, seed=None, options=None):
            return start

    with pytest.raises((TypeError, KeyError), match=r"reset"):
        TupleStep(Resets()).reset()
