"""What holds for all wrappers: Gymnasium's check, spec, vectors, errors."""

import json
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence

from textenv import wrappers
from textenv.wrappers import (
    ActionMask,
    ByteObservation,
    ChatHistory,
    ChoiceAction,
    CountFromZero,
    DetokenizeAction,
    HashedBagOfWords,
    RecordTranscript,
    TokenizeObservation,
)

PROMPTS = ["Is 3 > 2?", "Is é a letter?", "Is 2 > 3?"]
EXAMPLES = [
    {"answer": "yes", "choices": ["yes", "no"]},
    {"answer": "sure", "choices": ["sure", "never", "maybe"]},
    {"answer": "no", "choices": ["yes", "no"]},
]
OWN = {"prompts": PROMPTS, "examples": EXAMPLES, "reward_fn": "exact_match"}


def own(**kwargs):
    return gym.make("TextGen-v0", **{**OWN, **kwargs})


def guess():
    return gym.make("TextGen-v0", task="guess_number")


# name -> a stack of wrappers on own prompts, or on a task of several turns
STACKS = {
    "TokenizeObservation": lambda folder: TokenizeObservation(own(), "tiny-lm", max_length=12),
    "TokenizeObservation of turns": lambda folder: TokenizeObservation(guess(), "tiny-lm", 40),
    "DetokenizeAction": lambda folder: DetokenizeAction(own(), "tiny-lm", max_tokens=4),
    "ChoiceAction": lambda folder: ChoiceAction(own(), ["yes", "no", "sure"]),
    "ActionMask": lambda folder: ActionMask(ChoiceAction(own(), "choices"), "random"),
    "ActionMask observed": lambda folder: ActionMask(
        ChoiceAction(HashedBagOfWords(own(), 8), "choices", n=4), "random", in_observation=True
    ),
    "CountFromZero": lambda folder: CountFromZero(ChoiceAction(own(), ["yes", "no"])),
    "HashedBagOfWords": lambda folder: HashedBagOfWords(own(), size=16),
    "ByteObservation": lambda folder: ByteObservation(own(), max_length=10),
    "ChatHistory": lambda folder: ChatHistory(own(), system="Be brief."),
    "ChatHistory of turns": lambda folder: ChatHistory(guess()),
    "RecordTranscript": lambda folder: RecordTranscript(own(), folder),
    "all": lambda folder: RecordTranscript(
        ByteObservation(ChoiceAction(RecordTranscript(guess(), folder), ["3", "9"])), str(folder)
    ),
}


@pytest.fixture(params=STACKS)
def make(request, tmp_path):
    return lambda: STACKS[request.param](tmp_path)


def test_every_wrapper_is_here():
    tested = {name.split()[0] for name in STACKS} - {"all"}
    not_wrappers = {"DictStep", "TupleStep", "standardize_step"}
    assert tested == set(wrappers.__all__) - not_wrappers


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version:UserWarning")
@pytest.mark.filterwarnings("error")
def test_check_env_has_nothing_to_say(make):
    check_env(make())


def play(env, seed):
    """Everything that an environment gives in an episode of random actions."""
    env.action_space.seed(seed)
    given = [env.reset(seed=seed)]
    for _ in range(4):
        given.append(env.step(env.action_space.sample()))
        if given[-1][2] or given[-1][3]:
            break
    return given


def test_the_spec_makes_the_same_stack(make):
    env = make()
    twin = gym.make(env.spec)
    assert str(twin) == str(env)
    assert (twin.observation_space, twin.action_space) == (env.observation_space, env.action_space)
    for seed in range(4):
        assert data_equivalence(play(twin, seed), play(env, seed))


def test_the_spec_goes_through_json(make):
    env = make()
    twin = gym.make(EnvSpec.from_json(json.loads(json.dumps(env.spec.to_json()))))
    assert str(twin) == str(env)
    assert data_equivalence(play(twin, 2), play(env, 2))


@pytest.mark.parametrize("name", ["ChoiceAction", "ActionMask observed", "TokenizeObservation"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_around_each_environment_of_a_vector(name, mode, tmp_path):
    single = STACKS[name](tmp_path)
    spec = single.spec
    makers = [lambda: gym.make(spec)] * 3
    vector = (gym.vector.SyncVectorEnv if mode == "sync" else gym.vector.AsyncVectorEnv)(
        makers, **({} if mode == "sync" else {"shared_memory": False})
    )
    observations, _ = vector.reset(seed=5)
    for i in range(3):
        expected, _ = single.reset(seed=5 + i)
        if isinstance(expected, dict):
            for key, value in expected.items():
                assert np.array_equal(observations[key][i], value)
        else:
            assert observations[i] == expected
    vector.close()


def test_through_make_vec():
    vector = gym.make_vec(
        "TextGen-v0",
        2,
        vectorization_mode="sync",
        wrappers=[HashedBagOfWords, lambda env: ChoiceAction(env, ["yes", "no"])],
        **OWN,
    )
    observations, _ = vector.reset(seed=0)
    assert observations.shape == (2, 256)
    _, rewards, terminated, _, _ = vector.step(np.array([0, 1]))
    assert terminated.all() and set(rewards) <= {0.0, 1.0}


@pytest.mark.parametrize("name", [name for name in STACKS if name in wrappers.__all__])
def test_the_docstrings_say_how_a_vector_is_wrapped(name):
    """Gymnasium refuses ``wrappers`` beside a vector entry point, which TextGen-v0 has."""
    words = " ".join(getattr(wrappers, name).__doc__.split())
    assert 'gym.make_vec(..., vectorization_mode="sync", wrappers=[...])' in words
    with pytest.raises(gym.error.Error, match="wrappers"):
        gym.make_vec("TextGen-v0", 2, wrappers=[lambda env: env], **OWN)


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None])
@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda env, v: TokenizeObservation(env, "tiny-lm", v), "max_length"),
        (lambda env, v: DetokenizeAction(env, "tiny-lm", v), "max_tokens"),
        (HashedBagOfWords, "size"),
        (ByteObservation, "max_length"),
    ],
)
def test_a_bad_size_is_named(wrap, name, value):
    with pytest.raises(ValueError, match=f"{name} must be .* got {value!r}"):
        wrap(own(), value)


def test_no_wrapper_changes_the_info_of_another(tmp_path):
    env = RecordTranscript(ChoiceAction(own(), "choices"), tmp_path)
    _, first = env.reset(seed=0)
    _, second = env.reset(seed=0)
    assert first is not second and first["choices"] is not second["choices"]
    assert first["action_mask"] is not second["action_mask"]
    first["choices"].clear()
    assert env.step(0)[2]


def test_wrappers_bring_no_framework():
    import subprocess

    code = (
        "import sys, textenv.wrappers, textenv.wrappers.trl\n"
        "names = ('torch', 'mlx', 'transformers', 'tokenizers', 'trl', 'stable_baselines3')\n"
        "print([m for m in names if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done


def test_a_reward_is_transformed_by_gymnasiums_own_wrapper():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.wrappers.TransformReward(own(), lambda reward: 2 * reward - 1)
        env.reset(options={"example_id": 0})
        assert env.step("yes")[1] == 1.0
        env.reset(options={"example_id": 0})
        assert env.step("no")[1] == -1.0
