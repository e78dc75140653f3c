"""Evaluates the policy of a training, greedy and sampled, before and after the training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textenv.algos.config import check_integer
from textenv.algos.evaluation.measure import episode_returns, evaluate

_CONTROL_SEED = 2**30  # of the evaluation's episodes, far from the seeds of training

Judgement = dict[str, dict[str, Any]]
"""The figures of an evaluation under ``"greedy"`` and ``"sampled"``, and those of held-out answers
under ``"held_out"``."""

Judge = Callable[[], "Judgement | None"]
"""Evaluates a policy as it is now; gives None if there is nothing to evaluate on."""


def text_judge(trainer: Any, env: Any, examples: int) -> Judge:
    """Make a judge that evaluates on test examples; sampled answers have a seed of their own.

    Args:
        trainer: the trainer whose policy is evaluated.
        env: an environment of the split to evaluate on; None evaluates nothing.
        examples: how many examples; 0 evaluates nothing.
    """

    def judge() -> Judgement | None:
        if env is None or not examples:
            return None
        policy = trainer.policy.with_params(seed=trainer.config.seed + 1)
        return {
            "greedy": evaluate(policy, env, examples, deterministic=True).as_dict(),
            "sampled": evaluate(policy, env, examples, deterministic=False).as_dict(),
        }

    return judge


def control_judge(trainer: Any, env: Any, episodes: int) -> Judge:
    """Make a judge that evaluates on whole episodes.

    Args:
        trainer: the trainer whose policy is evaluated.
        env: a single environment; None evaluates nothing.
        episodes: how many episodes; 0 evaluates nothing.

    Raises:
        ConfigError: if ``episodes`` is negative.
    """
    check_integer("eval_episodes", episodes, 0)

    def judge() -> Judgement | None:
        if env is None or not episodes:
            return None
        found = {}
        for kind, deterministic in (("greedy", True), ("sampled", False)):
            returns = episode_returns(trainer.policy, env, episodes, _CONTROL_SEED, deterministic)
            found[kind] = {
                "return": float(returns.mean()),
                "return_std": float(returns.std()),
                "examples": episodes,
            }
        return found

    return judge


def say_judgement(say: Callable[[str], None], when: str, result: Judgement | None) -> None:
    """Print an evaluation as one line.

    Args:
        say: prints a line.
        when: the start of the line, ``"before"`` or ``"after"``.
        result: the evaluation; None if there was none.
    """
    if result is None:
        say(f"{when}: not evaluated")
        return
    if "held_out" in result:
        found = result["held_out"]
        say(
            f"{when}: held-out loss {found['loss']:.4f}, accuracy of tokens "
            f"{found['mean_token_accuracy']:.3f} on {found['rows']} rows"
        )
    if "greedy" not in result:
        return
    greedy, sampled = result["greedy"], result["sampled"]
    if "return" in greedy:
        say(
            f"{when}: return greedy {greedy['return']:.1f}, sampled {sampled['return']:.1f}, "
            f"mean of {greedy['examples']} episodes each"
        )
        return
    figure = "accuracy" if greedy["accuracy"] is not None else "reward"
    say(
        f"{when}: {figure} greedy {greedy[figure]:.3f}, sampled {sampled[figure]:.3f} "
        f"on {greedy['examples']} test examples"
    )
