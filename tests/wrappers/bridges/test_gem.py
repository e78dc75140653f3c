"""gem's environments as tasks, and environments of this package in gem, beside gem itself."""

import copy
import pickle
import random
import re

import gymnasium
import numpy as np
import pytest

from textenv.errors import ConfigError, ConfigTypeError

gem = pytest.importorskip("gem")

from gem.utils.constants import TERMINAL_STATE  # noqa: E402
from gem.wrappers.episode_tracking_wrapper import EpisodeTrackingWrapper  # noqa: E402
from gem.wrappers.observation_wrapper import ObservationWrapper, maybe_add_new_line  # noqa: E402

from textenv.wrappers.bridges.gem import GemEnv, GemTask  # noqa: E402

GUESS = "game:GuessTheNumber-v0-easy"


@pytest.fixture(autouse=True)
def same_global_state():
    """gem seeds the global generators; what runs next here must not notice."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002


def make(env_id, **kwargs):
    return gymnasium.make("textenv:TextGen-v0", task=GemTask(env_id, **kwargs))


def lines(*texts):
    return "".join(maybe_add_new_line(text) for text in texts)


def test_bisection_wins_within_the_turns():
    env = make(GUESS)
    for example_id in range(20):
        env.reset(options={"example_id": example_id})
        low, high, done = 1, 10, False
        while not done:
            guess = (low + high) // 2
            _, reward, terminated, truncated, info = env.step(f"\\boxed{{{guess}}}")
            done = terminated or truncated
            if "is higher" in info["turn"]:
                low = guess + 1
            elif "is lower" in info["turn"]:
                high = guess - 1
        assert (reward, terminated, info["is_correct"]) == (1.0, True, True)


@pytest.mark.parametrize(
    "env_id", [GUESS, "game:Mastermind-v0-random", "game:Game2048-v0-easy", "rg:chain_sum"]
)
def test_it_is_the_same_as_gem_itself_with_the_same_seed(env_id):
    env = make(env_id)
    prompt, _ = env.reset(options={"example_id": 5})
    seed = env.unwrapped.example["seed"]
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    theirs = gem.make(env_id)
    observation, info = theirs.reset(seed=seed)
    assert prompt == lines(observation, info.get("suffix", ""))
    actions = ["\\boxed{1}", "\\boxed{right}", "\\boxed{2}", "nothing"]
    for action in actions:
        before = random.getstate()
        *_, reward, terminated, truncated, info = env.step(action)
        assert random.getstate() == before
        said, expected, *over, their_info = theirs.step(action)
        assert (reward, terminated or truncated) == (expected, any(over))
        if terminated or truncated:
            break
        assert info["turn"] == "\n" + lines(said, their_info["suffix"])


def test_a_question_of_one_turn_is_scored_and_ends():
    env = make("rg:chain_sum")
    prompt, _ = env.reset(seed=0)
    terms = re.search(r": ([-+ 0-9]+) =", prompt)[1].replace(" ", "")
    answer = sum(map(int, re.findall(r"[-+]?\d+", terms)))
    observation, reward, terminated, _, info = env.step(f"\\boxed{{{answer}}}")
    assert (reward, terminated, info["is_correct"]) == (1.0, True, True)
    assert observation == prompt + f"\\boxed{{{answer}}}" and "turn" not in info


def test_an_id_is_the_same_game_again_and_the_splits_differ():
    train, test = GemTask("game:Mastermind-v0-random"), GemTask("game:Mastermind-v0-random", "test")
    for task in (train, copy.deepcopy(train)):
        assert [task.example(i) for i in range(3)] == [train.example(i) for i in range(3)]
    seeds = [{task.example(i)["seed"] for i in range(50)} for task in (train, test)]
    assert not seeds[0] & seeds[1]
    with pytest.raises(ConfigError, match="integer >= 0, got -1"):
        train.example(-1)


def test_arguments_reach_gem():
    env = make(GUESS, min_number=7, max_number=7, max_turns=2)
    assert "between 7 and 7" in env.reset(seed=0)[0]
    assert env.unwrapped.task.max_turns == 2
    assert env.step("\\boxed{7}")[1] == 1.0


def test_what_cannot_be_made_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'game:GuessTheNumber-v0-easy'"):
        GemTask("game:GuessTheNumber-v0-eas")
    with pytest.raises(ConfigError, match="split must be one of train, test, got 'dev'"):
        GemTask(GUESS, "dev")
    with pytest.raises(
        ConfigError, match=r"cannot be made here with \{'min_number': 'a'\}: (Type|Value)Error"
    ):
        GemTask(GUESS, min_number="a")


def test_gem_makes_and_wraps_our_environment():
    plain = ObservationWrapper(GemEnv(task="guess_number"), include_chat_template=False)
    env = EpisodeTrackingWrapper(plain)
    ours = gymnasium.make("textenv:TextGen-v0", task="guess_number")
    transcript, _ = ours.reset(seed=3)
    assert env.reset(seed=3)[0].split() == transcript.split()
    for guess in range(200):
        transcript, *expected, _ = ours.step(str(guess))
        shown, *got, info = env.step(str(guess))
        assert got == expected
        if any(expected[1:]):
            break
        assert shown.split() == transcript.split()
    assert info["step_counter"] == guess + 1 and info["cumulative_rewards"] == expected[0]


def test_gem_steps_a_vector_of_ours():
    if "textenv-test" not in gem.envs.registration.ENV_REGISTRY:
        gem.register("textenv-test", "textenv.wrappers.bridges.gem:GemEnv", task="reverse")
    envs = gem.make_vec(["textenv-test"] * 3, seed=5)
    prompts, _ = envs.reset()
    alone = [GemEnv(task="reverse").reset(seed=5 + i)[0] for i in range(3)]
    assert list(prompts) == alone
    answers = [e.env.unwrapped.task.oracle(e.env.unwrapped.example) for e in envs.envs]
    _, rewards, terminated, truncated, _ = envs.step([*answers[:2], "?"])
    assert rewards.tolist() == [1.0, 1.0, 0.0] and terminated.all() and not truncated.any()


def test_the_end_of_a_question_of_ours_is_marked_as_gem_marks_it():
    env = GemEnv(task="reverse")
    env.reset(seed=0)
    assert env.step("?")[0] == TERMINAL_STATE
    env.close()


def test_what_is_not_text_is_refused():
    with pytest.raises(ConfigTypeError, match="GemEnv needs an environment whose observation"):
        GemEnv("CartPole-v1")


def test_a_copy_of_a_running_game_goes_on_by_itself():
    env = make("game:Game2048-v0-easy")
    env.reset(seed=0)
    env.step("\\boxed{left}")
    others = copy.deepcopy(env), pickle.loads(pickle.dumps(env))
    turns = [each.step("\\boxed{down}")[4]["turn"] for each in (env, *others)]
    assert turns[0] == turns[1] == turns[2] and "board" in turns[0]
