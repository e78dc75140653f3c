"""Stable-Baselines3's own check and its algorithms on wrapped environments."""

import warnings

import gymnasium as gym
import numpy as np
import pytest

from tests.wrappers.shared import COLOURS, bandit
from textenv.wrappers import (
    ActionMask,
    ByteObservation,
    ChoiceAction,
    DetokenizeAction,
    HashedBagOfWords,
    TokenizeObservation,
)

sb3 = pytest.importorskip("stable_baselines3")
pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")

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


class Letters:
    """A tokenizer with an EOS and one token for each of four letters."""

    vocab_size, eos_token_id = 5, 0

    def encode(self, text):
        return [ord(letter) - 96 for letter in text]

    def decode(self, ids):
        return "".join(chr(96 + i) for i in ids)


def test_answers_in_tokens_are_learnt_from_dicts_of_tokens():
    examples = [{"prompt": prompt, "answer": answer} for prompt, answer in (("a", "d"), ("c", "b"))]

    def make():
        prompts = [example["prompt"] for example in examples]
        env = gym.make("TextGen-v0", prompts=prompts, examples=examples, reward_fn="exact_match")
        env = DetokenizeAction(env, Letters(), max_tokens=2)
        return TokenizeObservation(env, Letters(), max_length=3)

    def answers(model):
        env, said = make(), []
        for i in range(len(examples)):
            observation, _ = env.reset(options={"example_id": i})
            action, _ = model.predict(observation, deterministic=True)
            said.append(env.step(action)[4]["completion"])
        return said

    model = sb3.PPO(
        "MultiInputPolicy", make(), n_steps=128, n_epochs=5, learning_rate=2e-3, ent_coef=0.02,
        seed=0, device="cpu",
    )  # fmt: skip
    assert answers(model) != ["d", "b"]
    model.learn(3072)
    assert answers(model) == ["d", "b"]  # a letter, then EOS: one of 25 actions each
