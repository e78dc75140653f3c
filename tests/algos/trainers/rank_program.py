"""What a rank of the tests computes, and one process for comparison: ``PART FOLDER [ARGUMENT]``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from tests.algos.shared import make_env, random_batch, total, weights_of  # noqa: E402
from textenv.algos import GRPOConfig, GRPOTrainer, grpo, load_model  # noqa: E402
from textenv.algos.lm.scoring.batch import BatchSize  # noqa: E402
from textenv.algos.runtime.ranks import RankError, join  # noqa: E402
from textenv.algos.trainers.ranks import RankGradient  # noqa: E402
from textenv.algos.training.gradient import LocalGradient  # noqa: E402
from textenv.algos.training.microbatches import MicroBatch  # noqa: E402

COUNTS = (5, 2, 1)  # microbatches; of one, the second rank has no share


def gradient(folder):
    """The gradient of a batch in so many microbatches, of very different numbers of tokens."""
    ranks, (model, _) = join(), load_model("tiny-lm")
    computer = LocalGradient(model, grpo.policy_loss)
    if ranks.size > 1:
        computer = RankGradient(model, computer, ranks)
    batch = random_batch([30, 2, 25, 2, 8, 1, 1], [0, 0, 0, 1, 1, 2, 2], [4, 6, 2])
    advantages = np.random.default_rng(1).normal(size=7).astype(np.float32)
    whole = BatchSize(7, float(batch.mask.sum()))
    for count in COUNTS:
        rows = np.array_split(np.arange(7), count)
        parts = [MicroBatch(batch.take(some), advantages[some], whole, None) for some in rows]
        results, tree = computer.gradient(parts)
        arrays = {name: np.array(value) for name, value in tree_flatten(tree)}
        losses = np.array([[r.loss, r.logprob_difference, r.metrics["entropy"]] for r in results])
        np.savez(folder / f"{count}-{ranks.rank}-of-{ranks.size}.npz", losses=losses, **arrays)


def train(folder, steps="3"):
    """Train for some steps; goes on from the checkpoint, if the first rank has one."""
    config = GRPOConfig(
        max_steps=int(steps), num_prompts=3, num_generations=4, micro_batch_size=4, save_steps=2,
        lr_scheduler_type="constant", max_completion_length=8, eval_steps=2, eval_examples=8,
    )  # fmt: skip
    trainer = GRPOTrainer(
        *("tiny-lm", make_env(total), config),
        eval_env=make_env(total),
        out=folder / "run",
    )
    ranks = join()
    if ranks.from_first((folder / "run" / "checkpoints").exists()):
        trainer.resume(folder / "run", ["max_steps"])
    trainer.train()
    names = ("reward", "num_tokens", "loss", "grad_norm", "entropy")
    history = [[metrics[name] for name in names] for metrics in trainer.history]
    weights = weights_of(trainer.model)
    np.savez(folder / f"{ranks.rank}-of-{ranks.size}.npz", history=history, **weights)


def lonely(folder):
    """Exchange until the other rank has ended, twice more, and say what came of it."""
    ranks = join()
    ranks.sum(mx.ones(3))
    if ranks.rank == 1:
        sys.exit(0)
    for _ in range(2):
        try:
            while True:
                ranks.sum(mx.ones(3))
        except RankError as error:
            last = error
    print(last)
    sys.exit(last.exit_code)


def unequal(folder):
    """Begin with settings of which one differs."""
    GRPOTrainer("tiny-lm", config=GRPOConfig(epsilon=0.1 * (1 + join().rank)))


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
