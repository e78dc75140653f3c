"""The text environment: seeds, examples, steps, flags, rendering and specs."""

import functools
import inspect
import json
import random
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

import textenv
from tests.textenv.shared import chars, make, ones, own
from textenv import TextGenerationEnv, TokenGenerationEnv, tasks

TASKS = ["arithmetic", "countdown", "reverse", "sort"]


class Words:
    """A tokenizer with one token for each word."""

    def encode(self, text):
        return text.split()


def test_the_built_in_tasks_are_there():
    assert set(TASKS) <= set(textenv.tasks.names())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("render_mode", [None, "ansi", "human"])
@pytest.mark.filterwarnings("error")
def test_check_env_has_nothing_to_say(task, render_mode):
    check_env(make(task=task, render_mode=render_mode).unwrapped)


@pytest.mark.filterwarnings("error")
def test_check_env_has_nothing_to_say_of_own_prompts():
    check_env(own(examples=[{"answer": "x"}] * 3, reward_fn=["exact_match", ones]).unwrapped)
    check_env(TextGenerationEnv(["é"], lambda p, c, e: 0.5, 4, Words()))


@pytest.mark.parametrize("task", TASKS)
def test_seeds_decide_the_prompts(task):
    one, two = make(task=task), make(task=task)
    starts = [one.reset(seed=seed)[0] for seed in range(100)]
    assert starts == [two.reset(seed=seed)[0] for seed in range(100)]
    assert len(set(starts)) > 80
    one.reset(seed=7), two.reset(seed=7)
    later = [one.reset()[0] for _ in range(20)]
    assert later == [two.reset()[0] for _ in range(20)]
    assert len(set(later)) > 15


@pytest.mark.parametrize("task", TASKS)
def test_example_id_starts_from_that_example(task):
    env = make(task=task)
    _, drawn = env.reset(seed=3)
    for example_id in (0, 1, 2**40, drawn["example_id"]):
        prompt, info = env.reset(options={"example_id": example_id})
        example = env.unwrapped.task.example(example_id)
        assert info == {"task": task, "example_id": example_id, "prompt": prompt}
        assert prompt == example["prompt"]
        assert env.unwrapped.example == example
    assert prompt == drawn["prompt"]


def test_an_example_by_id_leaves_the_random_stream_alone():
    env = make()
    env.reset(seed=5)
    expected = env.reset()[0]
    env.reset(seed=5)
    env.reset(options={"example_id": 3})
    assert env.reset()[0] == expected


def test_own_prompts_are_shown_unchanged_and_numbered():
    prompts = ["", " a \n", "é🙂", "a\r\nb\t", "x" * 1000, "{prompt}"]
    env = own(prompts)
    for i, prompt in enumerate(prompts):
        observation, info = env.reset(options={"example_id": i})
        assert (observation, info["prompt"], info["example_id"]) == (prompt, prompt, i)
    seen = {}
    for seed in range(100):
        observation, info = env.reset(seed=seed)
        seen[info["example_id"]] = observation
    assert seen == dict(enumerate(prompts))


def test_a_step_reports_everything():
    env = make()
    prompt, _ = env.reset(options={"example_id": 0})
    answer = env.unwrapped.task.oracle(env.unwrapped.example)
    assert env.step(answer) == (
        prompt + answer,
        1.0,
        True,
        False,
        {"completion": answer, "rewards": {"correct": 1.0}, "is_correct": True},
    )
    env.reset(options={"example_id": 0})
    _, reward, _, _, info = env.step("no")
    assert reward == 0.0
    assert info == {"completion": "no", "rewards": {"correct": 0.0}, "is_correct": False}


def test_a_dataset_file_is_played(tmp_path):
    rows = [{"prompt": "2+2=", "answer": "4"}, {"prompt": "é", "answer": 7}]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for dataset in (path, str(path)):
        env = make(dataset=dataset, reward_fn="exact_match")
        prompt, info = env.reset(options={"example_id": 1})
        assert (prompt, info["task"]) == ("é", str(path))
        assert env.step("7")[1] == 1.0


@pytest.mark.parametrize(
    ("completion", "truncated"), [("", False), ("a b", False), ("a b c", True)]
)
def test_more_than_max_tokens_truncates(completion, truncated):
    env = own(tokenizer=Words(), max_tokens=2)
    env.reset()
    _, reward, *flags, info = env.step(completion)
    assert flags == [not truncated, truncated]
    assert (reward, info["completion"]) == (1.0, completion)


@pytest.mark.parametrize("task", TASKS)
def test_flags_and_rewards_are_plain(task):
    env = make(task=task, tokenizer=Words(), max_tokens=1)
    for action in ("a", "a b"):
        _, info = env.reset(seed=0)
        assert type(info["example_id"]) is int
        _, reward, terminated, truncated, info = env.step(action)
        kinds = [type(x) for x in (reward, terminated, truncated, info["is_correct"])]
        assert kinds == [float, bool, bool, bool]


def test_infos_belong_to_the_caller():
    env = make()
    first = env.reset(seed=0)[1]
    step = env.step("1")[4]
    for info in (first, step, step["rewards"]):
        info.clear()
    again = env.reset(seed=0)[1]
    assert again["prompt"] == env.unwrapped.example["prompt"]
    assert env.step("1")[4]["rewards"] == {"correct": 0.0}


