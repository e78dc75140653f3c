"""Where a rollout comes from, and whether it fits where it goes."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation, RescaleAction

from textenv.algos import Buffer, RolloutRunner, create_policy, create_strategy
from textenv.algos.control.random_policy import RandomPolicy
from textenv.algos.storage.source import check_source, describe_source
from textenv.algos.storage.space_json import describe_space
from textenv.wrappers import DictStep, RecordTranscript


def cartpole(**kwargs):
    return gym.make("CartPole-v1", **kwargs)


def play(env, steps=8):
    policy = RandomPolicy(env.action_space)
    runner = RolloutRunner(env, policy, max_steps=steps)
    rollout = runner.collect()
    rollout.source = describe_source(runner)
    return rollout


def test_of_a_runner():
    env = gym.make("Pendulum-v1", g=9.0)
    policy = RandomPolicy(env.action_space, seed=3)
    runner = RolloutRunner(env, policy, max_steps=8, seed=5)
    runner.policy_version = 7
    source = describe_source(runner, gamma=0.9, gae_lambda=0.8)
    assert (source.env_id, source.env_kwargs) == ("Pendulum-v1", {"g": 9.0})
    assert (source.num_envs, source.seed, source.policy_version) == (1, 5, 7)
    assert (source.gamma, source.gae_lambda) == (0.9, 0.8)
    assert source.observation_space == describe_space(env.observation_space)
    assert source.action_space == describe_space(env.action_space)
    assert source.policy_hash == policy.fingerprint()
    assert source.versions["numpy"] == np.__version__
    assert source.versions["gymnasium"] == importlib.metadata.version("gymnasium")
    assert describe_source(runner, gamma=0.9, gae_lambda=0.8) == source


@pytest.mark.parametrize(
    "make",
    [
        lambda: gym.make_vec(
            "CartPole-v1",
            3,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            sutton_barto_reward=True,
        ),
        lambda: SyncVectorEnv([lambda: cartpole(sutton_barto_reward=True)] * 3),
        lambda: gym.make_vec("CartPole-v1", 3, "vector_entry_point", sutton_barto_reward=True),
        lambda: gym.make_vec("CartPole-v1", 3, "async", sutton_barto_reward=True),
        lambda: AsyncVectorEnv([lambda: cartpole(sutton_barto_reward=True)] * 3),
    ],
    ids=["make_vec", "sync", "entry point", "make_vec async", "async"],
)
@pytest.mark.parametrize("wrap", [lambda env: env, DictStep], ids=["bare", "DictStep"])
def test_of_a_vector_environment_it_is_the_single_one(make, wrap):
    env = make()
    source = describe_source(wrap(env))
    single = describe_source(cartpole(sutton_barto_reward=True))
    assert source.num_envs == 3 and single.num_envs == 1
    for name in ("env_id", "env_kwargs", "env_wrappers", "observation_space", "action_space"):
        assert getattr(source, name) == getattr(single, name), name
    check_source(Buffer(source=source), cartpole())
    check_source(Buffer(source=single), wrap(env))
    env.close()


@pytest.mark.parametrize(
    "make", [cartpole, lambda **kwargs: gym.make_vec("CartPole-v1", 2, **kwargs)]
)
def test_a_limit_of_its_own_is_one_of_the_kwargs(make):
    assert describe_source(make(max_episode_steps=30)).env_kwargs == {"max_episode_steps": 30}
    assert describe_source(make()).env_kwargs == {}


def reward(prompt, completion, example):
    return 1.0


def test_kwargs_that_json_does_not_know():
    class Odd(gym.Env):
        observation_space = action_space = gym.spaces.Discrete(2)

        def __init__(self, **kwargs):
            pass

    gym.register("Odd-v0", Odd)
    try:
        kwargs = {
            "fn": reward,
            "many": (1, [np.float32(0.5), {"a": np.arange(2)}]),
            "inf": float("inf"),
            "path": Path("a") / "b",
            "thing": np.random.default_rng(0),
            "flag": np.bool_(True),
        }
        source = describe_source(gym.make("Odd-v0", disable_env_checker=True, **kwargs))
    finally:
        del gym.registry["Odd-v0"]
    assert source.env_kwargs == {
        "fn": f"<{reward.__module__}.reward>",
        "many": [1, [0.5, {"a": [0, 1]}]],
        "inf": "inf",
        "path": str(Path("a/b")),
        "thing": "<numpy.random._generator.Generator>",
        "flag": True,
    }
    assert json.loads(json.dumps(source.env_kwargs, allow_nan=False)) == source.env_kwargs


FLAT = {
    "name": "FlattenObservation",
    "entry_point": "gymnasium.wrappers.transform_observation:FlattenObservation",
    "kwargs": {},
}


def test_wrappers_are_named():
    lake = gym.make("FrozenLake-v1")
    assert describe_source(lake).env_wrappers == []
    assert describe_source(FlattenObservation(lake)).env_wrappers == [FLAT]
    vector = SyncVectorEnv([lambda: FlattenObservation(gym.make("FrozenLake-v1"))] * 2)
    assert describe_source(vector).env_wrappers == [FLAT]
    half = RescaleAction(gym.make("Pendulum-v1"), -1.0, np.float32(0.5))
    assert describe_source(half).env_wrappers[0]["kwargs"] == {"min_action": -1, "max_action": 0.5}
    bare = gym.make_vec("FrozenLake-v1", 2, vectorization_mode="sync")
    assert describe_source(gym.wrappers.vector.FlattenObservation(bare)).env_wrappers is None
    same = gym.wrappers.vector.RecordEpisodeStatistics(bare)
    assert describe_source(same).env_wrappers == []


def test_an_environment_without_a_spec():
    env = cartpole().unwrapped
    env.spec = None
    source = describe_source(env)
    assert source.env_id is None and source.env_kwargs == {} and source.env_wrappers is None
    check_source(Buffer(source=source), cartpole())


def test_the_fingerprint_of_a_language_model(fresh):
    model, tokenizer = fresh
    policy = create_policy(model, tokenizer)
    first = policy.fingerprint()
    assert len(first) == 64 and policy.fingerprint() == first
    assert create_policy(model, tokenizer, {"temperature": 0.5}).fingerprint() == first
    weights = model.model.layers[0].self_attn.q_proj.weight
    weights[0, 0] += 1e-3
    model.model.layers[0].self_attn.q_proj.weight = weights
    assert policy.fingerprint() != first
    weights[0, 0] -= 1e-3
    model.set_dtype(__import__("mlx.core").core.bfloat16)
    assert len({policy.fingerprint(), first}) == 2  # of types that NumPy does not know too


def test_a_rollout_of_another_environment(tmp_path):
    rollout = play(cartpole())
    path = rollout.save(tmp_path / "r.json")
    for given in (rollout, path, str(path)):
        check_source(given, cartpole())
        with pytest.raises(ValueError, match=r"made for CartPole-v1, and this is Acrobot-v1"):
            check_source(given, gym.make("Acrobot-v1"))
    with pytest.raises(ValueError, match=r"r\.json was made for"):
        check_source(path, gym.make("Acrobot-v1"))


def test_a_rollout_of_other_spaces():
    rollout = play(gym.make("MountainCarContinuous-v0"))
    other = gym.wrappers.RescaleAction(gym.make("MountainCarContinuous-v0"), -3, 3)
    words = (
        r"made for MountainCarContinuous-v0 with action space Box\(-1.0, 1.0.* and "
        r"MountainCarContinuous-v0 has Box\(-3.0, 3.0"
    )
    with pytest.raises(ValueError, match=words):
        check_source(rollout, other)
    seen = gym.wrappers.FlattenObservation(gym.wrappers.TimeAwareObservation(cartpole()))
    with pytest.raises(ValueError, match=r"(?s)with observation space Box.*\(4,\).*\(5,\)"):
        check_source(play(cartpole()), seen)


def test_a_rollout_that_does_not_say(tmp_path):
    rollout = play(cartpole())
    rollout.source = None
    check_source(rollout, cartpole())
    with pytest.raises(ValueError, match=r"holds the observation .* not in the observation space"):
        check_source(rollout, gym.make("Acrobot-v1"))
    env = RecordTranscript(gym.make("textenv:TextGen-v0"), tmp_path)
    env.reset()
    env.step("1")
    env.close()
    check_source(env.path, gym.make("textenv:TextGen-v0"))
    with pytest.raises(ValueError, match="holds the observation '"):
        check_source(env.path, cartpole())


def test_text_of_one_environment_fits_another_task(tiny):
    def collect(env):
        runner = RolloutRunner(
            env, create_policy(*tiny, {"max_tokens": 2}), create_strategy("grpo"), max_steps=8
        )
        rollout = runner.collect()
        rollout.source = describe_source(runner)
        return rollout

    rollout = collect(gym.make("textenv:TextGen-v0"))
    check_source(rollout, gym.make("textenv:TextGen-v0", task="countdown"))
    with pytest.raises(ValueError, match="made for TextGen-v0, and this is CartPole-v1"):
        check_source(rollout, cartpole())
