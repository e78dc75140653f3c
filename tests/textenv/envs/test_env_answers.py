"""Answers that are extracted: the same in every form of the environment, right only if they are."""

import asyncio
import pickle

import gymnasium as gym
import pytest

import textenv
from textenv import tasks
from textenv.envs.env import prescore_together
from textenv.errors import ConfigError, RewardError
from textenv.tasks import Task

FORMS = ["sync", "async", "vector_entry_point"]
COMPLETIONS = ["12 + 30 = 42.", "<think>41</think> It is 42", "<think>42", "42 or 43", "none", ""]
ANSWERS = ["42", "42", None, "43", None, None]


def last_word(text):
    """An extractor of one's own, at the top level, so that another process can import it."""
    return text.split()[-1] if text.split() else None


def make(**kwargs):
    given = {"prompts": ["a"], "examples": [{"answer": "42"}], "reward_fn": "exact_match"}
    return {"id": "textenv:TextGen-v0", **given, **kwargs}


def test_as_the_contract_has_it():
    env = gym.make(**make(prompts=["What is 12+30?"]), extract="last_number")
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step("12 + 30 = 42.")
    assert (reward, terminated, info["answer"], info["is_correct"]) == (1.0, True, "42", True)
    assert info["completion"] == "12 + 30 = 42."


def test_without_an_extractor_there_is_no_answer_in_the_info():
    env = gym.make(**make())
    _, reset_info = env.reset(seed=0)
    assert "answer" not in reset_info and "answer" not in env.step("42")[4]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "kwargs",
    [
        {"extract": "last_number"},
        {"extract": "last_number", "reward_fn": ["exact_match", "length"]},
        {"extract": last_word, "reward_fn": ["numeric_match", "contains"]},
        {"task": "arithmetic", "style": "chat"},
        {"task": "arithmetic", "extract": "regex:[0-9]+", "reward_fn": ["correct", "length"]},
        {"task": "guess_number", "style": "chat"},
    ],
)
def test_every_vector_form_gives_what_single_environments_give(form, kwargs, same):
    if "task" in kwargs:
        kwargs = {"reward_fn": "correct", **kwargs}
        made = {"id": "textenv:TextGen-v0", **kwargs}
    else:
        made = make(**kwargs)
    count = len(COMPLETIONS)
    envs = gym.make_vec(**made, num_envs=count, vectorization_mode=form)
    singles = [gym.make(**made) for _ in range(count)]
    try:
        observations, _ = envs.reset(seed=3)
        assert list(observations) == [s.reset(seed=3 + i)[0] for i, s in enumerate(singles)]
        texts, rewards, terminated, truncated, infos = envs.step(COMPLETIONS)
        for i, (single, completion) in enumerate(zip(singles, COMPLETIONS)):
            text, reward, term, trunc, info = single.step(completion)
            assert (texts[i], rewards[i]) == (text, reward)
            assert (terminated[i], truncated[i]) == (term, trunc)
            assert infos["_answer"][i] and infos["answer"][i] == info["answer"]
            assert ("is_correct" in infos) is ("is_correct" in info)
            assert "is_correct" not in infos or infos["is_correct"][i] == info["is_correct"]
            for name, value in info["rewards"].items():
                assert infos["rewards"][name][i] == value
    finally:
        envs.close()


def test_answers_and_scores_by_hand():
    env = gym.make(**make(extract="last_number", reward_fn=["exact_match", "length"]))
    for completion, answer in zip(COMPLETIONS, ANSWERS):
        env.reset(seed=0)
        info = env.step(completion)[4]
        right = float(answer == "42")
        assert info["answer"] == answer
        assert info["rewards"] == {"exact_match": right, "length": float(len(completion))}
        assert info["is_correct"] is bool(right)


def test_a_tasks_own_verifier_scores_the_answer_and_does_not_see_what_has_none():
    seen = []

    class Generous(Task):
        name = "generous"

        def example(self, example_id):
            return {"prompt": "say anything"}

        def score(self, example, completion):
            seen.append(completion)
            return 1.0

    for made in (gym.make, gym.make_vec):
        for completion, reward in (("x", 0.0), ("it is 7.", 1.0), ("<think>7", 0.0)):
            env = made("textenv:TextGen-v0", task=Generous(), extract="last_number")
            env.reset(seed=0)
            many = made is gym.make_vec
            got = env.step([completion] if many else completion)
            assert got[1] == reward and got[4]["is_correct"] == bool(reward)
    assert seen == ["7", "7"]


