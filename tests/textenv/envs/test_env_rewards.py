"""How the text environment calls its reward functions, in a step and before it."""

import asyncio
import pickle
import queue
from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest

import textenv
from tests.textenv.shared import chars, make, ones, own
from textenv import TextGenerationEnv


def test_own_examples_reach_the_reward_function():
    seen = []

    def spy(prompt, completion, example):
        seen.append((prompt, completion, example))
        return 0.0

    env = own(["p", "q"], spy, examples=[{"answer": "4"}, {"answer": "5", "prompt": "not this"}])
    env.reset(options={"example_id": 1})
    env.step("done")
    assert seen == [("q", "done", {"answer": "5", "prompt": "q"})]


@pytest.mark.parametrize(
    ("completion", "reward"), [("4", 1.0), (" 4\n", 1.0), ("5", 0.0), ("", 0.0)]
)
def test_own_answers_are_matched_by_name(completion, reward):
    env = own(["2+2="], "exact_match", examples=[{"answer": "4"}])
    env.reset()
    _, got, _, _, info = env.step(completion)
    assert (got, info["is_correct"]) == (reward, reward == 1.0)


def test_components_are_summed_by_weight_and_logged_raw():
    env = own(["four"], [chars, ones], reward_weights={"letters": 0.5, "ones": -2})
    env.reset()
    _, reward, _, _, info = env.step("abc")
    assert reward == 0.5 * 3 + 4 - 2
    assert type(reward) is float
    assert info["rewards"] == {"letters": 3.0, "prompt": 4.0, "ones": 1.0}
    assert {type(value) for value in info["rewards"].values()} == {float}
    assert "is_correct" not in info


def test_a_task_tells_what_is_correct_whatever_the_reward():
    env = make(reward_fn=ones)
    env.reset(seed=0)
    answer = env.unwrapped.task.oracle(env.unwrapped.example)
    assert env.step(answer)[4]["is_correct"] is True


@pytest.mark.parametrize(("score", "expected"), [(np.float64(1), True), (0.5, False)])
def test_a_tasks_score_makes_a_plain_flag(score, expected):
    class Own(textenv.tasks.Task):
        name = "own"

        def example(self, example_id):
            return {"prompt": "a"}

        def score(self, example, completion):
            return score

    for reward_fn in ("correct", ones):
        env = TextGenerationEnv(task=Own(), reward_fn=reward_fn)
        env.reset()
        assert env.step("x")[4]["is_correct"] is expected


def test_a_reward_function_cannot_change_the_examples():
    env = own(["a"], lambda p, c, e: e["values"].pop(), examples=[{"values": [1, 2]}])
    rewards = []
    for _ in range(2):
        env.reset()
        rewards.append(env.step("x")[1])
    assert rewards == [2.0, 2.0]


def test_an_environment_takes_the_settings_and_its_spec_keeps_them():
    async def hangs(prompt, completion, example):
        await asyncio.sleep(3600)

    settings = {"reward_timeout": 0.3, "reward_on_timeout": -2.0}
    env = gym.make("textenv:TextGen-v0", prompts=["p"], reward_fn=hangs, **settings)
    for copy in (env, gym.make(env.spec), gym.make(env.unwrapped.spec)):
        copy.reset(seed=0)
        assert copy.step("x")[1] == -2.0


