"""Plays the environments of verifiers as tasks, and gives verifiers environments of this package.

    import gymnasium
    from textenv.wrappers.bridges.verifiers import VerifiersTask

    env = gymnasium.make("textenv:TextGen-v0", task=VerifiersTask("my_taskset"))

In the other direction verifiers finds an environment by the name of a module. With this one, as
``text_tasks.py``, ``vf-eval text-tasks`` plays the environment that ``--env.taskset.*`` names:

    from textenv.wrappers.bridges.verifiers import TextTaskset, TextTasksetEnv

    __all__ = ["TextTaskset", "TextTasksetEnv"]

This was written for verifiers 0.4, whose environments are tasksets (``verifiers.v1``).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import gymnasium
from pydantic import Field, ValidationError

from textenv.errors import ConfigError, DataError, MissingDependencyError, RewardError
from textenv.messages import transcript
from textenv.tasks.base import Episode, Example, Task, Turn
from textenv.wrappers.text import require_text

try:
    import verifiers.v1 as vf
    from verifiers.v1.configs.agent import agent_config_fields
    from verifiers.v1.dialects import parse_message
    from verifiers.v1.state import state_cls
    from verifiers.v1.utils.decorators import discover_decorated
except ModuleNotFoundError as error:
    if not f"{error.name}.".startswith("verifiers."):
        raise
    raise MissingDependencyError("verifiers", extra="verifiers", purpose=__name__) from error

_MOST_TURNS = 100  # actions in an episode of several turns, if its environment has no limit


class VerifiersTask(Task):
    """An environment of verifiers as a task: the policy is its agent, and answers in chat.

    A plain taskset asks once and scores the answer. An environment of its own may talk to its agent
    over several turns, as that of TextArena's games does. The reward, which comes with the last
    action, is the weighted sum of what verifiers records.

    What needs a box or a server is refused: tools, containers, harnesses that run code, hooks that
    prepare or stop a rollout, rewards that read files, and environments with several agents.

    Args:
        taskset: verifiers' id of the taskset: the name of a module that exports it.
        select: which of its tasks, as verifiers' ``SelectConfig``: ``{"limit": 100}``,
            ``{"include": {"idx": "100:"}}``. It must bound a taskset without end.
        **settings: of the taskset's config.

    Raises:
        ConfigError: for an unknown id, a wrong setting, or what is not bridged; says what.
    """

    def __init__(self, taskset: str, select: Mapping[str, Any] | None = None, **settings: Any):
        self.name = f"verifiers:{taskset}"
        self._taskset, self._select, self._settings = taskset, dict(select or {}), settings
        env, tasks = self._loaded
        (self._seat,) = agent_config_fields(env.config)
        if isinstance(env, vf.SingleAgentEnv):
            self.max_turns = 1
        else:
            self.max_turns = getattr(env.config, self._seat).max_turns or _MOST_TURNS
        self.size = len(tasks)
        self._examples: dict[int, Example] = {}

    @functools.cached_property
    def _loaded(self) -> tuple[Any, list[Any]]:
        """The environment and its tasks, which a copy loads again."""
        try:
            config = {"taskset": {"id": self._taskset, **self._settings}}
            env = vf.load_environment(vf.resolve_env_config(config))
            tasks = env.taskset.select(vf.SelectConfig(**self._select))
            listed = list(tasks) if tasks.bounded else []
        except (ValidationError, ImportError, AttributeError, TypeError, ValueError) as error:
            first = " ".join(str(error).split())
            raise ConfigError(f"{self.name}: {type(error).__name__}: {first}") from error
        if not listed:
            why = "has no end; bound it with select" if not tasks.bounded else "has no task here"
            raise ConfigError(f"{self.name} {why}, as select={{'limit': 1000}}")
        if reasons := list(_not_bridged(env, listed[0])):
            raise ConfigError(f"{self.name} cannot be played here: {'; '.join(reasons)}")
        return env, listed

    def example(self, example_id: int) -> Example:
        """The messages with which the environment asks for the first answer to a task."""
        tasks = self._loaded[1]
        if not 0 <= example_id < len(tasks):
            raise ConfigError(
                f"example_id must be an integer >= 0 and < {len(tasks)}, got {example_id}"
            )
        if example_id not in self._examples:
            play = self._play(example_id)
            play.close()
            self._examples[example_id] = {
                "prompt": transcript(play.first),
                "messages": play.first,
                "index": example_id,
            }
        return self._examples[example_id].copy()

    def begin(self, example: Example) -> Episode:
        """Begin the task of an example."""
        return self._play(example["index"])

    def _play(self, index: int) -> _Play:
        return _Play(self, index)

    def _stage(self, index: int) -> _Stage:
        env, tasks = self._loaded
        place = f"{self.name}, task {index}"
        return _Stage(env, tasks[index], self._seat, self.max_turns, place)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_loaded"} | {"_examples": {}}


def _not_bridged(env: Any, task: Any) -> Iterator[str]:
    """What an environment and its tasks ask for that only verifiers itself has."""
    if len(seats := agent_config_fields(env.config)) != 1:
        yield f"it has {len(seats)} agents ({', '.join(seats)})"
    if task.toolsets(env.config.taskset.task) or env.taskset.toolsets(env.taskset.config):
        yield "it has tools"
    if task.NEEDS_CONTAINER:
        yield "it needs a container"
    for name in ("setup", "finalize"):
        if getattr(type(task), name) is not getattr(vf.Task, name):
            yield f"its tasks have {name}()"
    for name in ("start", "stop"):
        if getattr(type(env), name) is not getattr(vf.Env, name):
            yield f"it has {name}()"
    if task.hooks("stop") or discover_decorated(task, "intercept"):
        yield "its tasks stop or change a rollout"
    for hook in (*task.hooks("reward"), *task.hooks("metric")):
        parameter = inspect.signature(hook).parameters.get("runtime")
        if parameter is not None and parameter.default is parameter.empty:
            yield f"{hook.__name__} reads the runtime"


class _Stage:
    """What an environment's coroutine and the episode that drives it share.

    Attributes:
        left: turns that the policy still has.
        cut: whether the environment asked for a turn more than that.
        traces: what verifiers recorded, one trace for each time that the agent played.
        asked: the messages that wait for an answer.
        answers: the policy's answers.
    """

    def __init__(self, env: Any, task: Any, seat: str, turns: int, place: str):
        self.env, self.task, self.seat, self.place = env, task, seat, place
        self.left, self.cut = turns, False
        self.traces: list[Any] = []
        self.asked: asyncio.Queue[list[dict[str, str]]] = asyncio.Queue()
        self.answers: asyncio.Queue[str] = asyncio.Queue()

    async def play(self) -> None:
        """The whole episode, as verifiers' ``Env.run_episode`` has it."""
        agents = SimpleNamespace(**{self.seat: _Seat(self)})
        await self.env.setup(agents)
        await self.env.run(self.task, agents)
        episode = vf.Episode(task=_recorded(self.task), traces=self.traces)
        await self.env.finalize(self.task, episode)

    async def ask(self, messages: list[dict[str, str]]) -> str | None:
        """Wait for the policy's answer to messages; None if it has no turn left."""
        if self.left == 0:
            self.cut = True
            return None
        self.left -= 1
        self.asked.put_nowait(messages)
        return await self.answers.get()


