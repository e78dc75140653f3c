"""The environment ``TextGen-v0``: its observation is a prompt, its action the completion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction, ResetNeeded

from textenv.conversation import Conversation
from textenv.envs.making import changed, make_opening, make_reward, make_task
from textenv.envs.resets import draw_ids, named
from textenv.errors import ConfigError, ConfigTypeError, DataError
from textenv.rewards import NOTHING_BEGUN, Answers, Begun, RewardSpec
from textenv.rewards.extract import ExtractSpec, make_extractor
from textenv.spaces import UnicodeText
from textenv.tasks import NOTHING, Episode, Example, Task
from textenv.tools import Tool

Scored = tuple[float, dict[str, float], "bool | None"]
"""A reward, its components by name, and whether the answer is correct if that is known."""

ENTRY_POINT = "textenv.envs.env:TextGenerationEnv"
MAX_CHARACTERS = 2**20  # longest observation and action


class TextGenerationEnv(gym.Env[str, str]):
    """Complete a prompt with a text, which is scored; some tasks take several turns.

    ## Description
    One episode is one problem. The environment shows a prompt, the agent answers with a text, and
    a reward function (or the task's own verifier) scores the text. In a task of several turns the
    environment replies to each answer, and the agent continues.

    ## Action Space
    `UnicodeText`: any string. It is the completion.

    ## Observation Space
    `UnicodeText`: the transcript so far, which is the prompt followed by each action and reply.
    A policy needs nothing else. ``info["turn"]`` is only the newest part of it.

    ## Rewards
    At each step, the weighted sum of the reward components. ``info["rewards"]`` lists them by
    name.

    ## Starting State
    An example drawn from the task with the environment's random generator, or the example whose
    id is given as ``options={"example_id": i}``. If the task has ``levels``,
    ``options={"level": k}`` sets the difficulty of this one episode. Both options can be combined.

    ## Episode End
    The episode terminates when the task ends it: in a task of one turn, after the first step. It
    is truncated when the task's turns are used up. If there is a ``tokenizer``, a completion of
    more than ``max_tokens`` tokens also truncates it: the completion is scored, but a real system
    would have cut it off.

    ## Information
    ``reset`` gives ``task``, ``example_id`` and ``prompt``, and ``level`` if one was given.
    ``step`` gives ``completion`` and ``rewards``, with an extractor also ``answer`` (None if there
    is none), and ``scored``, which is False, if every reward
    function abstained. At the end of an episode it also gives
    ``is_correct``, if a verifier can tell. In tasks of several turns both give ``turn``.

    If the episode is a conversation, both give ``messages``: all so far, the answers as those of
    the assistant. It is one if its prompt is a list of messages, or if there is a
    ``system_prompt``, ``few_shot`` or ``tools``. With tools both give their JSON schemas as
    ``tools``, and ``step`` the numbers ``tool_calls``, ``tool_failures`` and ``malformed_calls``.

    ## Arguments
    Args:
        prompts: your own prompts, each a text or a list of messages ``{"role", "content"}``. Text
            is shown unchanged, messages as a plain transcript. Their indices are their ids.
        reward_fn: a reward function, a registered name, or a list of these. The default is
            ``"correct"``, the task's own verifier; with ``extract`` and own prompts or a dataset it
            is ``"exact_match"``.
        max_tokens: longest completion in tokens. It has an effect only if there is a tokenizer.
        tokenizer: any object with ``encode(text) -> ids``.
        examples: one dict for each of ``prompts``; the reward function receives it.
        task: name of a task (see `textenv.tasks.names`), or a `textenv.tasks.Task`. The default
            is ``"arithmetic"``, if neither prompts nor a dataset are given.
        dataset: a file of JSON Lines, CSV or Parquet, or the folder of a Hugging Face dataset.
            Its rows are ``{"prompt", "answer", ...}``; they may have ``messages`` in place of a
            prompt, or a ``question`` as in GSM8K.
        columns: other names for columns of the dataset, as ``{"question": "prompt"}``.
        limit: reads only so many rows of the dataset, the first ones.
        split: ``"train"`` or ``"test"``. None is the train split of a generated task, and all
            rows of ``prompts`` or a dataset.
        task_kwargs: difficulty settings of the task.
        style: ``"chat"`` asks in words, if the task can, and says how to answer; ``"plain"`` is
            the default of the tasks here.
        extract: takes the answer out of a completion, after its ``<think>...</think>``: the name
            of an extractor (see `textenv.rewards.extract`), or a function of the text. None is the
            task's default, which for most tasks is to read completions as they are.
        reward_weights: weight of each reward component by name; 1 if it is not named.
        reward_timeout: seconds after which a reward function is cut off. It applies to async
            functions and, with ``reward_process``, to all others. Verifiers that use the parser of
            another library (those of reasoning-gym, and ``math_equal``) always have a limit, which
            is 10 seconds if this is None, and score 0 then.
        reward_process: run reward functions in a separate process. It takes half a second to
            start and about 60 microseconds a call. The functions must be importable, which
            means that they are defined at the top level of a module.
        reward_on_timeout: score of a function that was cut off. None raises an error.
        reward_may_abstain: whether a reward function may return None, which leaves it out of the
            sum. If all of them do, the reward is 0 and ``info["scored"]`` is False, and trainers
            leave the completion out. False makes None an error.
        system_prompt: a system message that each conversation begins with; ``@FILE`` reads it from
            a file. One that a conversation has already follows it in the same message.
        few_shot: rows ``{"prompt", "answer"}``, shown before each conversation as messages of the
            user and the assistant.
        tools: functions that the policy may call, with type hints and a docstring. An answer such
            as ``<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>`` calls one, and a
            message of the role ``tool`` holds the result. An answer without a call is scored.
        max_turns: actions in an episode with tools, the answer included. The default is the
            task's own number, and 4 if that is 1.
        tool_timeout: seconds after which a tool is stopped, which runs in a process of its own.
            None runs it in this process, without a limit.
        render_mode: ``"ansi"`` (`render` returns a string) or ``"human"`` (it is printed).

    ## Version History
    * v0: first version.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        prompts: Sequence[str | Sequence[Mapping[str, Any]]] | None = None,
        reward_fn: RewardSpec | None = None,
        max_tokens: int = 25,
        tokenizer: Any = None,
        examples: Sequence[Mapping[str, Any]] | None = None,
        *,
        task: str | Task | None = None,
        dataset: str | Path | None = None,
        columns: Mapping[str, str] | None = None,
        limit: int | None = None,
        split: str | None = None,
        task_kwargs: Mapping[str, Any] | None = None,
        style: str | None = None,
        extract: ExtractSpec | None = None,
        reward_weights: Mapping[str, float] | None = None,
        reward_timeout: float | None = None,
        reward_process: bool = False,
        reward_on_timeout: float | None = None,
        reward_may_abstain: bool = True,
        system_prompt: str | None = None,
        few_shot: Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Tool] | None = None,
        max_turns: int | None = None,
        tool_timeout: float | None = 10.0,
        render_mode: str | None = None,
    ):
        given = dict(locals())
        _check(max_tokens, tokenizer, render_mode)
        made = make_task(
            prompts, examples, task, dataset, split, task_kwargs, style, columns, limit
        )
        self.task, self._opening = make_opening(
            made, system_prompt, few_shot, tools, max_turns, tool_timeout
        )
        spec = self.task.extract if extract is None else extract
        self.extractor = None if spec is None else make_extractor(spec)
        self.example: Example | None = None
        self.max_tokens, self.tokenizer = max_tokens, tokenizer
        self.render_mode = render_mode
        self.observation_space = UnicodeText(MAX_CHARACTERS)
        self.action_space = UnicodeText(MAX_CHARACTERS)
        self.reward = make_reward(
            self.task,
            reward_fn,
            reward_weights,
            extract,
            timeout=reward_timeout,
            process=reward_process,
            on_timeout=reward_on_timeout,
            may_abstain=reward_may_abstain,
            verifier_is_cut_off=self.task.verifier_timeout is not None,
        )
        if reward_timeout not in (None, self.task.verifier_timeout):
            self.task = self.task.with_timeout(float(reward_timeout))
        self._begun: tuple[str, dict[str, Any]] | None = None
        self._latest: tuple[str, tuple[str | None, str | None]] | None = None
        self._episode: Episode = NOTHING
        self._talk: Conversation | None = None  # the episode, if it is a conversation
        self._transcript, self._turns = "", 0
        self._needs_reset = "reset() must be called before step()"
        if type(self) is not TextGenerationEnv:
            return  # a subclass may take other arguments
        # gym.make sets its own spec. With this one, gym.make can also copy an environment that
        # was made from the class.
        self.spec = EnvSpec("TextGen-v0", ENTRY_POINT, kwargs=changed(TextGenerationEnv, given))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode with a drawn example, or with that of ``options={"example_id": i}``.

        Args:
            seed: seed of the environment's random generator.
            options: ``example_id``, and ``level``, the difficulty of this episode, which is one
                of ``task.levels``. Without it the task's own difficulty is used.

        Raises:
            ConfigError: for an unknown option, an id or a level out of range, or a level if the
                task has no levels.
            ConfigTypeError: for an id that is not an integer.
        """
        super().reset(seed=seed)
        example_id, level = named(options) if options else (None, None)
        task = self.task if level is None else self.task.at_level(level)
        if example_id is None:
            example_id = draw_ids(task, [self.np_random])[0]
        example, talk = task.example(example_id), None
        if "messages" in example or self._opening.always:
            example, talk = self._opening.begin(task, example, self.task.max_turns)
        prompt = example["prompt"]
        if len(prompt) > MAX_CHARACTERS:
            raise DataError(why_too_long(self.task, example_id, prompt))
        if self._begun is not None:
            self._let_go()
        self._episode.close()
        self.example, self._talk = example, talk
        self._episode = task.begin(example) if talk is None else talk
        self._transcript, self._turns = prompt, 0
        self._needs_reset = ""
        if self.render_mode == "human":
            self.render()
        info = {"task": self.task.name, "example_id": example_id, "prompt": prompt}
        if level is not None:
            info["level"] = level
        if self.task.max_turns > 1:
            info["turn"] = prompt
        if talk is not None:
            info.update(talk.opening_info())
        return prompt, info

    def step(
        self, action: str, *, cut: bool | None = None
    ) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Score a completion, and reply to it in a task of several turns.

        Args:
            action: the completion.
            cut: whether the completion was cut off, if the caller knows. None compares its number
                of tokens with ``max_tokens``, if there is a tokenizer.

        Raises:
            InvalidAction: if the action is not a member of the action space.
            ResetNeeded: before the first reset and after the end of an episode.
            RewardError: if a reward function fails.
        """
        if self._needs_reset:
            raise ResetNeeded(self._needs_reset)
        if not self.action_space.contains(action):
            raise InvalidAction(why_invalid(action))
        if cut is None:
            cut = self.tokenizer is not None and self.is_cut(action)
        answers: Answers | None = None
        if self.extractor is None:
            said, score, over = self._episode.step(action)
        else:
            read, answer = self._read(action)
            said, score, over = self._episode.play(action, read)
            answers = (answer,)
        before, example, talk = self._transcript, self.example, self._talk
        begun = NOTHING_BEGUN if self._begun is None else self._let_go(unless=action)
        scored: Scored
        if talk is not None and talk.pending:  # a call of a tool is not scored
            scored = 0.0, {}, None
        else:
            scored = self.reward(before, action, example, score, begun, answers)  # type: ignore[arg-type]
        reward, components, correct = scored
        self._transcript = transcript = f"{before}{action}{said}"[:MAX_CHARACTERS]
        self._turns += 1
        most_turns = self.task.max_turns
        terminated = over and not cut
        truncated = not terminated and (cut or self._turns >= most_turns)
        info: dict[str, Any] = {"completion": action, "rewards": components}
        if answers is not None:
            info["answer"] = answers[0]
        if math.isnan(reward):  # every function abstained
            reward, info["scored"] = 0.0, False
        if most_turns > 1:
            info["turn"] = said
        if talk is not None:
            info.update(talk.info())
        if terminated or truncated:
            self._needs_reset = "the episode has ended: reset() must be called before step()"
            # With other reward functions than the verifier, the task's score still decides.
            if correct is None and score is not None:
                correct = bool(score >= 1)
            if correct is not None:
                info["is_correct"] = correct
        if self.render_mode == "human":
            self.render()
        return transcript, reward, terminated, truncated, info

    def prescore(self, action: str) -> None:
        """Start to score an action before `step` is called with it, without waiting.

        This calls the reward functions that run elsewhere: async functions and those of
        ``reward_process``. The next `step` waits for their results. A loop over many environments
        can call this for all of them first, so that their reward functions run at the same time.
        The environment does not change, and errors are raised in `step`.

        Args:
            action: the completion. If `step` receives another one, the results are discarded.
        """
        if self._takes(action) and (self._begun is None or self._begun[0] != action):
            self._let_go()
            answers = None if self.extractor is None else self._read(action)[1:]
            begun = self.reward.begin(self._transcript, action, self.example, answers)  # type: ignore[arg-type]
            self._begun = action, dict(begun)

    def __getstate__(self) -> dict[str, Any]:
        # Calls in progress stay with this environment; a copy calls its functions itself.
        return {**self.__dict__, "_begun": None}

    def _read(self, action: str) -> tuple[str | None, str | None]:
        """What the task reads of an action, and the answer in it; once for each action."""
        if self._latest is None or self._latest[0] != action:
            task = self.task if self._talk is None else self._talk
            self._latest = action, self.extractor.read(action, task.is_answer)  # type: ignore
        return self._latest[1]

    def _takes(self, action: str) -> bool:
        """Whether `step` would accept this action now, and score it."""
        takes = not self._needs_reset and self.action_space.contains(action)
        return takes and not (self._talk is not None and self._talk.awaits_tools(action))

    def _let_go(self, unless: str | None = None) -> Begun:
        """Forget what `prescore` began: return it if it is for ``unless``, else cancel it."""
        action, begun = self._begun or (None, NOTHING_BEGUN)
        self._begun = None
        if action is not None and action == unless:
            return begun
        for future in begun.values():
            future.cancel()
        return NOTHING_BEGUN

    def is_cut(self, action: str) -> bool:
        """Whether a completion has more than ``max_tokens`` tokens; False without a tokenizer."""
        if self.tokenizer is None:
            return False
        # What a tokenizer of `transformers` puts around a text is no part of the completion.
        bare = {"add_special_tokens": False} if hasattr(self.tokenizer, "all_special_ids") else {}
        return len(self.tokenizer.encode(action, **bare)) > self.max_tokens

    def close(self) -> None:
        """Release what the episode and the reward functions hold, such as a process."""
        self._let_go()
        self._episode.close()
        self.reward.close()

    @property
    def copy_kwargs(self) -> dict[str, Any]:
        """Changes to the spec's kwargs with which a copy shares this environment's task object."""
        own = (
            "prompts",
            "examples",
            "dataset",
            "columns",
            "limit",
            "split",
            "task_kwargs",
            "style",
        )
        return {**dict.fromkeys(own), "task": self.task}

    def render(self) -> str | None:
        """The transcript so far: returned in mode ``"ansi"``, printed in mode ``"human"``."""
        if self.render_mode == "ansi":
            return self._transcript
        if self.render_mode == "human":
            print(self._transcript, flush=True)
        return None


