"""textenv validate: checks a task's oracle, whose answers must score full marks to train on it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro

from textenv import tasks
from textenv.algos.cli.shared.escape import say
from textenv.algos.cli.shared.text_envs import TextTask, make_split
from textenv.algos.config import check_counts
from textenv.errors import DataError
from textenv.rewards.extract import make_extractor
from textenv.tasks import Example, GeneratedTask, Task
from textenv.tasks.dataset import Dataset


@dataclass
class Args:
    """Check that the answers of a task's oracle, or of a dataset's rows, score full marks."""

    text: Annotated[TextTask, tyro.conf.arg(name="")] = field(default_factory=TextTask)
    examples: int = 200
    """How many examples of each split to check."""
    seed: int = 0
    """Id of the first example."""


def run(args: Args) -> int:
    """Check the oracle's answers on both splits.

    Raises:
        DataError: if an answer of the oracle does not score 1; names the example.
    """
    check_counts(args, ("examples",), 1)
    text = args.text
    text.refuse_eval_dataset("validate")
    if text.dataset is not None:
        checked = _check_dataset(text)
        say(f"{text.dataset}: the answers of all {checked} rows score full marks")
        return 0
    keys: dict[str, set[str]] = {}
    name = text.task or "arithmetic"
    has = tasks.styles(name) if text.style is None else (text.style,)
    for split in ("train", "test"):
        try:
            made = [_make_task(text, style, split) for style in has]
        except DataError as error:  # a task of a file that has one split alone
            if split == "train":
                raise
            say(f"{error}; the oracle's answers to its train examples score full marks")
            return 0
        keys[split] = _check(made[0], args)
        for task in made[1:]:  # the same problems in other words
            _check(task, args)
    if both := keys["train"] & keys["test"]:
        raise DataError(f"{name}: {min(both)!r} is in the train and the test split")
    say(
        f"{name}: the oracle's answers to {args.examples} train and {args.examples} test "
        f"examples score full marks in style {' and '.join(has)}, and the splits share none of them"
    )
    return 0


def _make_task(text: TextTask, style: str, split: str) -> Task:
    return tasks.make(text.task or "arithmetic", style, split=split, **text.task_kwargs)


def _check(task: Task, args: Args) -> set[str]:
    problems = set()
    last = args.seed + args.examples
    for example_id in range(args.seed, last if task.size is None else min(last, task.size)):
        example = task.example(example_id)
        if task.example(example_id) != example:
            raise DataError(f"{task.name}: example {example_id} is another one at a second call")
        try:
            answer = task.oracle(example)
        except NotImplementedError as error:
            raise DataError(str(error)) from error
        score = _score(task, example, answer, args.text.extract)
        if score != 1:
            raise DataError(
                f"{task.name}: the oracle's answer {answer!r} to example {example_id} "
                f"({example['prompt']!r}) scores {score}, expected 1"
            )
        problems.add(
            task.split_key(example) if isinstance(task, GeneratedTask) else example["prompt"]
        )
    return problems


def _score(task: Task, example: Example, completion: str, extract: str | None) -> float | None:
    """What an environment makes of a completion: the score of the answer in it."""
    spec = task.extract if extract is None else extract
    answer = completion if spec is None else make_extractor(spec)(completion)
    return task.no_answer if answer is None else task.score(example, answer)


def _check_dataset(text: TextTask) -> int:
    """Check that the rows' answers score full marks; returns how many rows.

    With an extractor, rows that have a ``solution`` are checked by that; all others as they stand.
    """
    text = replace(text, reward=text.reward or ("exact_match",))
    env: Any = make_split("TextGen-v0", text, "all")
    bare: Any = make_split("TextGen-v0", replace(text, extract=None), "all")
    task: Dataset = env.unwrapped.task
    task.require(("answer",), "validate")
    for example_id in task.ids:
        example = task.example(example_id)
        solution = example.get("solution")
        by_solution = text.extract is not None and isinstance(solution, str)
        answer = solution if by_solution else task.oracle(example)
        asked = env if by_solution else bare
        prompt, _ = asked.reset(options={"example_id": example_id})
        *_, info = asked.step(answer)
        if info.get("is_correct") is not True:
            raise DataError(
                f"{task.name}: the answer {answer!r} of example {example_id} "
                f"({prompt!r}) scores {info['rewards']}, expected 1"
            )
    env.close()
    bare.close()
    return len(task.ids)
