"""Watches a training on text, and says each thing that is wrong once."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.trajectory import Trajectory
from textenv.algos.rollouts.health.answers import Answer, answer_of
from textenv.algos.rollouts.health.facts import StepFacts, facts_of
from textenv.algos.rollouts.health.rules import ENOUGH, RULES, collapse_in_evaluation
from textenv.algos.runtime import backend
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.checks import check_rollout
from textenv.algos.storage.codec import EncodedOnce, decode_rollout
from textenv.algos.strategies.protocols import Prompts
from textenv.algos.strategies.strategy import Strategy

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.models.lora import has_dropout  # noqa: E402
from textenv.algos.lm.models.properties import quantized_layers  # noqa: E402

QUANTIZED = "slow_weights"
"""The name of what is found before the first step, beside those of `RULES`."""
_SLOW = (
    "the model's weights are rounded to few bits, and a CPU decodes them 3 to 12 times slower than "
    "float32",
    "free memory, as a model whose float32 weights fit is dequantized when it is loaded; or take a "
    "smaller model",
)


def held_out_figure(sampled: bool) -> str:
    """What an evaluation measures, of sampled answers or of greedy ones."""
    return f"{'sampled' if sampled else 'greedy'} accuracy on held-out examples"


@dataclass(frozen=True)
class Finding:
    """Something that keeps a training from learning."""

    name: str
    """The name of the rule, as in ``algos/training/README.md``."""
    step: int
    """After how many optimizer steps it was found."""
    what: str
    """What is wrong."""
    remedy: str
    """What to do about it."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        where = f"step {self.step}: " if self.step else ""
        return f"{where}{self.what}. Try: {self.remedy}"


class HealthWatch:
    """Looks at each step of a training on text, and at each evaluation.

    Args:
        env: the environment, whose task knows right answers.
        strategy: the strategy of the rollouts. If it chooses prompts, rollouts are not compared
            with those of the beginning; if it has any parts, groups without signal are its own.
        model: the model that is trained.
        precision: of products while sampling. If it is not float32, log-probabilities differ from
            those of training.
        sampled: whether the evaluations in the metrics of steps are of sampled answers.

    Attributes:
        findings: what was found so far, each thing once.
    """

    def __init__(
        self,
        env: Any,
        strategy: Strategy,
        model: nn.Module,
        precision: str = "float32",
        sampled: bool = False,
    ):
        self._task = getattr(getattr(env, "unwrapped", env), "task", None)
        self._comparable = type(strategy.prompts) is Prompts
        self._skipped = {"little_signal"} if strategy.parts else set()
        # Then another network samples than the one that is trained.
        if precision != "float32" or has_dropout(model):
            self._skipped |= {"logprob_mismatch"}
        self._course: list[StepFacts] = []
        self._unrewarded: deque[list[Trajectory]] = deque()
        self._encode = EncodedOnce()
        self._figure = held_out_figure(sampled)
        self._evaluations: dict[str, list[tuple[int, float, int]]] = {}
        self.findings: list[Finding] = []
        if quantized_layers(model) and mx.default_device() == mx.cpu:
            self._add(QUANTIZED, 0, *_SLOW)

    def step(self, step: int, metrics: Mapping[str, float], rollout: Rollout) -> list[Finding]:
        """Look at a step.

        Args:
            step: optimizer steps so far.
            metrics: the metrics of the step, with those of its evaluation if there was one.
            rollout: what was played and trained on.

        Returns:
            What was found now.
        """
        if not rollout.played:
            return []
        if rollout.counts is not None and rollout.counts.groups_reused:
            # Another policy played these: its log-probabilities may well be different.
            metrics = {k: v for k, v in metrics.items() if k != "sampling/logprob_difference/max"}
        self._course.append(facts_of(step, metrics, rollout.played, self._comparable))
        self._keep(rollout.played)
        found = []
        for name, rule in RULES.items():
            if name in self._skipped:
                continue
            said = rule(self._course, self._wrong_answers)
            if said is not None:
                found.append(self._add(name, step, *said))
        if "eval/accuracy" in metrics:
            examples = int(metrics["eval/examples"])
            found += self.evaluated(step, self._figure, metrics["eval/accuracy"], examples)
        return found

    def evaluated(self, step: int, figure: str, value: float, examples: int) -> list[Finding]:
        """Look at an evaluation on held-out examples; the first of each figure is compared with.

        Args:
            step: optimizer steps so far.
            figure: what was measured, see `held_out_figure`.
            value: the share of right answers.
            examples: how many there were.

        Returns:
            What was found now.
        """
        evaluations = self._evaluations.setdefault(figure, [])
        evaluations.append((step, value, examples))
        _, before, count = evaluations[0]
        said = collapse_in_evaluation(f"the {figure}", before, value, (count, examples))
        if said is None or "collapse" in self._skipped:
            return []
        return [self._add("collapse", step, *said)]

    @property
    def evaluations(self) -> list[tuple[int, float]]:
        """The evaluations of the kind that steps have, each with its step and its accuracy."""
        return [(step, value) for step, value, _ in self._evaluations.get(self._figure, [])]

    @property
    def has_collapsed(self) -> bool:
        """Whether the outcome has fallen far below that of the beginning."""
        return any(finding.name == "collapse" for finding in self.findings)

    def state(self) -> State:
        """What was found, and what the rules compare with."""
        return State(
            values={
                "course": [vars(facts) for facts in self._course],
                "unrewarded": self._encode(self._unrewarded),
                "evaluations": {
                    figure: [list(each) for each in found]
                    for figure, found in self._evaluations.items()
                },
                "findings": [finding.as_dict() for finding in self.findings],
                "skipped": sorted(self._skipped),
            }
        )

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""
        self._course = [
            StepFacts(**{**facts, "groups": tuple(facts["groups"])})
            for facts in state.value("course")
        ]
        where = "the answers without a reward"
        played = [decode_rollout(rows, None, where) for rows in state.value("unrewarded")]
        for rollout in played:
            check_rollout(rollout, where)
        self._unrewarded = deque(rollout.trajectories for rollout in played)
        self._evaluations = {
            figure: [(step, value, examples) for step, value, examples in found]
            for figure, found in state.value("evaluations").items()
        }
        self.findings[:] = [Finding(**finding) for finding in state.value("findings")]
        self._skipped = set(state.value("skipped"))

    def _add(self, name: str, step: int, what: str, remedy: str) -> Finding:
        self._skipped.add(name)
        self.findings.append(Finding(name, step, what, remedy))
        return self.findings[-1]

    def _keep(self, trajectories: list[Trajectory]) -> None:
        """Keep what was played since the last reward, as far back as `no_reward` looks."""
        if "no_reward" in self._skipped or self._course[-1].high > 0:
            self._unrewarded.clear()
            return
        self._unrewarded.append(trajectories)
        while sum(map(len, self._unrewarded)) - len(self._unrewarded[0]) >= ENOUGH:
            self._unrewarded.popleft()

    def _wrong_answers(self) -> list[Answer]:
        played = (t for trajectories in self._unrewarded for t in trajectories)
        return [answer for t in played if (answer := answer_of(self._task, t)) is not None]
