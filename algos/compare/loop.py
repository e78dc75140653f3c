"""Runs a comparison: trains every agent from every seed, and measures all in the same way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from textenv.algos.compare.arena import Arena
from textenv.algos.compare.clock import Watch
from textenv.algos.compare.contestants import Contestant, create
from textenv.algos.compare.evaluators import Evaluator
from textenv.algos.compare.results import AgentInfo, Comparison, EvaluationPoint, Run
from textenv.errors import ConfigError


class Observer:
    """Is told what happens in a comparison. The methods do nothing; a subclass overrides them."""

    def on_ready(self, comparison: Comparison) -> None:
        """All agents are made and warmed up."""

    def on_start(self, agent: str, seed: int) -> None:
        """A run starts."""

    def on_evaluation(self, agent: str, seed: int, evaluation: EvaluationPoint) -> None:
        """An agent was evaluated."""

    def on_run(self, comparison: Comparison, run: Run) -> None:
        """A run is over; the comparison has it."""


def compare(
    agents: Sequence[str],
    arena: Arena,
    seeds: Sequence[int],
    *,
    reach: float | None = None,
    machine: dict[str, Any] | None = None,
    observer: Observer | None = None,
) -> Comparison:
    """Train every agent from every seed, and evaluate all of them in the same way.

    The agents take turns for each seed, so that a machine that becomes slower affects all of them.
    Imports and compilation, which an agent needs only once, happen before the first run, in a
    rollout and an update that are thrown away. Their time is recorded separately.

    Args:
        agents: names of the agents, as `create` takes them.
        arena: the environment and the budget.
        seeds: the seeds of the runs.
        reach: a return; the comparison says when each agent first reached it.
        machine: a description of the machine, for the record.
        observer: is told what happens.

    Raises:
        ConfigError: if there are no seeds, or if an agent is not known or cannot act in the
            environment. This happens before anything is trained.
    """
    if not seeds:
        raise ConfigError("seeds must be >= 1, got 0")
    observer = observer or Observer()
    contestants: list[Contestant] = []
    settings = {
        "env": arena.env,
        "env_kwargs": {key: _plain(value) for key, value in arena.env_kwargs.items()},
        "agents": list(agents),
        "seeds": list(seeds),
        "total_timesteps": arena.total_timesteps,
        "eval_every": arena.eval_every,
        "eval_episodes": arena.eval_episodes,
        "reach": reach,
    }
    if arena.is_text:
        settings |= {"model": arena.model, "choices": list(arena.choices)}
    comparison = Comparison(settings, dict(machine or {}), {})
    for make in create(agents, arena):
        began = time.perf_counter()
        contestant = make()
        contestants.append(contestant)
        comparison.agents[contestant.name] = AgentInfo(
            contestant.description, contestant.settings, time.perf_counter() - began
        )
    evaluators = {c.language: arena.evaluator(c.language) for c in contestants}
    for contestant in contestants:
        comparison.agents[contestant.name].first_use_seconds += _warm_up(contestant)
    observer.on_ready(comparison)
    for seed in seeds:
        for contestant in contestants:
            observer.on_start(contestant.name, seed)
            run = _run(contestant, arena, seed, evaluators[contestant.language], observer)
            comparison.runs.append(run)
            observer.on_run(comparison, run)
    return comparison


def _run(
    contestant: Contestant,
    arena: Arena,
    seed: int,
    evaluate: Evaluator,
    observer: Observer,
) -> Run:
    watch = Watch(
        evaluate,
        arena.eval_every,
        lambda evaluation: observer.on_evaluation(contestant.name, seed, evaluation),
    )
    return contestant.train(seed, arena.total_timesteps, watch)


def _plain(value: Any) -> Any:
    """A value as a file can hold it; functions by their names."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return getattr(value, "__name__", str(value)) if callable(value) else value


def _warm_up(contestant: Contestant) -> float:
    """Make a rollout and an update that are thrown away; returns their seconds."""
    began = time.perf_counter()
    steps = contestant.warm_up_timesteps
    contestant.train(0, steps, Watch(lambda policy: [0.0], steps))
    return time.perf_counter() - began
