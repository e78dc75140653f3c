"""OpenEnv's environments as tasks, and environments of this package on its server, on loopback."""

import copy
import pickle
import random
import threading
import time
from contextlib import contextmanager

import gymnasium
import pytest

from textenv.errors import ConfigError, ConfigTypeError

pytest.importorskip("openenv")

import uvicorn
from openenv.core import (
    Action,
    Environment,
    GenericEnvClient,
    Observation,
    State,
    create_app,
)

from textenv.wrappers.bridges.openenv import OpenEnvTask, openenv_app


class Digit(Action):
    digit: int


class Hint(Observation):
    said: str
    left: int


class HigherLower(Environment):
    """Find a digit in four guesses; a server's environment as OpenEnv's users write them."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    obeys = True

    def reset(self, seed=None, episode_id=None, digit=None, **kwargs):
        if digit is None:
            digit = random.Random(seed if self.obeys else None).randrange(10**6) % 10
        self.digit, self.left = digit, 4
        return Hint(
            said=f"a digit? {random.Random(None if not self.obeys else 0).random()}", left=4
        )

    def step(self, action, timeout_s=None, **kwargs):
        self.left -= 1
        right = action.digit == self.digit
        said = "right" if right else "higher" if action.digit < self.digit else "lower"
        return Hint(said=said, left=self.left, reward=float(right), done=right or not self.left)

    @property
    def state(self):
        return State()


class Forgetful(HigherLower):
    obeys = False


@contextmanager
def serve(app):
    """A server on a free port of loopback; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline and thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def digits():
    with serve(create_app(HigherLower, Digit, Hint, max_concurrent_envs=4)) as url:
        yield url


def make(task):
    return gymnasium.make("textenv:TextGen-v0", task=task)


def test_a_servers_environment_is_played_and_its_rewards_arrive(digits):
    env = make(OpenEnvTask(digits, resets=[{"digit": 3}, {"digit": 8}]))
    prompt, _ = env.reset(options={"example_id": 1})
    assert prompt.startswith('{"said": "a digit? ') and '"required": ["digit"]' in prompt
    *_, reward, terminated, _, info = env.step('{"digit": 4}')
    assert (reward, terminated) == (0.0, False)
    assert info["turn"] == '\n{"said": "higher", "left": 3}\n'
    assert env.step('```json\n{"digit": 9}\n```')[4]["turn"] == '\n{"said": "lower", "left": 2}\n'
    transcript, reward, terminated, truncated, info = env.step('{"digit": 8}')
    assert (reward, terminated, truncated, info["is_correct"]) == (1.0, True, False, True)
    assert transcript.startswith(prompt) and transcript.endswith('"right", "left": 1}\n')
    env.close()


def test_actions_that_cannot_be_read_get_a_reply_and_no_turn_of_the_servers(digits):
    env = make(OpenEnvTask(digits, resets=[{"digit": 3}]))
    env.reset(seed=0)
    deep = "[" * 100_000
    for action in ("three", "3", "[3]", deep, '{"digit": "x"}', '{"other": 3}'):
        *_, reward, terminated, _, info = env.step(action)
        assert (reward, terminated) == (0.0, False) and "The action" in info["turn"]
    assert '"left": 3' in env.step('{"digit": 1}')[4]["turn"]
    env.close()


def test_an_id_is_the_same_start_and_the_splits_differ(digits):
    train, test = OpenEnvTask(digits), OpenEnvTask(digits, split="test")
    assert pickle.loads(pickle.dumps(train)).example(5) == copy.deepcopy(train).example(5)
    seeds = [{task._reset(i)["seed"] for i in range(50)} for task in (train, test)]
    assert not seeds[0] & seeds[1]
    env = make(train)
    found = []
    for _ in range(2):  # the digit that the seed draws is the same in both episodes
        env.reset(options={"example_id": 5})
        digit = random.Random(train._reset(5)["seed"]).randrange(10**6) % 10
        found.append(env.step(f'{{"digit": {digit}}}')[1])
    assert found == [1.0, 1.0]
    env.close()


