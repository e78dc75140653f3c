"""Combines reward functions into one reward; those that are registered go by their names.

A reward function is ``fn(prompt, completion, example, **kwargs) -> float | dict[str, float]``.
A dict holds reward components. The reward is the weighted sum of all components, and each
component is logged by name. None, alone or in a dict, abstains: it is left out of the sum. A
reward function may be ``async def``. With ``@reward(batch=True)``
it takes a whole batch: ``fn(prompts, completions, examples)`` returns a list of rewards.
"""

from __future__ import annotations

import functools
import math
import numbers
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from textenv.errors import (
    ConfigError,
    ConfigTypeError,
    RewardError,
    RewardTimeoutError,
    TextEnvError,
)
from textenv.rewards import verifiers  # noqa: F401  (registers the built-in functions)
from textenv.rewards.calls import (
    TIMED_OUT,
    Failed,
    Rows,
    begin,
    call,
    call_now,
    is_async,
    result,
    takes_batch,
)
from textenv.rewards.correct import full_marks
from textenv.rewards.limits import MOST_SECONDS, Limited
from textenv.rewards.outcomes import (
    NO_ANSWER,
    Answers,
    call_with_answers,
    components_of,
    shorten,
)
from textenv.rewards.process import Worker
from textenv.rewards.registry import RewardFunction, get, names, refuse_trl

RewardSpec = str | RewardFunction | Sequence["str | RewardFunction"]
"""A reward function or its name, or a list of these."""

Begun = Mapping[str, "Future[Any]"]
"""By the name of a reward function that was already called, the future with its outcome."""

NOTHING_BEGUN: Begun = {}


