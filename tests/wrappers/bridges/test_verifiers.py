"""verifiers' environments as tasks, and environments of this package in verifiers.

The tasksets and the harness are modules of their own, as verifiers wants them. What verifiers
itself makes of the same answers is the oracle: its whole machinery runs, with a model on loopback.
"""

import asyncio
import copy
import gc
import pickle
import sys
from contextlib import asynccontextmanager

import gymnasium
import pytest

from textenv.errors import ConfigError, ConfigTypeError, RewardError

pytest.importorskip("verifiers")

import verifiers.v1 as vf
from aiohttp import web

from textenv.wrappers.bridges.verifiers import VerifiersTask

HARNESS = """
import httpx
import verifiers.v1 as vf
from verifiers.v1.dialects.chat import message_to_wire

__all__ = ["InProcess"]

class InProcessConfig(vf.HarnessConfig):
    pass

class InProcess(vf.Harness[InProcessConfig]):
    APPENDS_SYSTEM_PROMPT = SUPPORTS_RESUME = True
    EXECUTES_CODE = NEEDS_CONTAINER = False

    async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data, **kwargs):
        system, prompt = self.resolve_prompt(data)
        messages = [] if system is None else [{"role": "system", "content": system}]
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += map(message_to_wire, prompt)
        async with httpx.AsyncClient() as http:
            answer = await http.post(
                f"{endpoint}/chat/completions",
                headers={"Authorization": f"Bearer {secret}"},
                json={"model": ctx.model, "messages": messages},
                timeout=20,
            )
        failed = answer.status_code != 200
        return vf.ProgramResult(exit_code=int(failed), stdout="", stderr=answer.text)
"""

SUMS = """
import verifiers.v1 as vf

__all__ = ["Sums"]

class SumData(vf.TaskData):
    answer: str

class SumTask(vf.Task[SumData]):
    @vf.reward(weight=0.5)
    async def right(self, task: SumData, trace: vf.Trace) -> float:
        return float(trace.last_reply == task.answer)

    @vf.reward
    async def short(self, trace: vf.Trace) -> dict:
        return {"short": 1 / len(trace.assistant_messages[0].content), "none": 0.0}

    @vf.metric
    async def length(self, trace: vf.Trace) -> float:
        return len(trace.last_reply)

class SumsConfig(vf.TasksetConfig):
    count: int = 3
    endless: bool = False

class Sums(vf.Taskset[SumTask, SumsConfig]):
    def load(self):
        for i in range(self.config.count):
            system = "Be brief." if i else None
            prompt = f"{i}+{i}=" if i < 2 else [
                {"role": "user", "content": "1+1="},
                {"role": "assistant", "content": "2"},
                {"role": "user", "content": "2+2="},
            ]
            yield SumTask(
                SumData(prompt=prompt, system_prompt=system, answer=str(2 * i)), self.config.task
            )
"""

DIGITS = """
import verifiers.v1 as vf

__all__ = ["Digits", "DigitsEnv"]

class DigitData(vf.TaskData):
    digit: int

class DigitTask(vf.Task[DigitData]):
    @vf.metric
    async def turns(self, trace: vf.Trace) -> float:
        return trace.num_turns

class DigitsEnvConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig(
        harness={"id": "in_process"}, runtime=vf.SubprocessConfig(), max_turns=4
    )

class DigitsEnv(vf.Env[DigitsEnvConfig]):
    async def run(self, task, agents):
        right = False
        async with agents.player.interaction(task) as talk:
            segment = await talk.turn()
            while not segment.terminated:
                guess = int(segment.last_reply)
                right = guess == task.data.digit
                if right:
                    break
                segment = await talk.turn("higher" if guess < task.data.digit else "lower")
        talk.trace.record_reward("right", right)

    async def finalize(self, task, episode):
        (trace,) = episode.traces
        trace.record_reward("quick", 1 / trace.metrics["turns"], 0.1)

class Digits(vf.Taskset[DigitTask]):
    INFINITE = True

    def load(self):
        digit = 0
        while True:
            yield DigitTask(DigitData(prompt="a digit?", digit=digit % 10), self.config.task)
            digit += 3
"""

OURS = """
from textenv.wrappers.bridges.verifiers import TextTaskset, TextTasksetEnv

__all__ = ["TextTaskset", "TextTasksetEnv"]
"""

MODULES = {"in_process": HARNESS, "sums": SUMS, "digits": DIGITS, "text_tasks": OURS}


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@asynccontextmanager
async def model(answer):
    """A model on loopback; ``answer`` gives its text for the messages of a request."""
    seen = []

    async def complete(request):
        seen.append((await request.json())["messages"])
        message = {"role": "assistant", "content": answer(seen[-1])}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        return web.json_response({**body, "choices": [choice], "usage": usage})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = site._server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1", seen
    finally:
        await runner.cleanup()


