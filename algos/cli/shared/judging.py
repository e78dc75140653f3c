"""How well what is trained does, before and after: greedy, and as it samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textenv.algos.config import check_integer
from textenv.algos.evaluation import episode_returns, evaluate

_CONTROL_SEED = 2**30  # of the evaluation's episodes: far from the seeds of training

Judgement = dict[str, dict[str, Any]]
"""``"greedy"`` and ``"sampled"``, each with its figures."""

Judge = Callable[[], "Judgement | None"]


def text_judge(trainer: Any, env: Any, examples: int) -> Judge:
    """Evaluates on test examples, the sampled answers with a seed of their own.

    Args:
        trainer: whose policy is judged.
        env: of the split to evaluate on; None judges nothing.
        examples: how many; 0 judges nothing.
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
    """Evaluates on whole episodes.

    Args:
        trainer: whose policy is judged.
        env: a single environment; None judges nothing.
        episodes: how many; 0 judges nothing.

    Raises:
        ConfigError: for fewer than none.
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
    """Say in a line how well it did."""
    if result is None:
        say(f"{when}: not evaluated")
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