def test_render_modes(capsys):
    env = own(["ask: "], render_mode="ansi")
    env.reset()
    assert env.render() == "ask: "
    env.step("told")
    assert env.render() == "ask: told"
    assert capsys.readouterr().out == ""
    env = own(["ask: "], render_mode="human")
    env.reset()
    env.step("told")
    assert capsys.readouterr().out == "ask: \nask: told\n"


def test_a_prompt_that_fills_the_space_leaves_an_observation_in_it():
    env = TextGenerationEnv(["é" * 2**20], ones)
    assert env.reset()[0] in env.observation_space
    observation, *_, info = env.step("abc")
    assert observation in env.observation_space
    assert info["completion"] == "abc"


def test_made_again_from_its_spec():
    direct = TextGenerationEnv(
        ["p", "q"], lambda p, c, e: len(c) * e["k"], 2, Words(), examples=[{"k": 1}, {"k": 10}]
    )
    made = own(["p", "q"], chars, reward_weights={"letters": 2.0})
    named = make(task="sort", split="test", task_kwargs={"max_count": 7}, render_mode="ansi")
    weighted = TextGenerationEnv(["p"], [chars, ones], reward_weights={"letters": 2.0})
    for env in (direct, made, named, weighted):
        twin = gym.make(env.spec)
        assert twin.render_mode == env.render_mode
        for seed in range(5):
            assert twin.reset(seed=seed) == env.reset(seed=seed)
            assert twin.step("a b c") == env.step("a b c")


def test_a_spec_of_plain_values_goes_through_json(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "p", "answer": "4"}\n')
    env = make(dataset=str(tmp_path / "d.jsonl"), reward_fn="exact_match", max_tokens=3)
    twin = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert twin.reset(seed=1) == env.reset(seed=1)
    assert twin.step("4") == env.step("4")


def test_a_subclass_is_not_made_again_as_its_base():
    class Doubled(TextGenerationEnv):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, 2 * reward, *rest

    env = Doubled(["p"], ones)
    env.reset(seed=0)
    assert env.step("x")[1] == 2.0
    assert env.spec is None  # a copy made from a spec would be of the base class


def test_copies_in_a_vector_are_seeded_one_by_one():
    vector = gym.make_vec("TextGen-v0", num_envs=3, vectorization_mode="sync")
    observations, _ = vector.reset(seed=5)
    assert list(observations) == [make().reset(seed=5 + i)[0] for i in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, rewards, terminated, truncated, _ = vector.step(("1", "é", ""))
    assert rewards.tolist() == [0.0] * 3
    assert (terminated.tolist(), truncated.tolist()) == ([True] * 3, [False] * 3)


@pytest.mark.parametrize("task", [name for name in textenv.tasks.names() if ":" not in name])
def test_playing_leaves_global_random_states_alone(task):
    before = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    env = gym.make("TextGen-v0", task=task)
    for seed in (0, None):
        env.reset(seed=seed)
        env.step(env.action_space.sample())
    assert before == (random.getstate(), repr(np.random.get_state()))  # noqa: NPY002
    random.seed(1), np.random.seed(1)  # noqa: NPY002
    again = env.reset(seed=0)[0], env.reset()[0]
    random.seed(2), np.random.seed(2)  # noqa: NPY002
    assert (env.reset(seed=0)[0], env.reset()[0]) == again
    random.setstate(before[0])


SECTIONS = (
    *("Description", "Action Space", "Observation Space", "Rewards", "Starting State"),
    *("Episode End", "Arguments", "Version History"),
)


def test_the_environments_docstrings_have_the_sections_too():
    for made_by in (TextGenerationEnv, TokenGenerationEnv):
        shown = re.findall("^## (.*)$", inspect.getdoc(made_by), re.MULTILINE)
        assert tuple(name for name in shown if name != "Information") == SECTIONS


ALL_UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# Text that is almost valid finds more errors than random text.
NEARLY = st.text("0123456789+-*/() \n=calc.eE", max_size=20)
CALLS = st.builds("calc({})".format, NEARLY)
ACTIONS = st.lists(ALL_UNICODE | NEARLY | CALLS, min_size=8, max_size=8)


@functools.cache
def played(name):
    return make(task=name).unwrapped


@pytest.mark.parametrize("name", [task.name for task in tasks.BUILT_IN])
@given(seed=st.integers(0, 2**31), actions=ACTIONS)
def test_whatever_an_agent_says_the_answer_keeps_to_the_rules(name, seed, actions):
    env = played(name)
    observation, info = env.reset(seed=seed)
    assert observation in env.observation_space and observation == info["prompt"]
    for turn, action in enumerate(actions, 1):
        before = observation
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation in env.observation_space
        assert observation == before + action + info.get("turn", "")
        assert type(reward) is float and 0 <= reward <= 1
        assert type(terminated) is type(truncated) is bool
        assert sum(info["rewards"].values()) == reward
        json.dumps(info)
        if terminated or truncated:
            assert info["is_correct"] is (reward == 1) and not (terminated and truncated)
            break
        assert reward == 0 and turn < env.task.max_turns
    assert terminated or turn == env.task.max_turns


def test_tokens_around_a_completion_do_not_count_against_its_limit():
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>"
    )
    assert len(tokenizer.encode("aaa")) == 5
    env = own(tokenizer=tokenizer, max_tokens=3)
    for action, cut in (("aaa", False), ("aaaa", True)):
        env.reset(seed=0)
        assert env.step(action)[2:4] == (not cut, cut)