def by_verifiers(taskset, index, answer, seat="agent", ok=True, **settings):
    """The trace that verifiers makes of a task, and the messages of its requests."""

    async def play():
        agent = {"harness": {"id": "in_process"}, "runtime": {"type": "subprocess"}}
        config = vf.resolve_env_config({"taskset": {"id": taskset, **settings}, seat: agent})
        env = vf.load_environment(config)
        task = next(iter(env.taskset.include(idx=[index])))
        async with model(answer) as (url, seen), env.serving():
            client = vf.EvalClientConfig(base_url=url)
            (slot,) = env.slots(task)
            episode = await env.run_slot(slot, vf.ModelContext(model="m", client=client))
        assert episode.ok == ok, (episode.errors, [trace.errors for trace in episode.traces])
        return episode.traces[0], seen

    return asyncio.run(play())


def make(*args, **kwargs):
    return gymnasium.make("textenv:TextGen-v0", task=VerifiersTask(*args, **kwargs))


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("answer", ["4", "0", "no idea"])
def test_a_taskset_asks_and_scores_as_in_verifiers(index, answer):
    trace, seen = by_verifiers("sums", index, lambda messages: answer)
    env = make("sums")
    _, info = env.reset(options={"example_id": index})
    assert info["messages"] == seen[0]
    *_, reward, terminated, truncated, info = env.step(answer)
    assert reward == pytest.approx(trace.reward)
    by_hand = 0.5 * (answer == str(2 * index)) + 1 / len(answer)
    assert (reward, terminated, truncated) == (pytest.approx(by_hand), True, False)
    assert info["messages"][-1] == {"role": "assistant", "content": answer}
    env.close()


@pytest.mark.parametrize("guesses", ["6", "56", "1234", "4567"])
def test_an_environment_of_several_turns_is_played_as_in_verifiers(guesses):
    turn = lambda messages: guesses[sum(m["role"] == "assistant" for m in messages)]  # noqa: E731
    trace, seen = by_verifiers("digits", 2, turn, seat="player")
    env = make("digits", {"limit": 5})
    assert env.unwrapped.task.size == 5 and env.unwrapped.task.max_turns == 4
    env.reset(options={"example_id": 2})
    for guess, messages in zip(guesses, seen):
        assert env.unwrapped._talk.info()["messages"] == messages
        *_, reward, terminated, truncated, _ = env.step(guess)
    assert reward == pytest.approx(trace.reward)
    solved = "6" in guesses
    turns = guesses.index("6") + 1 if solved else 4
    assert reward == pytest.approx(solved + 0.1 / turns)
    assert (terminated, truncated) == (solved, not solved)
    env.close()


def test_an_environment_that_raises_is_a_failed_reward_with_its_place():
    env = make("digits", {"limit": 5})
    env.reset(options={"example_id": 2})
    with pytest.raises(RewardError, match="verifiers:digits, task 2: ValueError: invalid literal"):
        env.step("six")
    env.close()


def test_it_plays_where_a_loop_runs_already():
    async def play():
        env = make("sums")
        env.reset(options={"example_id": 1})
        reward = env.step("2")[1]
        env.close()
        return reward, asyncio.get_running_loop().is_running()

    assert asyncio.run(play()) == (1.5, True)


def test_many_episodes_stand_still_at_once_and_a_copy_of_the_task_plays_too():
    task = pickle.loads(pickle.dumps(VerifiersTask("digits", {"limit": 5})))
    plays = [task.begin(task.example(i)) for i in (1, 2, 3)]
    said = [[play.step(guess).text for play in plays] for guess in "045"]
    assert said == [["higher"] * 3, ["lower", "higher", "higher"], ["lower", "higher", "higher"]]
    assert [play.step(guess).reward for play, guess in zip(plays, "369")] == [1.025] * 3
    for play in plays:
        play.close()