class _Play(Episode):
    """A task that is played in an event loop of its own, which stands still between two actions.

    The loop runs in the caller's thread, because math-verify's time limit works only there if that
    is the main one. It ends with this object, also where nobody calls `close`. A copy plays the
    same actions again.
    """

    def __init__(self, task: VerifiersTask, index: int, actions: Sequence[str] = ()):
        self._of, self._actions = (task, index), list[str]()
        self._stage = stage = task._stage(index)
        self._loop = asyncio.new_event_loop()
        self._main = self._loop.create_task(stage.play())
        self.close = weakref.finalize(self, _end, self._loop, self._main)  # type: ignore[method-assign]
        self.first = self._until_asked() or []
        if not self.first:
            self.close()
            raise DataError(f"{stage.place}: it ended without a question to its agent")
        for action in actions:
            self.step(action)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Play, (*self._of, self._actions)

    def _until_asked(self) -> list[dict[str, str]] | None:
        """Play on until the agent is asked; None if the episode ended before."""
        asked = _in_loop(self._loop, _first(self._main, self._stage.asked))
        if asked is None and (error := self._main.exception()) is not None:
            self.close()
            if isinstance(error, (DataError, RewardError)):
                raise error
            raise RewardError(f"{self._stage.place}: {type(error).__name__}: {error}") from error
        return asked

    def step(self, action: str) -> Turn:
        """Answer; the turn has the next message and, at the end, the reward."""
        self._actions.append(action)
        self._stage.answers.put_nowait(action)
        asked = self._until_asked()
        if asked is not None:
            return Turn("\n".join(message["content"] for message in asked), 0.0, False)
        traces = self._stage.traces
        if len(traces) != 1:
            raise RewardError(
                f"{self._stage.place}: it played its agent {len(traces)} times; once is bridged"
            )
        return Turn("", float(traces[0].reward), not self._stage.cut)


