"""skrl's wrapper and its PPO on text environments.

What the wrapper gives is unflattened and compared with stepping by hand, with the same seeds.
"""

import gymnasium as gym
import numpy as np
import pytest

from textenv.wrappers import ActionMask, ChoiceAction, TokenizeObservation

torch = pytest.importorskip("torch")
pytest.importorskip("skrl")

from skrl import logger  # noqa: E402
from skrl.agents.torch.ppo import PPO, PPO_CFG  # noqa: E402
from skrl.envs.wrappers.torch import wrap_env  # noqa: E402
from skrl.memories.torch import RandomMemory  # noqa: E402
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model  # noqa: E402
from skrl.trainers.torch import SequentialTrainer  # noqa: E402
from skrl.utils.spaces.torch import (  # noqa: E402
    compute_space_size,
    flatten_tensorized_space,
    tensorize_space,
    unflatten_tensorized_space,
    untensorize_space,
)

COLOURS = {"grass": "green", "snow": "white"}
logger.setLevel("ERROR")


def tokens():
    return gym.make("textenv:TextGenTokens-v0", tokenizer="tiny-lm", max_tokens=4, max_length=16)


def masked_tokens():
    return ActionMask(tokens(), in_observation=True)


def colours():
    env = gym.make(
        "textenv:TextGen-v0",
        prompts=[f"Which colour has {thing}?" for thing in COLOURS],
        examples=[{"answer": colour} for colour in COLOURS.values()],
        reward_fn="exact_match",
    )
    return ChoiceAction(TokenizeObservation(env, "tiny-lm", 32), list(COLOURS.values()))


def assert_same(given, observation):
    if isinstance(observation, dict):
        assert given.keys() == observation.keys()
        for key, value in observation.items():
            assert_same(given[key], value)
    else:
        np.testing.assert_array_equal(np.reshape(given, np.shape(observation)), observation)


@pytest.mark.parametrize("make", [tokens, masked_tokens, colours])
def test_the_wrapper_sees_what_stepping_by_hand_gives(make):
    inner, by_hand = make(), make()
    env = wrap_env(inner)
    space = by_hand.observation_space

    def plain(observations):
        return untensorize_space(space, unflatten_tensorized_space(space, observations))

    env.reset()  # the first one has a seed of skrl's own
    rng = np.random.default_rng(0)
    ended = 0
    for seed in range(8):
        inner.reset(seed=seed)
        by_hand.reset(seed=seed)
        assert_same(plain(env.reset()[0]), by_hand.reset()[0])
        for _ in range(4):
            action = int(rng.integers(1, by_hand.action_space.n))
            observations, reward, terminated, truncated, _ = env.step(torch.tensor([[action]]))
            expected, *outcome, _ = by_hand.step(action)
            assert_same(plain(observations), expected)
            assert [reward.item(), terminated.item(), truncated.item()] == outcome
            if any(outcome[1:]):
                ended += 1
                break
    assert ended > 3


class Policy(CategoricalMixin, Model):
    """The logits are a linear function of the ids."""

    def __init__(self, observation_space, action_space, device):
        Model.__init__(self, observation_space=observation_space, action_space=action_space)
        CategoricalMixin.__init__(self)
        self.net = torch.nn.Linear(compute_space_size(observation_space), int(action_space.n))

    def compute(self, inputs, role=""):
        return self.net(inputs["observations"] / 100), {}


class Value(DeterministicMixin, Model):
    """The value is a linear function of the ids."""

    def __init__(self, observation_space, action_space, device):
        Model.__init__(self, observation_space=observation_space, action_space=action_space)
        DeterministicMixin.__init__(self)
        self.net = torch.nn.Linear(compute_space_size(observation_space), 1)

    def compute(self, inputs, role=""):
        return self.net(inputs["observations"] / 100), {}


def test_its_ppo_learns_to_answer(tmp_path):
    torch.manual_seed(0)
    env = wrap_env(gym.vector.SyncVectorEnv([colours] * 4))
    spaces = env.observation_space, env.action_space, "cpu"
    models = {"policy": Policy(*spaces), "value": Value(*spaces)}
    config = PPO_CFG(rollouts=32, learning_rate=1e-2)
    config.experiment.directory = str(tmp_path)
    config.experiment.write_interval = config.experiment.checkpoint_interval = 0
    agent = PPO(
        models=models,
        memory=RandomMemory(memory_size=32, num_envs=4, device="cpu"),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device="cpu",
        cfg=config,
    )
    trainer = SequentialTrainer(
        env=env,
        agents=agent,
        cfg={"timesteps": 320, "headless": True, "disable_progressbar": True},
    )
    trainer.train()
    by_hand = colours()
    for example_id in range(2):
        observation = tensorize_space(
            spaces[0], by_hand.reset(options={"example_id": example_id})[0]
        )
        logits, _ = models["policy"].compute(
            {"observations": flatten_tensorized_space(observation)}
        )
        assert logits.argmax() == example_id
