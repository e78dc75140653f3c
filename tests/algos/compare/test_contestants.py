"""The agents that can be compared, by their names."""

import pytest

from textenv.algos.compare.arena import Arena
from textenv.algos.compare.clock import Watch
from textenv.algos.compare.contestants import NativePPO, RandomContestant, create
from textenv.algos.compare.text_agents import GRPOContestant, TextPPO
from textenv.algos.ppo_config import preset
from textenv.errors import ConfigError

CONTROL = Arena("CartPole-v1", {}, 1000, 500, 2)
TEXT = Arena("TextGen-v0", {"task": "guess_number"}, 1000, 500, 2)


def test_names_mean_agents_of_the_environment():
    assert [type(make()) for make in create(["random", "ppo"], CONTROL)] == [
        *(RandomContestant, NativePPO)
    ]
    assert [type(make()) for make in create(["ppo", "grpo"], TEXT)] == [TextPPO, GRPOContestant]


@pytest.mark.parametrize(
    ("names", "arena", "said"),
    [
        ([], CONTROL, "no agents are named; known: ppo, random, sb3:"),
        (["pppo"], CONTROL, "unknown agent 'pppo'; did you mean 'ppo'"),
        (["ppo", "random", "ppo"], CONTROL, "agent 'ppo' is named twice"),
        (["grpo"], CONTROL, "trains a language model, and CartPole-v1 is not text"),
        (["sb3-learn:DQN"], CONTROL, "unknown agent"),  # has no rollouts of its own
    ],
)
def test_names_that_mean_nothing(names, arena, said):
    with pytest.raises(ConfigError, match=said):
        create(names, arena)


@pytest.mark.parametrize("name", ["ppo", "random"])
def test_what_an_agent_says_and_does(name):
    agent = create([name], CONTROL)[0]()
    config = preset("CartPole-v1")
    assert agent.name == name and not agent.language and agent.description
    assert agent.settings["n_steps"] == agent.warm_up_timesteps == config.n_steps
    seen = []

    class Steps(Watch):
        def __call__(self, steps, policy):
            seen.append(steps)
            super().__call__(steps, policy)

    run = agent.train(3, 600, Steps(CONTROL.evaluator(), 500))
    assert seen == [0, 256, 512, 768] and run.steps == 768  # whole rollouts
    assert (run.agent, run.seed) == (name, 3)
    assert (run.parts["update"] > 0) == (name == "ppo") and run.parts["policy"] > 0
    assert [e.steps for e in run.evaluations] == [0, 512, 768]


def test_a_run_follows_from_its_seed():
    returns = []
    for seed in (3, 3, 4):
        agent = RandomContestant(CONTROL)
        run = agent.train(seed, 256, Watch(CONTROL.evaluator(), 256))
        returns.append([e.returns for e in run.evaluations])
    assert returns[0] == returns[1] != returns[2]
