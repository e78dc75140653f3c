"""The vector form of ``TextGen-v0``: many environments in one process, scored as one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import add
from typing import Any

import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from textenv.conversation import Conversation
from textenv.envs.env import MAX_CHARACTERS, Scored, TextGenerationEnv, why_invalid, why_too_long
from textenv.envs.resets import draw_ids, named
from textenv.envs.vector_info import (
    Columns,
    Info,
    Some,
    from_columns,
    merge,
    put,
    rows,
    taken,
    where,
)
from textenv.errors import ConfigError, ConfigTypeError, DataError
from textenv.spaces import UnicodeText
from textenv.tasks import NOTHING, Episode, Example, Task

Observations = tuple[str, ...]


class TextGenerationVectorEnv(VectorEnv[Observations, Sequence[str], np.ndarray]):
    """The environment that ``gym.make_vec("TextGen-v0")`` makes.

    Its environments are called lanes. They share one task object and run in this process. For the
    same seeds it gives the same text, rewards, flags and infos as Gymnasium's `SyncVectorEnv`, at
    a fraction of the cost.

    Args:
        num_envs: number of lanes.
        autoreset_mode: when a lane whose episode has ended starts the next one: ``"NextStep"``,
            ``"SameStep"`` or ``"Disabled"``, or a member of Gymnasium's `AutoresetMode`. It is
            also in ``metadata["autoreset_mode"]``.
        max_episode_steps: truncates episodes as Gymnasium's `TimeLimit` does.
        render_mode: with ``"ansi"``, `render` returns the transcripts.
        **kwargs: arguments of `textenv.TextGenerationEnv`.

    Raises:
        ConfigError: for a setting with a value that is not allowed.
    """

    # Until __init__ has finished: Gymnasium also calls close() if __init__ raises.
    closed = True
    metadata = {"render_modes": ["ansi"], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **kwargs: Any,
    ):
        for name, value in (("num_envs", num_envs), ("max_episode_steps", max_episode_steps)):
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{name} must be an integer >= 1, got {value!r}")
        if render_mode not in (None, "ansi"):
            raise ConfigError(
                f"render_mode of a vector environment must be 'ansi', got {render_mode!r}"
            )
        single = TextGenerationEnv(**kwargs)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = single.observation_space
        self.single_action_space = single.action_space
        self.observation_space = batch_space(single.observation_space, num_envs)
        self.action_space = batch_space(single.action_space, num_envs)
        self.task: Task = single.task
        self.examples: list[Example] = [{}] * num_envs
        """The example of each lane."""
        self._opening = single._opening
        # A task of one answer is scored without an `Episode` object for each lane, as long as no
        # episode is a conversation.
        self._one_answer = type(single.task).begin is Task.begin and not self._opening.always
        self._single = single  # for its settings and its reward
        self._limit = max_episode_steps
        self._lanes = list(range(num_envs))
        self._rngs: list[Any] = [None] * num_envs
        self._seeds: list[Any] = [None] * num_envs
        self._leveled: dict[int, Task] = {}  # by lane, if reset options gave its episode a level
        self._episodes: list[Episode] = [NOTHING] * num_envs
        self._transcripts = [""] * num_envs
        self._turns = np.zeros(num_envs, int)
        self._unbegun = set(self._lanes)
        self._over = np.zeros(num_envs, bool)
        self.closed = False

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, Info]:
        """Start an episode in every lane, or in the lanes of ``options={"reset_mask": mask}``.

        Args:
            seed: one seed for each lane, or the seed of the first lane, from which the other
                lanes count up.
            options: ``reset_mask``, and the options of the single environment, which apply to
                each of these lanes.

        Raises:
            ConfigError: for an unknown option, an id out of range, or a wrong number of seeds.
            ConfigTypeError: for a mask or an id of the wrong type.
        """
        seeds = self._lane_seeds(seed)
        if isinstance(options, Mapping):
            options = dict(options)  # a copy: `pop` must not change the user's dict
            lanes = self._masked(options.pop("reset_mask", None))
        else:
            lanes = self._lanes
        for i in lanes:
            if seeds[i] is not None or self._rngs[i] is None:
                self._rngs[i], self._seeds[i] = seeding.np_random(seeds[i])
        info = self._begin(lanes, *(named(options) if options else ()))
        return tuple(self._transcripts), info

    def step(
        self, actions: Sequence[str]
    ) -> tuple[Observations, np.ndarray, np.ndarray, np.ndarray, Info]:
        """Take one action in each lane, and score all of them together.

        In NEXT_STEP mode, a lane whose episode has ended starts the next one instead, and its
        action is ignored.

        Raises:
            InvalidAction: for a wrong number of actions, or one that is not in the action space.
                No lane is stepped then.
            ResetNeeded: before the first reset, and, if autoreset is disabled, when the episode
                of a lane has ended.
            RewardError: if a reward function fails.
        """
        resting = self._resting()
        playing = [i for i in self._lanes if not self._over[i]] if resting else self._lanes
        answers = self._checked(actions, playing)
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        info: Info = self._begin(resting) if resting else {}
        if playing:
            at = where(playing, self.num_envs)
            columns, reward[at], terminated[at], truncated[at] = self._play(playing, answers)
            self._over = terminated | truncated
            if self._same_step and self._over.any():
                info = self._turn_over(playing, columns)
            else:
                info = merge(info, from_columns(columns, playing, self.num_envs))
        return tuple(self._transcripts), reward, terminated, truncated, info

    def render(self) -> Observations | None:
        """The transcripts so far in mode ``"ansi"``, else None."""
        return tuple(self._transcripts) if self.render_mode == "ansi" else None

    def close_extras(self, **kwargs: Any) -> None:
        """Release what the episodes and the reward functions hold."""
        for episode in self._episodes:
            episode.close()
        self._single.close()

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator | None, ...]:  # type: ignore[override]
        """The random generators of the lanes."""
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seeds of the lanes."""
        return tuple(self._seeds)

    @property
    def _same_step(self) -> bool:
        return self.autoreset_mode is AutoresetMode.SAME_STEP

    def _begin(
        self, lanes: list[int], example_id: int | None = None, level: int | None = None
    ) -> Info:
        """Start an episode in these lanes, and return the info of their resets."""
        task = self.task if level is None else self.task.at_level(level)
        if example_id is None:
            ids = draw_ids(task, taken(self._rngs, lanes))
        else:
            ids = [example_id] * len(lanes)
        examples = task.examples(ids)
        episodes: list[Episode] = []
        if not self._one_answer or any("messages" in example for example in examples):
            examples, episodes = self._begun(task, examples)
        prompts = [example["prompt"] for example in examples]
        if max(map(len, prompts)) > MAX_CHARACTERS:
            longest = max(range(len(lanes)), key=lambda row: len(prompts[row]))
            raise DataError(why_too_long(task, ids[longest], prompts[longest]))
        if episodes:
            for episode in taken(self._episodes, lanes):
                episode.close()
            put(self._episodes, lanes, episodes)
        put(self.examples, lanes, examples)
        if level is not None:
            self._leveled.update(dict.fromkeys(lanes, task))
        elif self._leveled:
            self._leveled = {i: of for i, of in self._leveled.items() if i not in lanes}
        put(self._transcripts, lanes, prompts)
        at = where(lanes, self.num_envs)
        self._turns[at] = 0
        self._over[at] = False
        if self._unbegun:
            self._unbegun.difference_update(lanes)
        columns = {"task": [task.name] * len(lanes), "example_id": ids, "prompt": prompts}
        if level is not None:
            columns["level"] = [level] * len(lanes)
        if self.task.max_turns > 1:
            columns["turn"] = prompts
        columns |= _told(episodes, Conversation.opening_info)
        return from_columns(columns, lanes, self.num_envs)

    def _begun(self, task: Task, examples: list[Example]) -> tuple[list[Example], list[Episode]]:
        """These examples as they are shown, and an `Episode` object for each of them."""
        if self._one_answer:  # until now
            self._one_answer = False
            of = [self._leveled.get(i, self.task) for i in self._lanes]
            self._episodes = [each.begin(e) for each, e in zip(of, self.examples)]
        shown = list(examples)
        episodes: list[Episode] = []
        for row, example in enumerate(examples):
            if self._opening.always or "messages" in example:
                shown[row], talk = self._opening.begin(task, example, self.task.max_turns)
                episodes.append(talk)
            else:
                episodes.append(task.begin(example))
        return shown, episodes

    def _play(
        self, lanes: list[int], actions: list[str]
    ) -> tuple[Columns, Sequence[float], np.ndarray, np.ndarray]:
        """Step these lanes; returns the columns of their infos, rewards, terminated, truncated."""
        task, single = self.task, self._single
        before, examples = taken(self._transcripts, lanes), taken(self.examples, lanes)
        scores: Sequence[float | None]
        episodes: list[Episode] = []
        read: Sequence[str | None] = actions
        answers: Sequence[str | None] | None = None
        if single.extractor is not None:
            pairs = zip(lanes, actions)
            read, answers = zip(*(single.extractor.read(a, self._is_answer(i)) for i, a in pairs))
        if self._one_answer and self._leveled:
            of = [self._leveled.get(i, task) for i in lanes]
            scores = [_score(*row) for row in zip(of, examples, read)]
            after = map(add, before, actions)
            ends = np.ones(len(lanes), bool)
        elif self._one_answer:
            if answers is None:
                scores = list(map(task.score, examples, actions))
            else:
                scores = [_score(task, *row) for row in zip(examples, read)]
            after = map(add, before, actions)
            ends = np.ones(len(lanes), bool)
        else:
            episodes = taken(self._episodes, lanes)
            if answers is None:
                turns = [episode.step(action) for episode, action in zip(episodes, actions)]
            else:
                turns = [e.play(a, r) for e, a, r in zip(episodes, actions, read)]
            said, scores, last = zip(*turns)
            after = map(add, map(add, before, actions), said)
            ends = np.array(last, bool)
        scored = self._scored(before, actions, examples, scores, answers, episodes)
        rewards, components, correct = zip(*scored)
        abstained = [math.isnan(reward) for reward in rewards]
        transcripts = list(after)
        if max(map(len, transcripts)) > MAX_CHARACTERS:
            transcripts = [text[:MAX_CHARACTERS] for text in transcripts]
        put(self._transcripts, lanes, transcripts)
        at = where(lanes, self.num_envs)
        self._turns[at] += 1
        turn = self._turns[at]
        cut = np.zeros(len(lanes), bool)
        if single.tokenizer is not None:
            cut[:] = [single.is_cut(action) for action in actions]
        ends &= ~cut
        spent = ~ends & (cut | (turn >= task.max_turns))
        over = ends | spent
        told: Sequence[Any] = correct
        if None in correct:  # no reward function verifies, but the task's score may tell
            told = Some(
                right if right is not None or score is None else bool(score >= 1)
                for right, score in zip(correct, scores)
            )
        if not over.all():
            told = Some(right if ended else None for right, ended in zip(told, over.tolist()))
        columns: Columns = {"completion": actions, "rewards": components, "is_correct": told}
        if answers is not None:
            columns["answer"] = list(answers)
        if task.max_turns > 1:
            columns["turn"] = [""] * len(lanes) if self._one_answer else said
        columns |= _told(episodes, Conversation.info)
        if any(abstained):
            columns["scored"] = Some(False if none else None for none in abstained)
            rewards = tuple(0.0 if none else each for each, none in zip(rewards, abstained))
        if self._limit is not None:  # also truncates an episode that terminates on its last step
            spent |= turn >= self._limit
        return columns, rewards, ends, spent

    def _is_answer(self, lane: int) -> Callable[[str], bool]:
        """Says whether an action is an answer in this lane."""
        episode = self._episodes[lane]
        return episode.is_answer if isinstance(episode, Conversation) else self.task.is_answer

    def _scored(
        self,
        before: list[str],
        actions: list[str],
        examples: list[Example],
        scores: Sequence[float | None],
        answers: Sequence[str | None] | None,
        episodes: list[Episode],
    ) -> list[Scored]:
        """What the reward says of these actions; calls of tools earn nothing and are not scored."""
        batch = self._single.reward.batch
        calling = [isinstance(episode, Conversation) and episode.pending for episode in episodes]
        if not any(calling):
            return batch(before, actions, examples, scores, answers)
        scored: list[Scored] = [(0.0, {}, None)] * len(actions)
        asked = [row for row, calls in enumerate(calling) if not calls]
        if asked:
            columns = before, actions, examples, scores, answers
            some: Any = [column and [column[row] for row in asked] for column in columns]
            for row, outcome in zip(asked, batch(*some)):
                scored[row] = outcome
        return scored

    def _turn_over(self, playing: list[int], columns: Columns) -> Info:
        """In SAME_STEP mode, start the next episode in ended lanes; returns the step's info."""
        over = self._over.tolist()
        ended = [i for i in playing if over[i]]
        final: Columns = {"final_obs": taken(self._transcripts, ended), "final_info": columns}
        info: Info = {}
        if len(ended) < len(playing):
            stay = [row for row, i in enumerate(playing) if not over[i]]
            info = from_columns(rows(columns, stay), [playing[row] for row in stay], self.num_envs)
            end = [row for row, i in enumerate(playing) if over[i]]
            final["final_info"] = rows(columns, end)
        info = merge(info, from_columns(final, ended, self.num_envs))
        return merge(info, self._begin(ended))

    def _resting(self) -> list[int]:
        """The lanes that start a new episode in this step, in which they take no action."""
        if self._unbegun:
            raise ResetNeeded("reset() must be called before step()")
        if self._same_step or not self._over.any():
            return []
        resting = self._over.nonzero()[0].tolist()
        if self.autoreset_mode is AutoresetMode.DISABLED:
            raise ResetNeeded(
                f"the episodes of lanes {resting} have ended: reset them with "
                "options={'reset_mask': mask} before step()"
            )
        return resting

    def _checked(self, actions: Sequence[str], playing: list[int]) -> list[str]:
        if isinstance(actions, str) or not hasattr(actions, "__len__"):
            raise InvalidAction(
                f"actions must be {self.num_envs} strings, got {type(actions).__name__}"
            )
        if len(actions) != self.num_envs:
            raise InvalidAction(f"actions must be {self.num_envs} strings, got {len(actions)}")
        answers = taken(actions, playing)
        space: UnicodeText = self._single.action_space  # type: ignore[assignment]
        if not space.contains_all(answers):
            i = next(i for i in playing if not space.contains(actions[i]))
            raise InvalidAction(f"lane {i}: {why_invalid(actions[i])}")
        return answers

    def _lane_seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int):
            return [seed + i for i in self._lanes]
        if len(seed) != self.num_envs:
            raise ConfigError(f"seed must be {self.num_envs} seeds, got {len(seed)}")
        return seed

    def _masked(self, mask: Any) -> list[int]:
        if mask is None:
            return self._lanes
        if not isinstance(mask, np.ndarray) or mask.dtype != bool:
            kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
            raise ConfigTypeError(f"reset_mask must be a numpy array of bool, got {kind}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ConfigError(
                f"reset_mask must have shape ({self.num_envs},) and a lane to reset, "
                f"got shape {mask.shape} and {int(mask.sum())} lanes"
            )
        return mask.nonzero()[0].tolist()


def _told(episodes: Sequence[Episode], info: Callable[[Conversation], Info]) -> Columns:
    """The columns of what the infos of these episodes say of those that are conversations."""
    infos = [info(each) if isinstance(each, Conversation) else {} for each in episodes]
    keys = dict.fromkeys(key for each in infos for key in each)
    return {key: Some(each.get(key) for each in infos) for key in keys}


def _score(task: Task, example: Example, answer: str | None) -> float | None:
    """A task's score of an answer; of none, without asking its verifier."""
    return task.no_answer if answer is None else task.score(example, answer)


def _mode(mode: str | AutoresetMode) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    names = {each.value: each for each in AutoresetMode}
    if mode not in names:
        raise ConfigError(f"autoreset_mode must be one of {', '.join(names)}, got {mode!r}")
    return names[mode]
