"""The own vector form against Gymnasium's sync and async forms, and its errors."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode

from textenv import tasks
from textenv.envs.vector_env import TextGenerationVectorEnv
from textenv.errors import ConfigError, ConfigTypeError
from textenv.tasks import Example, Task, Turn
from textenv.tasks.base import Episode
from textenv.tools.calls import write_call

MODES = list(AutoresetMode)
LANES = 3


def chars(prompt, completion, example):
    return {"letters": len(completion)} if "x" in completion else {"other": 0.5}


CHAT = [{"role": "system", "content": "é"}, {"role": "user", "content": "x"}]


def twice(x: int) -> int:
    """Double a number."""
    if x == 7:
        raise ValueError("unlucky")
    return 2 * x


SETTINGS = {
    "chat": {"prompts": ["a", CHAT, [CHAT[1]]], "reward_fn": "length"},
    "system": {"system_prompt": "Be brief.", "few_shot": [{"prompt": "1+1=", "answer": 2}]},
    "system and turns": {"task": "guess_number", "system_prompt": "Guess."},
    "tools": {
        "prompts": ["a", CHAT],
        "reward_fn": [chars, "exact_match"],
        "examples": [{"answer": "12"}] * 2,
        "tools": [twice],
        "tool_timeout": None,
        "max_turns": 3,
    },
    "calculator in chat": {"task": "calculator", "style": "chat"},
    "arithmetic": {},
    "guess_number": {"task": "guess_number", "task_kwargs": {"max_turns": 3}},
    "calculator": {"task": "calculator"},
    "sort": {"task": "sort", "split": "test", "reward_fn": ["correct", "length"]},
    "own reward": {"task": "sort", "reward_fn": "length"},
    "own": {"prompts": ["a", "é", "🙂\0"], "reward_fn": chars},
    "cut": {"prompts": ["a", "b"], "reward_fn": "length", "tokenizer": "words", "max_tokens": 1},
}


class Words:
    def encode(self, text):
        return text.split()


def make(form, num_envs=LANES, mode=AutoresetMode.NEXT_STEP, **kwargs):
    if kwargs.get("tokenizer") == "words":
        kwargs["tokenizer"] = Words()
    if form == "own":
        return gym.make_vec("TextGen-v0", num_envs=num_envs, autoreset_mode=mode, **kwargs)
    return gym.make_vec(
        "TextGen-v0",
        num_envs=num_envs,
        vectorization_mode=form,
        vector_kwargs={"autoreset_mode": mode},
        **kwargs,
    )


CALLS = [
    *(write_call("twice", {"x": x}) for x in (3, 7, "7")),
    "I call " + write_call("twice", {"x": 1}) + write_call("calculator", {"expression": "2*3"}),
    "<tool_call>{</tool_call>",
]


def script(rng, observations):
    """Actions of several kinds: right answers to sums, guesses, words, wide characters."""
    fixed = ["7", "12", "calc(2*3)", "two words", "é🙂", "", "x", "a\0"]
    if "Tools:" in observations[0]:
        fixed[4:] = CALLS
    actions = []
    for text in observations:
        line = text.rstrip("=")
        numbers = line.split("+")
        if len(numbers) == 2 and all(n.isdigit() for n in numbers) and rng.random() < 0.5:
            actions.append(str(sum(map(int, numbers))))
        else:
            actions.append(fixed[rng.integers(len(fixed))])
    return tuple(actions)


def play(env, mode, steps, seed):
    """Everything that an environment returns in a number of steps."""
    rng = np.random.default_rng(0)
    said = [env.reset(seed=seed)]
    observations = said[0][0]
    for _ in range(steps):
        said.append(env.step(script(rng, observations)))
        observations, _, terminated, truncated, _ = said[-1]
        over = terminated | truncated
        if mode is AutoresetMode.DISABLED and over.any():
            said.append(env.reset(options={"reset_mask": over}))
            observations = said[-1][0]
    return said


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_own_and_sync_say_the_same(setting, mode, same):
    forms = [make(form, mode=mode, **SETTINGS[setting]) for form in ("sync", "own")]
    for seed in (7, [3, 3, 5], None):
        if seed is None:  # continue with the random generators that they have
            seed, steps = [None] * LANES, 4
        else:
            steps = 12
        sync, own = (play(env, mode, steps, seed) for env in forms)
        for step, (one, two) in enumerate(zip(sync, own, strict=True)):
            same(one, two, f"step {step}")
    for env in forms:
        assert env.metadata["autoreset_mode"] is mode
        env.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("setting", ["arithmetic", "guess_number", "own", "chat", "tools"])
def test_async_with_its_shared_memory_says_the_same(setting, mode, same):
    forms = [make(form, mode=mode, **SETTINGS[setting]) for form in ("async", "own")]
    assert forms[0].shared_memory
    assert forms[0].metadata["autoreset_mode"] is mode
    for seed in (7, [3, 3, 5]):
        one, two = (play(env, mode, 8, seed) for env in forms)
        for step, (left, right) in enumerate(zip(one, two, strict=True)):
            same(left, right, f"step {step}")
    forms[0].close()


def test_lanes_play_what_single_environments_play():
    own = make("own", mode=AutoresetMode.SAME_STEP)
    observations, _ = own.reset(seed=11)
    singles = [gym.make("TextGen-v0") for _ in range(LANES)]
    assert list(observations) == [env.reset(seed=11 + i)[0] for i, env in enumerate(singles)]
    for _ in range(20):
        actions = script(np.random.default_rng(1), observations)
        observations, rewards, *_ = own.step(actions)
        assert rewards.tolist() == [env.step(a)[1] for env, a in zip(singles, actions)]
        assert list(observations) == [env.reset()[0] for env in singles]


def test_the_default_form_and_mode():
    env = gym.make_vec("TextGen-v0", num_envs=8)
    assert isinstance(env, TextGenerationVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert TextGenerationVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert make("own", mode="SameStep").metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert len(env.reset(seed=0)[0]) == 8
    assert env.reset(seed=0)[0] in env.observation_space
    assert env.action_space.sample() in env.action_space


def test_made_again_from_its_spec(same):
    env = gym.make_vec("TextGen-v0", num_envs=2, task="sort", autoreset_mode="SameStep")
    again = gym.make_vec(EnvSpec.from_json(env.spec.to_json()))
    assert (again.num_envs, again.metadata) == (2, env.metadata)
    same(env.reset(seed=1), again.reset(seed=1))


@pytest.mark.parametrize("form", ["sync", "own"])
def test_example_ids_go_to_every_lane_and_the_users_options_stay_whole(form):
    env = make(form)
    options = {"example_id": 4}
    observations, info = env.reset(options=options)
    assert len(set(observations)) == 1
    assert info["example_id"].tolist() == [4] * LANES
    assert options == {"example_id": 4}


def test_a_batch_of_rewards_is_scored_once_a_step():
    seen = []

    def spy(prompt, completion, example):
        seen.append((prompt, completion, example["k"]))
        return example["k"]

    env = make("own", prompts=["p", "q"], examples=[{"k": 1.0}, {"k": 2.0}], reward_fn=spy)
    observations, _ = env.reset(seed=0)
    _, rewards, *_ = env.step(("a", "b", "c"))
    assert [row[:2] for row in seen] == list(zip(observations, "abc"))
    assert rewards.tolist() == [row[2] for row in seen]


class Counting(Episode):
    def __init__(self, closed):
        self.closed = closed

    def step(self, action):
        return Turn("", 0.0, True)

    def close(self):
        self.closed.append(self)


class Closing(Task):
    name = "closing"

    def __init__(self):
        self.closed = []

    def example(self, example_id) -> Example:
        return {"prompt": "p"}

    def begin(self, example):
        return Counting(self.closed)


def test_episodes_are_closed():
    task = Closing()
    env = TextGenerationVectorEnv(2, task=task, autoreset_mode="SameStep")
    env.reset(seed=0)
    env.step(("", ""))
    assert len(task.closed) == 2
    env.close()
    assert len(task.closed) == 4


def test_render_gives_the_transcripts():
    env = make("own", render_mode="ansi")
    observations, _ = env.reset(seed=0)
    assert env.render() == observations
    assert make("own").render() is None


@pytest.mark.parametrize(
    ("actions", "says"),
    [
        (("1", "2"), "3 strings, got 2"),
        ("123", "3 strings, got str"),
        (None, "3 strings, got NoneType"),
        (("1", 2, "3"), "lane 1: .*string, got int"),
        (("1", "2", "\ud800"), "lane 2: .*surrogate"),
        (("a" * (2**20 + 1), "2", "3"), "lane 0: .*1048577"),
    ],
)
def test_bad_actions_are_refused_and_cost_nothing(actions, says):
    env = make("own", mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=says):
        env.step(actions)
    assert env.step(("1", "2", "3"))[2].all()


def test_steps_out_of_order_are_refused():
    env = make("own", mode=AutoresetMode.DISABLED)
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(("1", "2", "3"))
    env.reset(options={"reset_mask": np.array([True, True, False])})
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(("1", "2", "3"))
    env.reset()
    env.step(("1", "2", "3"))
    with pytest.raises(ResetNeeded, match=r"\[0, 1, 2\].*reset_mask"):
        env.step(("1", "2", "3"))


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"num_envs": 0}, ConfigError, "num_envs.*0"),
        ({"max_episode_steps": 0}, ConfigError, "max_episode_steps.*0"),
        ({"autoreset_mode": "same"}, ConfigError, "NextStep, SameStep, Disabled.*'same'"),
        ({"render_mode": "human"}, ConfigError, "ansi.*human"),
        ({"task": "nope"}, ConfigError, "nope"),
    ],
)
def test_bad_settings_name_what_came(kwargs, error, says):
    with pytest.raises(error, match=says):
        TextGenerationVectorEnv(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"seed": [1, 2]}, ConfigError, "3 seeds, got 2"),
        ({"options": {"id": 1}}, ConfigError, "'id'"),
        ({"options": [1]}, ConfigTypeError, "dict, got list"),
        ({"options": {"reset_mask": [True] * 3}}, ConfigTypeError, "numpy array.*list"),
        ({"options": {"reset_mask": np.ones(3)}}, ConfigTypeError, "bool.*float64"),
        ({"options": {"reset_mask": np.ones(2, bool)}}, ConfigError, r"\(3,\).*\(2,\)"),
        ({"options": {"reset_mask": np.zeros(3, bool)}}, ConfigError, "0 lanes"),
    ],
)
def test_bad_resets_name_what_came(kwargs, error, says):
    with pytest.raises(error, match=says):
        make("own").reset(**kwargs)


class Strict(tasks.Task):
    """A task whose right answer is its level."""

    name, levels = "strict", range(1, 4)

    def __init__(self, level=1):
        self.at = level

    @property
    def level(self):
        return self.at

    def at_level(self, level):
        return Strict(level)

    def example(self, example_id):
        return {"prompt": f"{self.at}:{example_id}"}

    def score(self, example, completion):
        return float(completion == str(self.at))


def flat(info):
    return {k: flat(v) if isinstance(v, dict) else np.asarray(v).tolist() for k, v in info.items()}


@pytest.mark.parametrize("task", ["calculator", Strict(), "sort"])
def test_the_own_vector_form_agrees_with_gymnasiums(task):
    own = gym.make_vec("TextGen-v0", num_envs=3, task=task, autoreset_mode=AutoresetMode.DISABLED)
    sync = gym.make_vec(
        "TextGen-v0",
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
        task=task,
    )
    mask = np.array([False, True, False])
    everyone = np.ones(3, bool)
    for options in (
        None,
        {"level": 2},
        {"level": 3, "reset_mask": mask},  # the others stay at level 2
        {"reset_mask": everyone},
        {"level": 1, "example_id": 4},
    ):
        seen = [env.reset(seed=[1, 2, 3], options=options and {**options}) for env in (own, sync)]
        assert seen[0][0] == seen[1][0]
        assert flat(seen[0][1]) == flat(seen[1][1])
        if options and "reset_mask" in options:
            continue
        answers = tuple(str(2) for _ in range(3))
        steps = [env.step(answers) for env in (own, sync)]
        for one, two in zip(*steps):
            assert flat(one) == flat(two) if isinstance(one, dict) else list(one) == list(two)


def test_lanes_at_different_levels_are_scored_by_their_own():
    envs = gym.make_vec(
        "TextGen-v0", num_envs=3, task=Strict(), autoreset_mode=AutoresetMode.NEXT_STEP
    )
    envs.reset(seed=1, options={"level": 2})
    envs.reset(seed=1, options={"level": 3, "reset_mask": np.array([False, True, False])})
    _, rewards, *_ = envs.step(["2", "3", "1"])
    assert rewards.tolist() == [1, 1, 0]
    prompts, *_ = envs.step(["", "", ""])  # starts the next episodes, at the task's own level
    assert [prompt[0] for prompt in prompts] == ["1", "1", "1"]
    _, rewards, *_ = envs.step(["1", "3", "1"])
    assert rewards.tolist() == [1, 0, 1]