async def _first(main: asyncio.Task[None], queue: asyncio.Queue[Any]) -> Any:
    """The next item of a queue; None if the task ends before."""
    item = asyncio.ensure_future(queue.get())
    await asyncio.wait({main, item}, return_when=asyncio.FIRST_COMPLETED)
    if item.done():
        return item.result()
    item.cancel()
    return None


def _in_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a loop, also in a thread where another one runs, as in a notebook."""
    outer = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return loop.run_until_complete(coroutine)
    finally:
        asyncio._set_running_loop(outer)


def _end(loop: asyncio.AbstractEventLoop, main: asyncio.Task[None]) -> None:
    """End an episode where it stands."""
    main.cancel()
    _in_loop(loop, asyncio.wait({main}))
    _in_loop(loop, loop.shutdown_asyncgens())
    loop.close()


class _Seat:
    """What an environment's ``run`` sees of its agent: verifiers' ``Agent`` without a harness."""

    trainable = True

    def __init__(self, stage: _Stage):
        self._stage = stage

    async def run(self, task: Any) -> Any:
        """Let the agent answer a task once, and score it."""
        async with self.interaction(task) as talk:
            await talk.turn()
        return talk.trace

    @asynccontextmanager
    async def interaction(self, task: Any) -> AsyncIterator[_Talk]:
        """Hold a conversation with the agent; it is scored at its end."""
        talk = _Talk(self._stage, task)
        yield talk
        talk.trace.stop("user_closed")
        await task.score(talk.trace)
        talk.trace.ok = True
        self._stage.traces.append(talk.trace)


class _Talk:
    """What ``run`` sees of a conversation: verifiers' ``Interaction`` with the policy."""

    def __init__(self, stage: _Stage, task: Any):
        self._stage, self._task = stage, task
        config = getattr(stage.env.config, stage.seat)
        self.trace = vf.Trace(
            task=_recorded(task),
            state=state_cls(type(task))(),
            agent=vf.AgentInfo(config=config, name=stage.seat),
        )

    async def turn(self, message: Any = None) -> Any:
        """Say something to the agent, or nothing if the task's prompt asks; gives its answer."""
        data = self._task.data
        new: list[Any] = []
        if not self.trace.nodes:
            if data.system_prompt is not None:
                new.append(vf.SystemMessage(content=data.system_prompt))
            if (message is None) != (data.prompt is not None):
                raise ValueError("a task's prompt opens the conversation, or else turn(message)")
            message = data.prompt if message is None else message
        said = [vf.UserMessage(content=message)] if isinstance(message, str) else message or []
        new += [parse_message(each) if isinstance(each, dict) else each for each in said]
        answer = await self._stage.ask([self._plain(each) for each in new])
        if answer is None:
            self.trace.stop("max_turns")
            return vf.Segment(messages=[], terminated=True)
        reply = vf.AssistantMessage(content=answer)
        for each in (*new, reply):
            parent = len(self.trace.nodes) - 1 if self.trace.nodes else None
            node = vf.MessageNode(parent=parent, message=each, sampled=each is reply)
            self.trace.nodes.append(node)
        return vf.Segment(messages=[reply])

    def _plain(self, message: Any) -> dict[str, str]:
        if not isinstance(message.content, str):
            raise DataError(f"{self._stage.place}: a message that is not text")
        return {"role": message.role, "content": message.content}


