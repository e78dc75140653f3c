"""Plays the environments of OpenEnv's servers as tasks, and serves environments of this package.

    import gymnasium
    from textenv.wrappers.bridges.openenv import OpenEnvTask

    env = gymnasium.make("textenv:TextGen-v0", task=OpenEnvTask("http://127.0.0.1:8000"))

    import uvicorn
    from textenv.wrappers.bridges.openenv import openenv_app

    uvicorn.run(openenv_app("textenv:TextGen-v0", task="countdown"), host="127.0.0.1", port=8000)

This was written for openenv 0.10.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from textenv.errors import ConfigError, MissingDependencyError
from textenv.tasks.base import Episode, Example, Task, Turn, check_split, draw_seed
from textenv.wrappers.text import require_text

try:
    import httpx
    from openenv.core import Action, Environment, GenericEnvClient, Observation, State, create_app
except ModuleNotFoundError as error:
    if error.name not in ("httpx", "openenv"):
        raise
    raise MissingDependencyError("openenv", extra="openenv", purpose=__name__) from error

_SHOWN = ("task", "example_id", "answer", "rewards", "is_correct")  # of an info, to clients


class OpenEnvTask(Task):
    """The environment of an OpenEnv server as a task; an example's id is the seed of its reset.

    If the server's action has a single field, and it is text, an action is this text. Otherwise it
    is a JSON object that fits the action's schema, which the prompt then shows. An observation with
    a single field of text is shown as it is, any other one as JSON. An action that the server
    cannot read gets a reply that says so, and 0 as its reward.

    Each episode is a session of its own: the server must take as many as environments play at once.

    Args:
        base_url: the server's address, as ``"http://127.0.0.1:8000"``.
        resets: the arguments of ``reset`` for each example; their indices are the ids. None: the
            only argument is a seed, of which each split has its own.
        split: ``"train"`` or ``"test"``, if there are no ``resets``.
        max_turns: actions in an episode, after which it is truncated.

    Raises:
        ConfigError: for a wrong argument, or if no OpenEnv server answers at the address.
    """

    def __init__(
        self,
        base_url: str,
        resets: Sequence[Mapping[str, Any]] | None = None,
        split: str = "train",
        max_turns: int = 100,
    ):
        check_split(split)
        if resets is not None and (split != "train" or not resets):
            raise ConfigError("resets must have a row or more, and have no split")
        self.name, self.max_turns, self.split = f"openenv:{base_url}", max_turns, split
        self.size = None if resets is None else len(resets)
        self._url, self._resets = base_url, None if resets is None else [dict(r) for r in resets]
        self._schema = _action_schema(base_url)
        self._examples: dict[int, Example] = {}

    def example(self, example_id: int) -> Example:
        """The arguments and the first observation of the reset with this id."""
        if example_id < 0 or (self.size is not None and example_id >= self.size):
            most = "" if self.size is None else f" and < {self.size}"
            raise ConfigError(f"example_id must be an integer >= 0{most}, got {example_id}")
        if example_id not in self._examples:
            reset = self._reset(example_id)
            episode = _Session(self._url, self._schema, reset)
            episode.close()
            self._examples[example_id] = {"prompt": episode.first, "reset": reset}
        return self._examples[example_id].copy()

    def begin(self, example: Example) -> Episode:
        """Begin a session with the example's reset.

        Raises:
            ConfigError: if the server shows another observation than before.
        """
        episode = _Session(self._url, self._schema, example["reset"])
        if episode.first != example["prompt"]:
            episode.close()
            raise ConfigError(
                f"{self.name} gave two observations for one reset({example['reset']}), so that its "
                "episodes cannot be compared: its server must draw everything from the seed, or "
                "resets= must name what is played"
            )
        return episode

    def _reset(self, example_id: int) -> dict[str, Any]:
        if self._resets is not None:
            return self._resets[example_id]
        return {"seed": draw_seed(example_id, self.split, 2**31)}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_examples": {}}


class _Session(Episode):
    """The episode of a server's environment, in a session of its own.

    A copy plays the same actions again, in another session.
    """

    def __init__(
        self,
        url: str,
        schema: Mapping[str, Any],
        reset: Mapping[str, Any],
        actions: Sequence[str] = (),
    ):
        self._made_of, self._actions = (url, schema, reset), list[str]()
        self._url, self._field = url, _text_field(schema)
        self._client = GenericEnvClient(base_url=url).sync()
        try:
            self._client.connect()
            result = self._client.reset(**reset)
        except (ConnectionError, RuntimeError, OSError) as error:
            self._client.close()
            more = "; start it with a larger max_concurrent_envs" * ("CAPACITY" in str(error))
            raise ConfigError(
                f"OpenEnv server {url}, reset({dict(reset)}): {error}{more}"
            ) from error
        self.first = _shown(result.observation) + "\n"
        if self._field is None:
            self.first += (
                f"Answer with one JSON object that fits this schema:\n{json.dumps(schema)}\n"
            )

        for action in actions:
            self.step(action)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Session, (*self._made_of, self._actions)

    def step(self, action: str) -> Turn:
        """Send an action; the turn has the server's observation and its reward."""
        self._actions.append(action)
        sent = {self._field: action} if self._field else _object(action)
        if sent is None:
            return Turn("\nThe action must be one JSON object.\n", 0.0, False)
        try:
            result = self._client.step(sent)
        except (ConnectionError, RuntimeError, OSError) as error:
            if "VALIDATION_ERROR" in str(error):
                return Turn("\nThe action does not fit the schema.\n", 0.0, False)
            raise ConfigError(f"OpenEnv server {self._url}, step: {error}") from error
        return Turn(f"\n{_shown(result.observation)}\n", float(result.reward or 0.0), result.done)

    def close(self) -> None:
        """End the session."""
        self._client.close()