def prescore_together(envs: Sequence[TextGenerationEnv], actions: Sequence[str]) -> None:
    """Call `TextGenerationEnv.prescore` for many environments, batch reward functions included.

    A reward function that takes a batch is called once for all of the actions, and this waits
    for it.

    Args:
        envs: environments with the same reward functions.
        actions: for each environment, the action that its next `step` will receive.
    """
    pairs = [(env, action) for env, action in zip(envs, actions) if env._takes(action)]
    rows = [(env._transcript, action, env.example) for env, action in pairs]
    if rows:
        prompts, completions, examples = zip(*rows)
        extracts = envs[0].extractor is not None
        answers = [env._read(action)[1] for env, action in pairs] if extracts else None
        together = envs[0].reward.together(prompts, completions, examples, answers)
        for (env, action), outcomes in zip(pairs, together):
            env.prescore(action)
            env._begun[1].update(outcomes)  # type: ignore[index]


def _check(max_tokens: Any, tokenizer: Any, render_mode: Any) -> None:
    """Check those arguments of an environment that nothing is made of."""
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise ConfigError(f"max_tokens must be an integer >= 1, got {max_tokens!r}")
    if render_mode not in (None, *TextGenerationEnv.metadata["render_modes"]):
        raise ConfigError(f"render_mode must be 'ansi' or 'human', got {render_mode!r}")
    if isinstance(tokenizer, str) or (
        tokenizer is not None and not callable(getattr(tokenizer, "encode", None))
    ):
        raise ConfigTypeError(f"tokenizer must have an encode method, got {tokenizer!r}")


def why_too_long(task: Task, example_id: int, prompt: str) -> str:
    """The error message for a prompt that is too long for the observation space."""
    return (
        f"the prompt of example {example_id} of {task.name} has {len(prompt)} "
        f"characters; at most {MAX_CHARACTERS} fit the observation space"
    )


def why_invalid(action: Any) -> str:
    """The error message for an action that is not in the action space."""
    if not isinstance(action, str):
        return f"action must be a string, got {type(action).__name__}"
    if len(action) > MAX_CHARACTERS:
        return f"action has {len(action)} characters; at most {MAX_CHARACTERS} are allowed"
    return "action contains a lone surrogate, which UTF-8 cannot encode"
