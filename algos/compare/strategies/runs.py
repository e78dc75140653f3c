"""Runs a comparison of rollout strategies: GRPO from several seeds, at equal generated tokens.

Strategies differ in how many completions they need for an optimizer step. A run is therefore
measured by the tokens that it generated, and ends at the first step at which its budget is spent,
however many steps it has made. The learning rate is constant after its warm-up, because a schedule
would need to know the number of steps.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from textenv.algos.compare.arena import EVALUATION_SEED
from textenv.algos.compare.strategies.results import (
    BASELINE,
    Point,
    StrategyComparison,
    StrategyRun,
    Try,
)
from textenv.algos.config import check_bounds, check_types
from textenv.algos.episodes.environments import make_env, max_turns
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.evaluation.measure import evaluation_ids
from textenv.algos.grpo_config import GRPOConfig
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.strategies import names, outcome
from textenv.algos.strategies.counts import summarize
from textenv.algos.strategies.strategy import create_strategy
from textenv.algos.trainers.grpo import GRPOTrainer
from textenv.errors import ConfigError, unknown
from textenv.from_files import split_name

_FIELDS: dict[str, Callable[[str], Any]] = {  # of GRPOConfig that a strategy may set
    "num_prompts": int,
    "num_generations": int,
    "num_iterations": int,
    "num_minibatches": int,
    "epsilon": float,
    "epsilon_high": float,
    "loss_type": str,
    "scale_rewards": str,
}
_NO_END = 10**9  # steps; a run is ended by its tokens
_TUNE_SEED = 2**20  # of tries of learning rates; seeds of runs count up from a small number


@dataclass(frozen=True)
class StrategyArena:
    """What all strategies of a comparison share.

    Raises:
        ConfigError: if a value is out of range, or there are no learning rates.
        ConfigTypeError: if a value has the wrong type.
    """

    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``gym.make``, which name the task."""
    model: str = "tiny-lm"
    """Name or folder of the language model."""
    tokens: int = 200_000
    """Generated tokens of each run."""
    tune_tokens: int = 100_000
    """Generated tokens of each try of a learning rate."""
    eval_every: int = 10_000
    """Generated tokens between two evaluations."""
    eval_examples: int = 300
    """Examples of an evaluation; as many others serve to choose the learning rate."""
    learning_rates: tuple[float, ...] = (3e-4, 1e-3)
    """Learning rates to try for each strategy."""
    num_prompts: int = 32
    num_generations: int = 16
    max_completion_length: int = 64

    def __post_init__(self) -> None:
        check_types(self)
        counts = ("tokens", "tune_tokens", "eval_every", "eval_examples")
        check_bounds(self, **dict.fromkeys(counts, (1, None)))
        if not self.learning_rates or not all(rate > 0 for rate in self.learning_rates):
            raise ConfigError(f"learning_rates must all be above 0, got {self.learning_rates}")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ConfigError(f"a learning rate is named twice: {self.learning_rates}")

    def settings(self) -> dict[str, Any]:
        """The settings in JSON's types, for a file; functions by their names."""
        kwargs = {
            key: [getattr(f, "__name__", f) for f in value] if key == "reward_fn" else value
            for key, value in self.env_kwargs.items()
        }
        return asdict(self) | {"env_kwargs": kwargs, "learning_rates": list(self.learning_rates)}

    def examples(self) -> tuple[list[int], list[int]]:
        """Ids of the test split: those for the report, and others to choose a learning rate by.

        A hash of the problem divides the split, so that no problem is on both sides.

        Raises:
            ConfigError: if one side is empty.
        """
        env = make_env("TextGen-v0", self.env_kwargs | {"split": "test"})
        task: Any = env.unwrapped.task
        key = getattr(task, "split_key", lambda example: example["prompt"])
        sides: tuple[list[int], list[int]] = ([], [])
        for example_id in evaluation_ids(env, 3 * self.eval_examples):
            digest = zlib.crc32(key(task.example(example_id)).encode())
            sides[digest // 10 % 2].append(example_id)  # its last digit defines the test split
        env.close()
        report, validation = (side[: self.eval_examples] for side in sides)
        if not report or not validation:
            raise ConfigError(
                "the test split has too few examples to choose a learning rate by some of them "
                "and to report others"
            )
        return report, validation


@dataclass(frozen=True)
class Entrant:
    """A strategy that takes part in the comparison."""

    name: str
    parts: tuple[str, ...]
    fields: dict[str, Any]
    """Fields of `GRPOConfig` that the strategy sets itself."""

    def config(self, arena: StrategyArena, learning_rate: float, seed: int) -> GRPOConfig:
        """The settings of a run.

        Raises:
            ConfigError: if a value cannot be used; names the strategy.
        """
        shared = {
            name: getattr(arena, name)
            for name in ("num_prompts", "num_generations", "max_completion_length")
        }
        try:
            return GRPOConfig(
                **(shared | self.fields),
                strategy=self.parts,
                max_steps=_NO_END,
                learning_rate=learning_rate,
                lr_scheduler_type="constant",
                seed=seed,
            )
        except ConfigError as error:
            raise ConfigError(f"strategy {self.name!r}: {error}") from error

    def describe(self, arena: StrategyArena) -> str:
        """Describe all parts with all of their settings, and the fields that the strategy sets."""
        config = self.config(arena, arena.learning_rates[0], 0)
        strategy = create_strategy("grpo", num_generations=config.num_generations, parts=self.parts)
        own = "".join(f", {name}={value}" for name, value in self.fields.items())
        return f"{config.num_prompts} prompts, {strategy.describe()}{own}"


def parse_entrant(text: str) -> Entrant:
    """Parse a strategy: ``plain``, or parts and settings joined by ``+``.

    Each piece is a part as `create_strategy` takes it (``dapo:cap=4``), or a setting of GRPO
    (``num_iterations=2``).

    Raises:
        ConfigError: if a part or a setting is not known; lists the known ones.

    Example:
        >>> parse_entrant("greso+pods:keep=8+num_iterations=2").parts
        ('greso', 'pods:keep=8')
    """
    if text == BASELINE:
        return Entrant(text, (), {})
    parts: list[str] = []
    fields: dict[str, Any] = {}
    for piece in text.split("+"):
        key, equals, value = piece.partition("=")
        if not equals or ":" in key:
            name = piece.partition(":")[0]
            if name == BASELINE:
                raise ConfigError(f"strategy {text!r}: {BASELINE} has no parts and joins none")
            if split_name(piece) is None and name not in names():
                raise ConfigError(unknown("strategy", name, [BASELINE, *names()]))
            parts.append(piece)
            continue
        if key not in _FIELDS:
            raise ConfigError(f"strategy {text!r}: {unknown('setting', key, _FIELDS)}")
        try:
            fields[key] = _FIELDS[key](value)
        except ValueError:
            kind = _FIELDS[key].__name__
            raise ConfigError(f"strategy {text!r}: {key} must be {kind}, got {value!r}") from None
    return Entrant(text, tuple(parts), fields)


def parse_entrants(texts: Sequence[str], known: Sequence[str] = ()) -> list[Entrant]:
    """Parse the strategies of a comparison.

    Args:
        texts: the strategies, as `parse_entrant` takes them.
        known: names of strategies that already have runs.

    Raises:
        ConfigError: if there are none, one is named twice or not known, or the baseline is
            missing.
    """
    if not texts:
        raise ConfigError(f"no strategies are named; known: {', '.join([BASELINE, *names()])}")
    entrants = [parse_entrant(text) for text in texts]
    for text in texts:
        if list(texts).count(text) > 1:
            raise ConfigError(f"strategy {text!r} is named twice")
    if BASELINE not in (*texts, *known):
        raise ConfigError(f"name {BASELINE} too: it is what the others are compared with")
    return entrants


class Contest:
    """Makes the runs that a comparison still lacks.

    Args:
        arena: what all strategies share.
        entrants: the strategies that take part.
        seeds: the seeds of the runs.
        comparison: what was run before; new tries and runs are added to it.

    Raises:
        ConfigError: if there are no seeds, or a strategy cannot be used on this task. This
            happens before anything is generated.
    """

    def __init__(
        self,
        arena: StrategyArena,
        entrants: Sequence[Entrant],
        seeds: Sequence[int],
        comparison: StrategyComparison,
    ):
        if not seeds:
            raise ConfigError("seeds must be >= 1, got 0")
        self.comparison = comparison
        self._arena, self._entrants, self._seeds = arena, list(entrants), list(seeds)
        self._report, self._validation = arena.examples()
        for entrant in entrants:
            _trainer(arena, entrant.config(arena, arena.learning_rates[0], 0)).close()
            comparison.strategies[entrant.name] = entrant.describe(arena)

    @property
    def tokens_left(self) -> int:
        """About how many tokens the missing tries and runs will generate."""
        arena = self._arena
        return arena.tune_tokens * len(self._open_tries()) + arena.tokens * len(self._open_runs())

    def play(self) -> Iterator[Try | StrategyRun]:
        """Run what is missing; yields each try and run once the comparison has it.

        First all strategies try each learning rate, from a seed that no run has. Then the
        strategies take turns for each seed, so that a machine that becomes slower affects all of
        them.
        """
        arena = self._arena
        tries = self._open_tries()
        waiting = {entrant.name for entrant, _ in (*tries, *self._open_runs())}
        _warm_up(arena, [entrant for entrant in self._entrants if entrant.name in waiting])
        for entrant, rate in tries:
            config = entrant.config(arena, rate, _TUNE_SEED)
            run = train(arena, entrant.name, config, arena.tune_tokens, self._validation, None)
            done = Try(entrant.name, rate, run.last.sampled, run.last.tokens, run.last.seconds)
            self.comparison.tries.append(done)
            yield done
        for entrant, seed in self._open_runs():
            chosen = self.comparison.learning_rate(entrant.name)
            assert chosen is not None, "all tries are over"
            config = entrant.config(arena, chosen, seed)
            run = train(arena, entrant.name, config, arena.tokens, self._report, arena.eval_every)
            self.comparison.runs.append(run)
            yield run

    def _open_tries(self) -> list[tuple[Entrant, float]]:
        rates = self._arena.learning_rates
        if len(rates) == 1:
            return []
        done = {(t.strategy, t.learning_rate) for t in self.comparison.tries}
        pairs = [(entrant, rate) for rate in rates for entrant in self._entrants]
        return [(entrant, rate) for entrant, rate in pairs if (entrant.name, rate) not in done]

    def _open_runs(self) -> list[tuple[Entrant, int]]:
        done = {(run.strategy, run.seed) for run in self.comparison.runs}
        pairs = [(entrant, seed) for seed in self._seeds for entrant in self._entrants]
        return [(entrant, seed) for entrant, seed in pairs if (entrant.name, seed) not in done]


def train(
    arena: StrategyArena,
    name: str,
    config: GRPOConfig,
    budget: int,
    example_ids: Sequence[int],
    eval_every: int | None,
) -> StrategyRun:
    """Train until the budget of generated tokens is spent.

    Args:
        arena: the task and the model.
        name: the name of the strategy.
        config: the settings.
        budget: the tokens; the run ends at the first step at which they are generated.
        example_ids: examples of the test split to evaluate on.
        eval_every: tokens between two evaluations, each at the first step at or after its place;
            None evaluates only at the end.
    """
    tokens, seconds, trajectories, due = 0, 0.0, 0, eval_every or budget
    points: list[Point] = []

    def measure() -> None:
        scores = [_accuracy(runner, example_ids, greedy) for greedy in (False, True)]
        steps = int(trainer.history[-1]["step"]) if trainer.history else 0
        points.append(Point(tokens, seconds, steps, *scores))

    def on_step(metrics: dict[str, float], rollout: Rollout) -> None:
        nonlocal tokens, seconds, trajectories, due
        tokens += int(metrics["strategy/tokens_generated"])
        seconds += metrics["step_time"]
        trajectories += len(rollout.played)
        if tokens >= min(due, budget):
            due = (tokens // (eval_every or budget) + 1) * (eval_every or budget)
            measure()
        if tokens >= budget:
            raise _SpentError

    trainer = _trainer(arena, config, on_step)
    test = make_env("TextGen-v0", arena.env_kwargs | {"split": "test"})
    policy = trainer.policy.with_params(seed=EVALUATION_SEED + config.seed)
    runner = RolloutRunner(test, policy, max_steps=max_turns(test))
    if eval_every is not None:
        measure()
    try:
        with contextlib.suppress(_SpentError):
            trainer.train()
    finally:
        trainer.close()
        runner.close()
    totals = summarize(trainer.history) | {"trajectories": float(trajectories)}
    rate = config.learning_rate
    assert rate is not None
    return StrategyRun(name, config.seed, rate, tuple(points), totals)


def _trainer(
    arena: StrategyArena,
    config: GRPOConfig,
    on_step: Callable[[dict[str, float], Rollout], None] | None = None,
) -> GRPOTrainer:
    env = make_env("TextGen-v0", arena.env_kwargs | {"split": "train"})
    return GRPOTrainer(arena.model, env, config, on_step=on_step)


def _warm_up(arena: StrategyArena, entrants: Sequence[Entrant]) -> None:
    """Make a step of each and throw it away, so that no run pays for what is done only once."""
    for entrant in entrants:
        config = entrant.config(arena, arena.learning_rates[0], 0)
        train(arena, entrant.name, config, 1, [], None)


def _accuracy(runner: RolloutRunner, example_ids: Sequence[int], greedy: bool) -> float:
    if not example_ids:
        return 0.0
    outcomes = np.array([outcome(t) for t in runner.play(example_ids, greedy)])
    scored = outcomes[np.isfinite(outcomes)]
    return float(scored.mean()) if len(scored) else 0.0


class _SpentError(Exception):
    """Raised when a run has generated all of its tokens."""