REFUSED = {
    "it has 2 agents": (
        "Env",
        "a: vf.AgentConfig = vf.AgentConfig()\n    b: vf.AgentConfig = vf.AgentConfig()",
    ),
    "needs a container": ("Task", "NEEDS_CONTAINER = True"),
    r"its tasks have setup\(\)": ("Task", "async def setup(self, trace, runtime): ..."),
    "stop or change a rollout": (
        "Task",
        "@vf.stop\n    async def over(self, trace: vf.Trace): ...",
    ),
    "files reads the runtime": ("Task", "@vf.reward\n    async def files(self, runtime): ..."),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_only_verifiers_has_is_refused(why, tmp_path):
    where, code = REFUSED[why]
    body = {"Task": "pass", "Env": "a: vf.AgentConfig = vf.AgentConfig()", where: code}
    (tmp_path / "refused.py").write_text(
        f"""
import verifiers.v1 as vf
__all__ = ["Rows", "RowsEnv"]
class Row(vf.Task[vf.TaskData]):
    {body["Task"]}
class RowsConfig(vf.EnvConfig):
    {body["Env"]}
class RowsEnv(vf.Env[RowsConfig]):
    async def run(self, task, agents): ...
class Rows(vf.Taskset[Row]):
    def load(self):
        yield Row(vf.TaskData(prompt="?"))
"""
    )
    try:
        with pytest.raises(ConfigError, match=f"verifiers:refused cannot be played here: .*{why}"):
            VerifiersTask("refused")
    finally:
        sys.modules.pop("refused", None)


def test_wrong_settings_are_refused():
    with pytest.raises(
        ConfigError, match="verifiers:nothing: ModuleNotFoundError: taskset 'nothing'"
    ):
        VerifiersTask("nothing")
    with pytest.raises(ConfigError, match=r"verifiers:sums: ValidationError: .*count"):
        VerifiersTask("sums", count="many")
    with pytest.raises(ConfigError, match="verifiers:sums has no task here"):
        VerifiersTask("sums", count=0)
    with pytest.raises(ConfigError, match="verifiers:digits has no end"):
        VerifiersTask("digits")
    with pytest.raises(ConfigError, match="integer >= 0 and < 3, got 3"):
        VerifiersTask("sums").example(3)


@pytest.mark.parametrize("chat", [False, True])
def test_verifiers_plays_our_environment_of_one_turn(chat):
    kwargs = {"task": "arithmetic", **({"system_prompt": "Be brief."} if chat else {})}
    ours = gymnasium.make("textenv:TextGen-v0", **kwargs)
    _, info = ours.reset(seed=0)
    right = ours.unwrapped.task.oracle(ours.unwrapped.example)
    for answer, reward in ((right, 1.0), ("?", 0.0)):
        say = {"env_kwargs": kwargs, "size": 2}
        trace, seen = by_verifiers("text_tasks", 0, lambda _, said=answer: said, **say)
        shown = info["messages"] if chat else [{"role": "user", "content": info["prompt"]}]
        assert seen == [shown]
        assert trace.reward == reward and trace.metrics == {"correct": reward}


def test_verifiers_plays_our_environment_of_many_turns():
    def bisect(messages):
        low, high = 0, 99
        for guess, reply in zip(messages[1::2], messages[2::2]):
            assert reply["content"].strip() in ("higher", "lower"), reply
            if "higher" in reply["content"]:
                low = int(guess["content"]) + 1
            else:
                high = int(guess["content"]) - 1
        return str((low + high) // 2)

    kwargs = {"task": "guess_number", "task_kwargs": {"low": 0, "high": 99, "max_turns": 7}}
    for index in range(3):
        trace, seen = by_verifiers("text_tasks", index, bisect, env_kwargs=kwargs, size=3)
        ours = gymnasium.make("textenv:TextGen-v0", **kwargs)
        prompt, _ = ours.reset(options={"example_id": trace.task.data.example_id})
        assert seen[0] == [{"role": "user", "content": prompt}] and len(seen) == trace.num_turns
        steps = [ours.step(message.content) for message in trace.assistant_messages]
        assert trace.reward == pytest.approx(sum(step[1] for step in steps))
        assert steps[-1][2] and steps[-1][4]["is_correct"]


def test_a_model_that_fails_has_no_reward():
    def fail(messages):
        raise web.HTTPInternalServerError

    trace, _ = by_verifiers("text_tasks", 0, fail, ok=False, size=1)
    assert trace.last_error.type == "ProviderError" and not trace.rewards and not trace.metrics


def test_our_taskset_takes_text_alone():
    with pytest.raises(ConfigTypeError, match="TextTaskset needs an environment whose observation"):
        by_verifiers("text_tasks", 0, lambda _: "", env="CartPole-v1")


def test_our_environment_comes_back_over_verifiers_tasks_as_it_went():
    with pytest.raises(ConfigError, match="nothing"):
        VerifiersTask("text_tasks", env_kwargs={"task": "nothing"})
    env = make("text_tasks", env_kwargs={"task": "reverse"}, size=4)
    ours = gymnasium.make("textenv:TextGen-v0", task="reverse")
    for i in range(4):
        prompt, _ = ours.reset(seed=0 if i == 0 else None)
        assert env.reset(options={"example_id": i})[0] == prompt
        answer = ours.unwrapped.task.oracle(ours.unwrapped.example)
        assert env.step(answer)[1:3] == (1.0, True)
    env.close()


def test_an_episode_that_nobody_closes_ends_with_its_environment(caplog, recwarn):
    env = make("digits", {"limit": 5})
    env.reset(seed=0)
    play = env.unwrapped._talk._episode
    loop, main = play._loop, play._main
    del play, env
    gc.collect()
    assert loop.is_closed() and main.cancelled()
    assert not caplog.records and not recwarn.list


def test_a_copy_of_a_running_episode_goes_on_by_itself():
    env = make("digits", {"limit": 5})
    env.reset(options={"example_id": 2})
    env.step("5")
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert other.step("7")[4]["turn"].strip().endswith("lower\n\nAssistant:")
        assert other.step("6")[1] == pytest.approx(1 + 0.1 / 3)
        other.close()
    assert env.step("6")[1] == pytest.approx(1 + 0.1 / 2)
    env.close()
