"""textenv validate: checks a task's oracle, whose answers must score full marks to train on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from textenv import tasks
from textenv.algos.cli.shared.escape import say
from textenv.algos.config import check_counts
from textenv.errors import DataError
from textenv.rewards import Reward
from textenv.rewards.extract import make_extractor
from textenv.tasks import Example, GeneratedTask, Task
from textenv.tasks.dataset import Dataset
from textenv.tasks.dataset_files import from_path


@dataclass
class Args:
    """Check that the answers of a task's oracle, or of a dataset's rows, score full marks."""

    task: str = "arithmetic"
    """Name of the task."""
    task_kwargs: dict[str, int | str] = field(default_factory=dict)
    """Difficulty parameters of the task, as in --task-kwargs digits 3."""
    dataset: Path | None = None
    """A file of examples to check instead of a task; its oracle gives the rows' answers."""
    reward: tuple[str, ...] = ("exact_match",)
    """Reward functions that score a dataset."""
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
    if args.dataset is not None:
        checked = _check_dataset(from_path(args.dataset), args)
        say(f"{args.dataset}: the answers of all {checked} rows score full marks")
        return 0
    keys: dict[str, set[str]] = {}
    has = tasks.styles(args.task)
    for split in ("train", "test"):
        task = tasks.make(args.task, "plain", split=split, **args.task_kwargs)
        keys[split] = _check(task, args)
        for style in has[1:]:  # the same problems in other words
            _check(tasks.make(args.task, style, split=split, **args.task_kwargs), args)
    if both := keys["train"] & keys["test"]:
        raise DataError(f"{args.task}: {min(both)!r} is in the train and the test split")
    say(
        f"{args.task}: the oracle's answers to {args.examples} train and {args.examples} test "
        f"examples score full marks in style {' and '.join(has)}, and the splits share none of them"
    )
    return 0


def _check(task: Task, args: Args) -> set[str]:
    problems = set()
    for example_id in range(args.seed, args.seed + args.examples):
        example = task.example(example_id)
        if task.example(example_id) != example:
            raise DataError(f"{task.name}: example {example_id} is another one at a second call")
        try:
            answer = task.oracle(example)
        except NotImplementedError as error:
            raise DataError(str(error)) from error
        score = _score(task, example, answer)
        if score != 1:
            raise DataError(
                f"{task.name}: the oracle's answer {answer!r} to example {example_id} "
                f"({example['prompt']!r}) scores {score}, expected 1"
            )
        problems.add(
            task.split_key(example) if isinstance(task, GeneratedTask) else example["prompt"]
        )
    return problems


def _score(task: Task, example: Example, completion: str) -> float | None:
    """What an environment makes of a completion: the score of the answer in it."""
    answer = completion if task.extract is None else make_extractor(task.extract)(completion)
    return task.no_answer if answer is None else task.score(example, answer)


def _check_dataset(task: Dataset, args: Args) -> int:
    reward = Reward(list(args.reward))
    task.require(("answer", *reward.requires), "validate", reward.checks)
    for example_id in task.ids:
        example = task.example(example_id)
        answer = task.oracle(example)
        _, components, correct = reward(example["prompt"], answer, example)
        if correct is not True:
            raise DataError(
                f"{task.name}: the answer {answer!r} of example {example_id} "
                f"({example['prompt']!r}) scores {components}, expected 1"
            )
    return len(task.ids)