def test_a_limit_of_turns_truncates(digits):
    env = make(OpenEnvTask(digits, resets=[{"digit": 3}], max_turns=2))
    env.reset(seed=0)
    assert env.step("?")[2:4] == (False, False)
    assert env.step("?")[2:4] == (False, True)
    env.close()


def test_a_server_that_ignores_the_seed_is_refused():
    with serve(create_app(Forgetful, Digit, Hint, max_concurrent_envs=2)) as url:
        env = make(OpenEnvTask(url))
        with pytest.raises(ConfigError, match=r"two observations for one reset\({'seed': \d+}\)"):
            env.reset(seed=0)
        env.close()


def test_more_sessions_than_the_server_takes_are_refused_with_the_remedy():
    with serve(create_app(HigherLower, Digit, Hint)) as url:
        envs = [make(OpenEnvTask(url, resets=[{"digit": 3}])) for _ in range(2)]
        envs[0].reset(seed=0)
        with pytest.raises(ConfigError, match=r"CAPACITY_REACHED.*larger max_concurrent_envs"):
            envs[1].reset(seed=0)
        for env in envs:
            env.close()


def test_wrong_arguments_are_refused(digits):
    with pytest.raises(ConfigError, match="no OpenEnv server answers at"):
        OpenEnvTask("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"no OpenEnv server answers at .*404"):
        OpenEnvTask(f"{digits}/elsewhere")
    with pytest.raises(ConfigError, match="resets must have a row or more"):
        OpenEnvTask(digits, resets=[])
    with pytest.raises(ConfigError, match="integer >= 0 and < 1, got 1"):
        OpenEnvTask(digits, resets=[{}]).example(1)
    with pytest.raises(ConfigTypeError, match="openenv_app needs an environment whose observation"):
        openenv_app("CartPole-v1")


def test_openenvs_client_plays_our_environment():
    ours = gymnasium.make("textenv:TextGen-v0", task="guess_number")
    with serve(openenv_app(task="guess_number")) as url:
        client = GenericEnvClient(base_url=url).sync()
        with client:
            prompt, info = ours.reset(seed=4)
            result = client.reset(seed=4, episode_id="mine")
            assert result.observation["text"] == prompt and not result.done
            assert result.metadata["example_id"] == info["example_id"]
            for guess in range(100):
                _, reward, terminated, truncated, info = ours.step(str(guess))
                result = client.step({"text": str(guess)})
                assert result.observation["text"] == info["turn"]
                assert (result.reward, result.done) == (reward, terminated or truncated)
                if result.done:
                    break
            assert client.state() == {"episode_id": "mine", "step_count": guess + 1}


def test_our_environment_comes_back_over_openenv_as_it_went():
    with serve(openenv_app(task="arithmetic")) as url:
        env = make(OpenEnvTask(url, resets=[{"example_id": i} for i in range(3)], max_turns=1))
        ours = gymnasium.make("textenv:TextGen-v0", task="arithmetic")
        for i in range(3):
            prompt, _ = ours.reset(options={"example_id": i})
            assert env.reset(options={"example_id": i})[0] == prompt + "\n"
            answer = ours.unwrapped.task.oracle(ours.unwrapped.example)
            assert env.step(answer)[1:3] == (1.0, True)
        env.close()


def test_a_system_prompt_makes_a_conversation_of_it(digits):
    task = OpenEnvTask(digits, resets=[{"digit": 3}])
    env = gymnasium.make("textenv:TextGen-v0", task=task, system_prompt="Answer in JSON.")
    _, info = env.reset(seed=0)
    assert [m["role"] for m in info["messages"]] == ["system", "user"]
    *_, info = env.step('{"digit": 5}')
    assert info["messages"][-1] == {"role": "user", "content": '{"said": "lower", "left": 3}'}
    env.close()


def test_a_copy_of_a_running_episode_goes_on_by_itself(digits):
    env = make(OpenEnvTask(digits, resets=[{"digit": 3}]))
    env.reset(seed=0)
    env.step('{"digit": 5}')
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert '"left": 2' in other.step('{"digit": 4}')[4]["turn"]
        other.close()
    assert env.step('{"digit": 3}')[4]["turn"] == '\n{"said": "right", "left": 2}\n'
    env.close()
