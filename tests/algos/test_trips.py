"""How far a reader has to go: the calls and changes of file from a prompt to the weights.

A trip is a list of places where data changes its form. From each place the walk goes back to the
last function that leads to both, and down from there to the next place. Every function that is
entered on the way counts as a call, and every step to another file, back or down, as a change of
file. To see a trip, run this file: ``python tests/algos/test_trips.py``.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWN = tuple(str(ROOT / folder) + "/" for folder in ("textenv", "wrappers", "algos"))
INNER = {"<listcomp>", "<dictcomp>", "<genexpr>", "<setcomp>"}  # of the function around them

TO_THE_WEIGHTS = (
    "GRPOTrainer.train",
    "GeneratedTask.example",  # example
    "LanguageModelPolicy.encode",  # prompt
    "draw",  # token and log-probability
    "Reward.__call__",  # reward
    "_record_tokens",  # trajectory
    "make_batch",  # batch
    "compute_advantages",  # advantages
    "token_logprobs",  # log-probabilities of the trained policy
    "policy_loss",  # loss
    "OptimizerStep.__call__",  # weights
)
TO_THE_METRICS = (
    "GRPOTrainer.train",
    "Reward.__call__",
    "Lane.record",
    "rollout_metrics",
    "RunFolder.add_metrics",
)


def record(run):
    """(name, file, caller) of each call of a function of ours, in order; callers by their index."""
    calls, index, frames = [], {}, []

    def profile(frame, event, _):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(OWN) or code.co_name in INNER:
            return
        caller = frame.f_back
        while caller is not None and id(caller) not in index:
            caller = caller.f_back
        parent = None if caller is None else index[id(caller)]
        index[id(frame)] = len(calls)
        frames.append(frame)  # so that no other frame gets its id
        calls.append((code.co_qualname, str(Path(code.co_filename).relative_to(ROOT)), parent))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    return calls


def walk(calls, places):
    """The functions entered on a trip, and how often its file changes.

    The first place is where it begins: what leads there does not count.
    """

    def path(call):
        up = []
        while call is not None:
            up.append(call)
            call = calls[call][2]
        return up[::-1]

    def find(place, first):
        for i in range(first, len(calls)):
            if calls[i][0] == place:
                return i
        raise AssertionError(f"{place} was not called after {calls[first][0]}")

    assert calls, f"no call of ours: textenv is imported from another folder than {ROOT}"
    here = find(places[0], 0)
    entered, changes = [], 0
    for place in places[1:]:
        there = find(place, here)
        old, new = path(here), path(there)
        common = sum(1 for a, b in zip(old, new) if a == b)
        changes += calls[old[-1]][1] != calls[new[common - 1]][1]  # back
        for above, below in zip(new[common - 1 :], new[common:]):
            changes += calls[above][1] != calls[below][1]
            entered.append(f"{calls[below][1]}: {calls[below][0]}")
        here = there
    return entered, changes


def trips(folder):
    """Both trips, on a training of one step."""
    from textenv.algos.cli import main

    settings = "--max-steps 1 --num-prompts 4 --num-generations 4 --eval-examples 0 --out"
    calls = record(lambda: main(["train", *settings.split(), str(folder)]))
    return walk(calls, TO_THE_WEIGHTS), walk(calls, TO_THE_METRICS)


def test_trips_are_short(tmp_path):
    (entered, changes), (to_metrics, _) = trips(tmp_path / "run")
    assert len(entered) <= 50, entered
    assert changes <= 30, entered
    assert len(to_metrics) <= 14, to_metrics


def test_a_walk_by_hand():
    """a (one) calls b (one), which calls c (two); then a calls d (three), and d calls e (three)."""
    calls = [
        ("a", "one.py", None),
        ("b", "one.py", 0),
        ("c", "two.py", 1),
        ("d", "three.py", 0),
        ("e", "three.py", 3),
    ]
    entered, changes = walk(calls, ["a", "c", "e"])
    assert entered == ["one.py: b", "two.py: c", "three.py: d", "three.py: e"]
    assert changes == 1 + 1 + 1  # down to c, back to a, down to d


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for entered, changes in trips(Path(folder) / "run"):
            print("\n".join(["", *entered, f"{len(entered)} calls, {changes} changes of file"]))
