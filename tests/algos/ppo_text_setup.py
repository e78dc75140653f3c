"""Updaters and trainers of PPO on text, small enough for tests."""

from __future__ import annotations

import numpy as np

from tests.algos.shared import make_env, vowels
from textenv.algos import PPOConfig, PPOTrainer
from textenv.algos.trainers.ppo_text import TextUpdater

SMALL = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "gamma": 1.0, "max_completion_length": 6}


def make_learner(model, tokenizer, **settings):
    return TextUpdater(model, tokenizer, make_env(), PPOConfig(**SMALL | settings))


def make_trainer(model, tokenizer, reward_fn=vowels, **settings):
    config = PPOConfig(**SMALL | settings)
    return PPOTrainer(model, make_env(reward_fn), config, tokenizer=tokenizer)


def record(learner, seen):
    """Keep the gradients of a learner, and leave its weights as they are."""
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten

    from textenv.algos.training.optimizer import OptimizerStep

    class Record(optim.SGD):
        def update(self, model, gradients):
            seen.append({name: np.array(g) for name, g in tree_flatten(gradients)})

    learner._optimizer = Record(0.0)
    learner._apply = OptimizerStep(learner.network, learner._optimizer, 0)
