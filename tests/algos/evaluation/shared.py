"""Records of evaluations that tests make by hand."""

from textenv.algos.evaluation.results import Record


def make_record(example_id, verdicts, rewards=None, lengths=None, truncated=None, prompt="?"):
    """The record of an example whose answers are right (1), wrong (0), or not judged (None)."""
    count = len(verdicts)
    rewards = [float(verdict) for verdict in verdicts] if rewards is None else rewards
    return Record(
        example_id,
        prompt,
        "yes",
        completions=["yes" if verdict else "no" for verdict in verdicts],
        answers=["yes" if verdict else "no" for verdict in verdicts],
        rewards=rewards,
        components=[{} if reward is None else {"right": reward} for reward in rewards],
        correct=[None if verdict is None else bool(verdict) for verdict in verdicts],
        lengths=lengths or [0] * count,
        truncated=truncated or [False] * count,
    )