class Reward:
    """Calls one or several reward functions, and gives their weighted sum and every component.

    Args:
        spec: a function or a name, or a list of these. ``"correct"`` is the task's own verifier.
        weights: weight of each component by name; 1 if it is not named. The name of a function
            stands for all components that it returns and that are not named themselves.
        has_verifier: whether there is a task with its own verifier.
        timeout: seconds that one call of a function may take; for a function that takes a batch,
            the call with the whole batch. Async functions are cut off, and with ``process`` the
            others too. The task cuts off its own verifier.
        process: run the functions that are not async in a separate process (see `Worker` for
            its cost).
        on_timeout: the score of a function that was cut off; None raises RewardTimeoutError.
        verifier_is_cut_off: whether the task cuts off its own verifier after the timeout.
        may_abstain: whether a function may return None; False makes it an error.

    Raises:
        ConfigError: for an unknown name, a name that occurs twice, ``"correct"`` without a
            verifier, or a timeout that could not cut off any function.
        ConfigTypeError: for something that is neither a name nor callable.
    """

    def __init__(
        self,
        spec: RewardSpec,
        weights: Mapping[str, float] | None = None,
        has_verifier: bool = False,
        *,
        timeout: float | None = None,
        process: bool = False,
        on_timeout: float | None = None,
        verifier_is_cut_off: bool = False,
        may_abstain: bool = True,
    ):
        parts = list(spec) if isinstance(spec, Sequence) and not isinstance(spec, str) else [spec]
        if not parts:
            raise ConfigError("reward_fn must hold at least one reward function, got none")
        self._functions: dict[str, RewardFunction] = {}
        for part in parts:
            name, function = _resolve(part, has_verifier)
            if name in self._functions:
                raise ConfigError(f"two reward functions are called {name!r}: rename one")
            self._functions[name] = function
        if weights is not None and not isinstance(weights, Mapping):
            raise ConfigTypeError(
                f"reward_weights must map component names to numbers, got {weights!r}"
            )
        self._weights = {name: _weight(name, w) for name, w in (weights or {}).items()}
        self._is_score = list(self._functions.values()) == [_correct] and not self._weights
        self._timeout = None if timeout is None else _seconds(timeout)
        self._on_timeout = None if on_timeout is None else _number("reward_on_timeout", on_timeout)
        self._may_abstain = may_abstain
        self._worker = self._made_worker() if process else None
        self._workers: dict[str, Worker | Limited | None] = {
            name: Limited(function) if _limited(function) else self._worker
            for name, function in self._functions.items()
        }
        self._check_timeout(verifier_is_cut_off)
        self._read_answers = {n for n, f in self._functions.items() if _declared(f, "answer", 0)}
        self._plain = not any(self._workers.values()) and not any(
            is_async(function) or takes_batch(function) for function in self._functions.values()
        )
        self.requires = sorted({k for f in self._functions.values() for k in _requires(f)})
        found = (_declared(function, "check", None) for function in self._functions.values())
        self.checks = [check for check in found if check is not None]

    @property
    def runs_elsewhere(self) -> bool:
        """Whether `begin` calls any function: one that is async, or that runs in the process."""
        return any(
            function is not _correct
            and not takes_batch(function)
            and (self._workers[name] is not None or is_async(function))
            for name, function in self._functions.items()
        )

    @property
    def names(self) -> list[str]:
        """The names of the functions."""
        return list(self._functions)

    @property
    def takes_batches(self) -> bool:
        """Whether at least one function takes a batch."""
        return any(map(takes_batch, self._functions.values()))

    def together(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        examples: Sequence[dict[str, Any]],
        answers: Answers | None = None,
    ) -> list[Begun]:
        """Call the functions that take a batch, once for all of these completions.

        Args:
            prompts: the texts that were completed.
            completions: the actions.
            examples: the examples that are played.
            answers: as in `__call__`.

        Returns:
            For each completion, the argument ``begun`` of `__call__`.
        """
        rows = Rows(prompts, completions, examples)
        begun: list[dict[str, Future[Any]]] = [{} for _ in completions]
        for name, function in self._functions.items():
            if takes_batch(function):
                outcomes = self._call(name, function, rows, answers)
                for each, outcome in zip(begun, outcomes):
                    each[name] = Future()
                    each[name].set_result(outcome)
        return list(begun)

    def begin(
        self,
        prompt: str,
        completion: str,
        example: dict[str, Any],
        answers: Answers | None = None,
    ) -> Begun:
        """Call the functions that run elsewhere for one completion, without waiting for them.

        These are async functions and functions in the separate process, but not functions that
        take a batch (see `together`). Async calls run at the same time as each other; the process
        does its calls one after another.

        Returns:
            The argument ``begun`` of `__call__`: by name, the futures with the outcomes. It is {}
            if there is no such function.
        """
        if self._plain:
            return {}
        futures = {}
        for name, function in self._functions.items():
            text = answers[0] if answers and name in self._read_answers else completion
            if function is not _correct and text is not None:
                row = prompt, text, example
                futures[name] = begin(name, function, row, self._timeout, self._workers[name])
        return {name: future for name, future in futures.items() if future is not None}

    def __call__(
        self,
        prompt: str,
        completion: str,
        example: dict[str, Any],
        score: float | None = None,
        begun: Begun = NOTHING_BEGUN,
        answers: Answers | None = None,
    ) -> tuple[float, dict[str, float], bool | None]:
        """Score one completion.

        Args:
            prompt: the text that was completed.
            completion: the action.
            example: the example that is played.
            score: the score of the task's own verifier, which is the component ``"correct"``.
            begun: what `begin` returned for this completion.
            answers: one item, what was extracted from the completion. Functions that are declared
                with ``answer=True`` score that. None: they score the whole completion.

        Returns:
            The weighted sum, the components by name (unweighted), and whether the completion
            is correct, which is None if no function verifies it. If all functions abstain, the sum
            is NaN and there are no components.

        Raises:
            RewardError: if a function raises, or returns something other than finite numbers.
            RewardTimeoutError: if a function is cut off and ``on_timeout`` is None.
        """
        if self._is_score and type(score) is float and 0.0 <= score <= 1.0:  # the common case
            return score, {"correct": score}, score >= 1.0
        if not self._plain or answers is not None:
            return self._batch(Rows([prompt], [completion], [example]), [score], begun, answers)[0]
        row = prompt, completion, example
        outcomes = {
            name: score if function is _correct else call_now(function, row)
            for name, function in self._functions.items()
        }
        return self._sum(outcomes, prompt, completion)

    def batch(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        examples: Sequence[dict[str, Any]],
        scores: Sequence[float | None],
        answers: Answers | None = None,
    ) -> list[tuple[float, dict[str, float], bool | None]]:
        """Score many completions as `__call__` scores one.

        A function that takes a batch is called once. The calls of an async function run at the
        same time. The functions run one after another.
        """
        if self._is_score and {*map(type, scores)} == {float} and math.isfinite(sum(scores)):  # type: ignore
            return [(s, {"correct": s}, s >= 1.0) for s in scores]  # type: ignore
        return self._batch(Rows(prompts, completions, examples), scores, answers=answers)

    def _call(
        self, name: str, function: RewardFunction, rows: Rows, answers: Answers | None
    ) -> list[Any]:
        """The outcomes of a function, which is called with the answers if it scores these."""
        seconds, worker = self._timeout, self._workers[name]
        if answers is None or name not in self._read_answers:
            return call(name, function, rows, seconds, worker)
        return call_with_answers(
            lambda found: call(name, function, found, seconds, worker), rows, answers
        )

    def _batch(
        self,
        rows: Rows,
        scores: Sequence[float | None],
        begun: Begun = NOTHING_BEGUN,
        answers: Answers | None = None,
    ) -> list[tuple[float, dict[str, float], bool | None]]:
        outcomes: dict[str, list[Any]] = {}
        for name, function in self._functions.items():
            if function is _correct:
                outcomes[name] = list(scores)
            elif name in begun:  # only `__call__` passes it, with one row
                outcomes[name] = [result(begun[name], self._timeout)]
            else:
                outcomes[name] = self._call(name, function, rows, answers)
        return [
            self._sum({name: outcome[i] for name, outcome in outcomes.items()}, prompt, completion)
            for i, (prompt, completion) in enumerate(zip(rows.prompts, rows.completions))
        ]

    def close(self) -> None:
        """Stop the process, if there is one. The next call starts it again.

        The process of `textenv.rewards.limits` goes on: other rewards may be using it.
        """
        if self._worker is not None:
            self._worker.close()

    def _sum(
        self, outcomes: dict[str, Any], prompt: str, completion: str
    ) -> tuple[float, dict[str, float], bool | None]:
        """The reward of one completion, from the outcome of each function."""
        components: dict[str, float] = {}
        weights: dict[str, float] = {}
        correct: bool | None = None
        cut = False
        for name, outcome in outcomes.items():
            if isinstance(outcome, Failed):
                if isinstance(outcome.cause, TextEnvError):
                    raise outcome.cause
                raise RewardError(
                    f"reward function {name!r} {outcome.message} "
                    f"(prompt {shorten(prompt)}, completion {shorten(completion)})"
                ) from outcome.cause
            if outcome is TIMED_OUT:
                if self._timeout is None:  # the default limit of a function that needs one
                    outcome = 0.0
                elif self._on_timeout is None:
                    raise RewardTimeoutError(
                        f"reward function {name!r} took longer than reward_timeout="
                        f"{self._timeout:g} s (prompt {shorten(prompt)}, completion "
                        f"{shorten(completion)}); reward_on_timeout=SCORE scores it instead"
                    )
                else:
                    outcome, cut = self._on_timeout, True
            if outcome is NO_ANSWER:  # a function of components has one score instead of these
                outcome, cut = 0.0, True
            abstains = self._may_abstain and self._functions[name] is not _correct
            for key, value in components_of(name, outcome, prompt, abstains):
                if value is None:
                    cut = True
                    continue
                if key in components:
                    raise RewardError(f"two reward functions return a component {key!r}")
                components[key] = value
                if self._weights:
                    weights[key] = self._weights.get(key, self._weights.get(name, 1.0))
            full = full_marks(name, outcome, _declared(self._functions[name], "verifies", False))
            if full is not None:
                correct = (correct is not False) and full
        if not components:
            return math.nan, {}, correct
        if not self._weights:
            return self._finite_total(sum(components.values()), components), components, correct
        unknown = self._weights.keys() - components.keys() - outcomes.keys()
        # A function that was cut off has a score instead of components, and one that abstains none.
        if unknown and not cut:
            raise RewardError(
                f"reward_weights names {sorted(unknown)}, but the components are "
                f"{sorted(components)}"
            )
        total = sum(weights[key] * value for key, value in components.items())
        return self._finite_total(total, components), components, correct

    def _finite_total(self, total: float, components: dict[str, float]) -> float:
        if not math.isfinite(total):
            raise RewardError(
                f"the rewards of {', '.join(self._functions)} have no finite sum: {components}"
            )
        return float(total)

    def _made_worker(self) -> Worker | None:
        plain = {
            name: function
            for name, function in self._functions.items()
            if function is not _correct and not is_async(function) and not _limited(function)
        }
        return Worker(plain) if plain else None

    def _check_timeout(self, verifier_is_cut_off: bool) -> None:
        if self._timeout is None and self._on_timeout is not None:
            raise ConfigError("reward_on_timeout needs reward_timeout, which is not set")
        functions = [f for f in self._functions.values() if f is not _correct]
        if verifier_is_cut_off and _correct in self._functions.values():
            return
        if self._timeout and not any(self._workers.values()) and not any(map(is_async, functions)):
            raise ConfigError(
                f"reward_timeout can only cut off async functions, and none of "
                f"{', '.join(self._functions)} is async"
                + (": pass reward_process=True too" if functions else "")
            )


