"""Stable-Baselines3 checks the wrapped environments, and learns on them."""

import warnings

import gymnasium as gym
import numpy as np
import pytest

from textenv.wrappers import (
    ActionMask,
    ByteObservation,
    ChoiceAction,
    DetokenizeAction,
    HashedBagOfWords,
    TokenizeObservation,
)

sb3 = pytest.importorskip("stable_baselines3")
torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


COLOURS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red"}
PROMPTS = [f"Which colour has {thing}?" for thing in COLOURS]
EXAMPLES = [{"answer": colour} for colour in COLOURS.values()]


def bandit():
    """Four questions, four answers: always right is 1, at random 0.25."""
    env = gym.make("TextGen-v0", prompts=PROMPTS, examples=EXAMPLES, reward_fn="exact_match")
    return ChoiceAction(HashedBagOfWords(env), list(COLOURS.values()))


STACKS = {
    "words": bandit,
    "bytes": lambda: ByteObservation(ChoiceAction(gym.make("TextGen-v0"), ["1", "2"]), 32),
    "tokens": lambda: TokenizeObservation(
        DetokenizeAction(gym.make("TextGen-v0"), "tiny-lm", 3), "tiny-lm", 12
    ),
    "mask": lambda: ActionMask(bandit_of_own_choices(), "random"),
    "mask observed": lambda: ActionMask(bandit_of_own_choices(), "random", in_observation=True),
    "turns": lambda: HashedBagOfWords(
        ChoiceAction(gym.make("TextGen-v0", task="guess_number"), [str(i) for i in range(25)])
    ),
}


def bandit_of_own_choices():
    examples = [{"answer": "b", "choices": ["a", "b"]}, {"answer": "c", "choices": ["c"]}]
    env = gym.make("TextGen-v0", prompts=["x", "y"], examples=examples, reward_fn="exact_match")
    return ChoiceAction(HashedBagOfWords(env, size=8), "choices")


@pytest.mark.parametrize("name", STACKS)
def test_sb3s_check_has_nothing_to_say(name):
    from stable_baselines3.common.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(STACKS[name]())


def always_right(model):
    env = bandit()
    for i, colour in enumerate(COLOURS.values()):
        observation, _ = env.reset(options={"example_id": i})
        action, _ = model.predict(observation, deterministic=True)
        *_, info = env.step(action)
        if info["completion"] != colour:
            return False
    return True


@pytest.mark.parametrize(
    ("name", "steps", "settings"),
    [
        ("PPO", 4096, {"n_steps": 64, "n_epochs": 5, "learning_rate": 2e-3, "ent_coef": 0.05}),
        ("A2C", 4000, {"n_steps": 16, "learning_rate": 3e-3, "ent_coef": 0.01}),
        (
            "DQN",
            3000,
            {"learning_rate": 3e-3, "exploration_fraction": 0.5, "target_update_interval": 100},
        ),
    ],
)
def test_the_best_answers_are_learnt(name, steps, settings):
    model = getattr(sb3, name)("MlpPolicy", bandit(), seed=0, device="cpu", **settings)
    assert not always_right(model)
    model.learn(steps)
    assert always_right(model)


def test_a_mask_reaches_a_vector_of_sb3():
    from stable_baselines3.common.vec_env import DummyVecEnv

    vector = DummyVecEnv([lambda: ActionMask(bandit_of_own_choices())] * 3)
    vector.reset()
    masks = np.stack(vector.env_method("action_masks"))  # as sb3-contrib's get_action_masks
    assert masks.shape == (3, 2)
    assert masks[:, 0].all()


def test_the_token_environment_learns_nothing_wrong_from_dicts():
    model = sb3.PPO("MultiInputPolicy", STACKS["tokens"](), n_steps=32, batch_size=32, seed=0)
    model.learn(64)
    observation, _ = STACKS["tokens"]().reset(seed=0)
    action, _ = model.predict(observation)
    assert action.shape == (3,)