def test_each_guess_of_several_turns_is_extracted_and_the_last_one_decides():
    env = gym.make("textenv:TextGen-v0", task="guess_number", style="chat")
    _, info = env.reset(options={"example_id": 4})
    number = int(env.unwrapped.example["answer"])
    low = env.unwrapped.example["low"]
    for said, answer, reply in (
        (f"I guess {number + 30}.", str(number + 30), "\nlower\n"),
        (f"<think>{number}</think>\nMy guess: {low - 1}", str(low - 1), "\nhigher\n"),
        (f"<think>{number}", None, "\nnot a number\n"),
        ("no idea", None, "\nnot a number\n"),
    ):
        _, reward, terminated, _, info = env.step(said)
        assert (reward, terminated) == (0.0, False)
        assert (info["answer"], info["turn"], info["completion"]) == (answer, reply, said)
    _, reward, terminated, _, info = env.step(f"It must be {number}!")
    assert (reward, terminated, info["is_correct"]) == (1.0, True, True)


def test_tokens_are_extracted_from_the_text_that_they_make():
    env = gym.make("TextGenTokens-v0", tokenizer="tiny-lm", style="chat")
    env.reset(seed=0)
    right = env.unwrapped.task.oracle(env.unwrapped.example)
    tokenizer = env.unwrapped.tokenizer
    for token in [*tokenizer.encode(f"1+1={right}"), tokenizer.eos_token_ids[0]]:
        _, reward, terminated, _, info = env.step(token)
    assert (reward, terminated, info["answer"]) == (1.0, True, right)


def test_a_completion_that_was_cut_has_an_answer_too_and_is_truncated():
    env = gym.make(**make(extract="last_number", max_tokens=2), tokenizer=_Letters())
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step("42 ")
    assert (reward, terminated, truncated, info["answer"]) == (1.0, False, True, "42")


class _Letters:
    def encode(self, text):
        return list(text)


def test_what_was_begun_early_has_the_answer_and_is_extracted_once():
    extracted = []

    def number(text):
        extracted.append(text)
        return text.split()[-1] if "is" in text else None

    @textenv.reward("test_env_answers_awaited", answer=True, verifies=True)
    async def awaited(prompt, completion, example):
        await asyncio.sleep(0)
        return float(completion == example["answer"])

    @textenv.reward("test_env_answers_batch", answer=True, batch=True)
    def batch(prompts, completions, examples):
        return [float(len(completion)) for completion in completions]

    made = make(extract=number, reward_fn=[awaited, batch])
    envs = [gym.make(**made).unwrapped for _ in range(3)]
    for env in envs:
        env.reset(seed=0)
    completions = ["it is 42", "it is 4", "none"]
    prescore_together(envs, completions)
    rewards = [env.step(completion)[1] for env, completion in zip(envs, completions)]
    assert rewards == [3.0, 1.0, 0.0]
    assert extracted == completions


def test_a_function_that_fails_is_named_where_it_was_called():
    env = gym.make(**make(extract=lambda text: 42))
    env.reset(seed=0)
    with pytest.raises(RewardError, match=r"returned 42 .*; expected text or None"):
        env.step("42")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"extract": "lastnumber"}, "unknown extractor 'lastnumber'; did you mean 'last_number'"),
        ({"extract": "regex:["}, "not a regular expression"),
        ({"style": "chat"}, "own prompts are shown as they are and have no style, got 'chat'"),
    ],
)
def test_wrong_settings_are_refused_before_the_first_episode(kwargs, message):
    for form in (gym.make, gym.make_vec):
        with pytest.raises(ConfigError, match=message) as error:
            form(**make(**kwargs))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"style": "loud"}, "'arithmetic' has no style 'loud'; the styles it has: plain, chat"),
        ({"task_kwargs": {"style": "chat"}}, "style is a separate argument"),
        ({"task": tasks.make("sort"), "style": "chat"}, "style .* need the name of a task"),
    ],
)
def test_styles_that_cannot_be_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        gym.make("textenv:TextGen-v0", **kwargs)


def test_own_prompts_have_the_plain_style():
    assert gym.make(**make(style="plain")).reset(seed=0)[0] == "a"


def test_an_environment_with_an_extractor_is_made_again_and_pickled(same):
    env = gym.make("textenv:TextGen-v0", style="chat", extract="regex:[0-9]+")
    for other in (gym.make(env.spec), pickle.loads(pickle.dumps(env.unwrapped))):
        one, two = env.reset(seed=5), other.reset(seed=5)
        assert one == two
        same(env.step("1 2 3")[4], other.step("1 2 3")[4])