def _recorded(task: Any) -> Any:
    return vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)


class TextTaskData(vf.TaskData):
    """An example of a text environment."""

    example_id: int


class TextTask(vf.Task[TextTaskData]):
    """A task of verifiers that `TextTasksetEnv` plays in a text environment, which scores it."""


class TextTasksetConfig(vf.TasksetConfig):
    """The settings of `TextTaskset`, on verifiers' command line ``--env.taskset.*``."""

    env: str = "textenv:TextGen-v0"
    """Id of an environment whose observation and action are text."""
    env_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments for ``gymnasium.make``."""
    size: int = 1000
    """How many examples are drawn."""
    seed: int = 0
    """Seed with which they are drawn."""


class TextTaskset(vf.Taskset[TextTask, TextTasksetConfig]):
    """Examples of a text environment of this package as a taskset of verifiers."""

    def load(self) -> Iterator[TextTask]:
        """Draw the examples; their prompts are those that the environment shows."""
        env = _text_env(self.config)
        for i in range(self.config.size):
            observation, info = env.reset(seed=self.config.seed if i == 0 else None)
            example_id = info["example_id"]
            prompt = [parse_message(m) for m in info["messages"]] if "messages" in info else None
            yield TextTask(
                TextTaskData(
                    name=f"{info['task']}#{example_id}",
                    prompt=observation if prompt is None else prompt,
                    example_id=example_id,
                ),
                self.config.task,
            )
        env.close()


class TextTasksetEnvConfig(vf.EnvConfig):
    """The settings of `TextTasksetEnv`; its agent only chats, for which no box is needed."""

    agent: vf.AgentConfig = vf.AgentConfig(
        harness={"id": "null"},  # type: ignore[arg-type]
        runtime=vf.SubprocessConfig(),
    )


class TextTasksetEnv(vf.Env[TextTasksetEnvConfig]):
    """Plays an example of a text environment with verifiers' agent, over as many turns as it has.

    The trace has the sum of the rewards as ``reward``, and the reward components as metrics.
    """

    async def run(self, task: Any, agents: Any) -> None:
        """Play an episode. The environment runs in threads, which may wait for its rewards."""
        env = await asyncio.to_thread(_text_env, self.config.taskset)
        try:
            _, info = await asyncio.to_thread(
                env.reset, options={"example_id": task.data.example_id}
            )
            total, components = 0.0, dict[str, float]()
            async with agents.agent.interaction(task) as talk:
                segment = await talk.turn()
                while not segment.terminated:
                    before = len(info.get("messages", ()))
                    _, reward, terminated, truncated, info = await asyncio.to_thread(
                        env.step, segment.last_reply
                    )
                    total += float(reward)
                    for name, value in info.get("rewards", {}).items():
                        components[name] = components.get(name, 0.0) + value
                    if terminated or truncated:
                        break
                    segment = await talk.turn(_news(info, before))
        finally:
            await asyncio.to_thread(env.close)
        if talk.trace.ok:  # a model that failed has no reward
            talk.trace.record_reward("reward", total)
            talk.trace.record_metrics(components)


def _news(info: Mapping[str, Any], before: int) -> str:
    """What an environment replied, as one message of the user."""
    messages: Sequence[Mapping[str, Any]] = info.get("messages", ())
    return "\n".join(m["content"] for m in messages[before + 1 :]) if messages else info["turn"]


def _text_env(config: Any) -> gymnasium.Env:
    env = gymnasium.make(config.env, **config.env_kwargs)
    for what in ("observation", "action"):
        require_text(env, "TextTaskset", what)
    return env