def name_of(part: str | RewardFunction) -> str:
    """The name of a reward function, which its component has if it returns a number."""
    if isinstance(part, str):
        return part
    name = _declared(part, "__name__", type(part).__name__)
    return str(_declared(part, "reward_name", name))


def _resolve(part: Any, has_verifier: bool) -> tuple[str, RewardFunction]:
    if part == "correct":
        if not has_verifier:
            raise ConfigError(
                "reward_fn='correct' is a task's own verifier, and own prompts have none: "
                f"pass a function, or one of {', '.join(names())}"
            )
        return "correct", _correct
    if isinstance(part, str):
        return part, get(part)
    if callable(part):
        refuse_trl(name_of(part), part)
        return name_of(part), part
    raise ConfigTypeError(
        f"reward_fn must be a function, a name, or a list of these, got {type(part).__name__}"
    )


def _correct(prompt: str, completion: str, example: dict[str, Any]) -> float:
    """Placeholder for the task's own verifier, whose score the environment passes on."""
    raise AssertionError("the environment passes the score of the task's own verifier")


_correct.verifies = True  # type: ignore[attr-defined]


def _limited(function: RewardFunction) -> bool:
    """Whether a function uses the parser of another library, and needs a limit of time."""
    return _declared(function, "limited", False)


def _declared(function: RewardFunction, name: str, default: Any) -> Any:
    """An attribute of a reward function, also if it is wrapped in ``functools.partial``."""
    if isinstance(function, functools.partial):
        return _declared(function.func, name, default)
    return getattr(function, name, default)


def _requires(function: RewardFunction) -> set[str]:
    """Keys that each example must have, without those that ``functools.partial`` sets."""
    given = function.keywords if isinstance(function, functools.partial) else {}
    return {key for key in _declared(function, "requires", ()) if key not in given}


def _weight(name: str, value: Any) -> float:
    return _number(f"reward_weights[{name!r}]", value)


def _seconds(value: Any) -> float:
    seconds = _number("reward_timeout", value)
    if not 0 < seconds <= MOST_SECONDS:
        raise ConfigError(f"reward_timeout must be above 0 seconds and at most 1e6, got {value!r}")
    return seconds


def _number(name: str, value: Any) -> float:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not abs(value) <= sys.float_info.max:
        raise ConfigError(f"{name} must be a finite number, got {value!r:.80}")
    return float(value)