def test_an_environment_scores_the_action_that_it_is_given():
    """Calls that were begun for another action, or before a reset, are cancelled."""
    events: queue.Queue = queue.Queue()
    hanging = {"other", "reset", "closed"}

    async def judge(prompt, completion, example):
        events.put(("called", prompt, completion))
        try:
            await asyncio.sleep(3600 if completion in hanging else 0)
        except asyncio.CancelledError:
            events.put(("cancelled", prompt, completion))
            raise
        return float(len(completion))

    def happened(count):
        return {events.get(timeout=30) for _ in range(count)}

    env = gym.make("textenv:TextGen-v0", prompts=["p"], reward_fn=judge).unwrapped
    env.prescore("before the first reset")
    env.reset(seed=0)
    env.prescore("one")
    env.prescore("one")
    assert env.step("one")[1] == 3.0
    env.prescore("after the end")
    assert happened(1) == {("called", "p", "one")}
    env.reset()
    env.prescore("other")
    assert happened(1) == {("called", "p", "other")}
    assert env.step("three")[1] == 5.0
    assert happened(2) == {("cancelled", "p", "other"), ("called", "p", "three")}
    env.reset()
    env.prescore("reset")
    assert happened(1) == {("called", "p", "reset")}
    env.reset()
    assert happened(1) == {("cancelled", "p", "reset")}
    hanging.remove("reset")
    assert env.step("reset")[1] == 5.0
    assert happened(1) == {("called", "p", "reset")}
    env.reset()
    env.prescore("closed")
    assert happened(1) == {("called", "p", "closed")}
    env.close()
    assert happened(1) == {("cancelled", "p", "closed")}
    assert events.empty()


OWN = {"prompts": ["a", "b"], "examples": [{"answer": "4"}] * 2, "reward_fn": "exact_match"}


@pytest.mark.parametrize("copied", [deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize(
    "made",
    [
        {"id": "textenv:TextGen-v0", **OWN, "reward_process": True},
        {"id": "textenv:TextGen-v0", **OWN, "reward_fn": "math_equal"},
        {"id": "textenv:TextGen-v0", "task": "calculator"},
        {"id": "textenv:TextGen-v0", "task": "reasoning_gym:countdown"},
        {"id": "textenv:TextGenTokens-v0", **OWN, "max_tokens": 2, "reward_process": True},
    ],
)
def test_a_copy_of_an_environment_goes_on_as_it_does(made, copied):
    if "reasoning_gym" in made.get("task", ""):
        pytest.importorskip("reasoning_gym")
    if made.get("reward_fn") == "math_equal":
        pytest.importorskip("math_verify")
    env = gym.make(**made)
    is_text = isinstance(env.action_space, gym.spaces.Text)
    answer = "4" if is_text else env.unwrapped.tokenizer.encode("4")[0]
    try:
        for started in (False, True):  # whether the process was
            env.reset(seed=3)
            if is_text and started:
                env.unwrapped.prescore(answer)
            other = copied(env)
            try:
                assert repr(other.step(answer)) == repr(env.step(answer))
                assert repr(other.reset()) == repr(env.reset())
            finally:
                other.close()
    finally:
        env.close()


def test_a_copy_has_a_process_of_its_own():
    env = gym.make("textenv:TextGen-v0", **OWN, reward_process=True)
    env.reset(seed=0)
    env.step("4")
    other = deepcopy(env)
    env.close()
    other.reset(seed=0)
    assert other.step("4")[1] == 1.0
    other.close()


def shy(prompt, completion, example):
    return None if completion == "hard" else float(len(completion))


def test_a_reward_that_abstains_is_no_score_in_every_form():
    settings = {"prompts": ["p"], "reward_fn": shy}
    env = gym.make("textenv:TextGen-v0", **settings)
    env.reset(seed=0)
    assert env.step("hard")[1:] == (
        *(0.0, True, False),
        {"completion": "hard", "rewards": {}, "scored": False},
    )
    env.reset(seed=0)
    assert env.step("ab")[4] == {"completion": "ab", "rewards": {"shy": 2.0}}
    for mode in (None, "sync", "async"):
        envs = gym.make_vec("TextGen-v0", 3, vectorization_mode=mode, **settings)
        envs.reset(seed=0)
        _, rewards, _, _, infos = envs.step(["ab", "hard", "c"])
        envs.close()
        assert rewards.tolist() == [2.0, 0.0, 1.0]
        assert infos["_scored"].tolist() == [False, True, False]
        assert not infos["scored"].any()
        assert infos["rewards"]["_shy"].tolist() == [True, False, True]
    strict = gym.make("TextGen-v0", **settings, reward_may_abstain=False)
    for each in (strict, gym.make(strict.unwrapped.spec)):
        each.reset(seed=0)
        with pytest.raises(textenv.errors.RewardError, match="shy returned None"):
            each.step("hard")