def _action_schema(url: str) -> dict[str, Any]:
    """The JSON schema of a server's actions, without the metadata that every action may have."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/schema", timeout=10)
        schema = answer.raise_for_status().json()["action"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"no OpenEnv server answers at {url!r}: {type(error).__name__}: {error}"
        ) from error
    fields = {k: v for k, v in schema.get("properties", {}).items() if k != "metadata"}
    return {**schema, "properties": fields}


def _text_field(schema: Mapping[str, Any]) -> str | None:
    """The name of an action's field, if it has only one or needs only one, and that is text."""
    fields = schema["properties"]
    names = schema.get("required") or list(fields)
    return names[0] if len(names) == 1 and fields[names[0]].get("type") == "string" else None


def _object(action: str) -> dict[str, Any] | None:
    """The JSON object in an action, which may be fenced; None if it has none."""
    text = action.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = "\n".join(text.splitlines()[1:-1])
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _shown(observation: Mapping[str, Any]) -> str:
    """An observation as text: its only field, if that is text, else all fields as JSON."""
    fields = {key: value for key, value in observation.items() if key != "metadata"}
    values = list(fields.values())
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return json.dumps(fields, ensure_ascii=False)


class TextAction(Action):
    """An action of `openenv_app`."""

    text: str


class TextObservation(Observation):
    """An observation of `openenv_app`: the newest text alone."""

    text: str


class _Served(Environment):
    """A text environment as OpenEnv's server plays it: one object for each session."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, env_id: str, kwargs: Mapping[str, Any]):
        super().__init__()
        self._env = gymnasium.make(env_id, **kwargs)
        self._state = State()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        example_id: int | None = None,
        **kwargs: Any,
    ) -> TextObservation:
        """Start an episode, with the example that is named or one that is drawn by the seed."""
        options = None if example_id is None else {"example_id": example_id}
        text, info = self._env.reset(seed=seed, options=options)
        self._state = State(episode_id=episode_id)
        return self._observation(text, info)

    def step(self, action: TextAction, timeout_s: float | None = None, **kwargs: Any) -> Any:
        """Take an action."""
        _, reward, terminated, truncated, info = self._env.step(action.text)
        self._state.step_count += 1
        return self._observation(
            info.get("turn", ""), info, reward=float(reward), done=terminated or truncated
        )

    def _observation(self, text: str, info: Mapping[str, Any], **rest: Any) -> TextObservation:
        shown = {key: info[key] for key in _SHOWN if key in info}
        return TextObservation(text=text, metadata=shown, **rest)

    @property
    def state(self) -> State:
        """The episode's name, and how many actions it has had."""
        return self._state

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def openenv_app(
    env_id: str = "textenv:TextGen-v0", max_sessions: int = 64, **env_kwargs: Any
) -> Any:
    """An OpenEnv server of a text environment, as an ASGI application for ``uvicorn.run``.

    A client's action is ``{"text": ...}``, and so is an observation, which has the newest text
    alone. ``reset`` takes a ``seed`` or an ``example_id``.

    Args:
        env_id: id of an environment whose observation and action are text.
        max_sessions: how many clients may play at once.
        **env_kwargs: arguments for ``gymnasium.make``.

    Raises:
        ConfigTypeError: if the environment's observation or action is not text.
    """
    env = gymnasium.make(env_id, **env_kwargs)
    for what in ("observation", "action"):
        require_text(env, "openenv_app", what)
    env.close()
    return create_app(
        lambda: _Served(env_id, env_kwargs),
        TextAction,
        TextObservation,
        env_name=env_id,
        max_concurrent_envs=max_sessions,
    )
