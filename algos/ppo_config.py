"""The settings of PPO, presets that are known to work, and three sizes of rollout.

The docstring of each setting is its help text on the command line.

The presets for control are those of RL Baselines3 Zoo's ``hyperparams/ppo.yml`` (Pendulum without
its gSDE); ``n_steps`` here is theirs times the number of environments. The preset for text was
found with tiny-lm on arithmetic. A large model needs a smaller ``learning_rate``
(`textenv.algos.training.optimizer.default_learning_rate`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from textenv.algos.config import (
    LARGEST_WIDTH,
    check_bounds,
    check_lora,
    check_types,
    check_widths,
)
from textenv.algos.control.mlp_policy import ACTIVATIONS
from textenv.algos.episodes.scoring import check_on_error
from textenv.algos.evaluation.schedule import check_settings
from textenv.algos.lm.generation.stops import check_stops
from textenv.errors import ConfigError, unknown


@dataclass(frozen=True)
class PPOConfig:
    """Settings of `PPOTrainer`. Names and defaults are those of Stable-Baselines3.

    What differs in meaning stands in a table of ``algos/training/README.md``.

    Raises:
        ConfigError: for a value out of range, naming the field.
        ConfigTypeError: for a value of another type, naming the field.
    """

    total_timesteps: int = 100_000
    """Transitions of the whole training, rounded up to whole rollouts.
    Raise it if the reward still rises at the end."""
    max_steps: int | None = None
    """Stop after this many optimizer steps; unset: total_timesteps alone decides."""
    num_envs: int = 1
    """Parallel environments, which share n_steps. More of them make a rollout more varied."""
    n_steps: int = 2048
    """Transitions of a rollout, of all environments together.
    Lower it (1024) for more updates in the same time, raise it (4096) for steadier ones."""
    batch_size: int = 64
    """Rows of a minibatch: transitions of control, or trajectories of text.
    Raise it for steadier gradients."""
    n_epochs: int = 10
    """Passes over each rollout. Lower it if train/approx_kl runs away."""
    learning_rate: float = 3e-4
    """Learning rate of Adam. Lower it for large models, or if the reward collapses."""
    anneal_learning_rate: bool = False
    """Let the learning rate fall to 0 over the training. Turn it on if late updates do harm."""
    gamma: float = 0.99
    """Discount of each step. Set it nearer to 1 if rewards come late, and to 1 for text."""
    gae_lambda: float = 0.95
    """0 trusts the critic after one step, 1 the rewards alone. Lower it if rewards are noisy."""
    clip_range: float = 0.2
    """How far the ratio may leave 1 before its gradient stops. Lower it if updates go too far."""
    anneal_clip_range: bool = False
    """Let the clip range fall to 0 over the training, for smaller updates towards the end."""
    clip_range_vf: float | None = None
    """How far a value may leave the old one before its gradient stops; unset: without a limit."""
    normalize_advantage: bool = True
    """Standardise the advantages of each minibatch; for text, of all tokens of the rollout."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus. Raise it if the policy settles too early."""
    vf_coef: float = 0.5
    """Weight of the value loss. Raise it if train/explained_variance stays low."""
    max_grad_norm: float = 0.5
    """The gradient's global norm is clipped to this; 0 does not clip.
    Lower it if single updates do harm."""
    target_kl: float | None = None
    """Stop training on a rollout once the approximate KL is above 1.5 times this; unset: never.
    Set it (0.01 to 0.05) if updates go too far."""
    bootstrap_truncated: bool = True
    """Add the value of its last observation to the return of a truncated episode.
    Turn it off if the time limit is a part of the task."""
    normalize_observations: bool = False
    """Control: standardise observations by running statistics. Turn it on if scales differ."""
    normalize_rewards: bool = False
    """Control: divide rewards by the running standard deviation of the discounted return.
    Turn it on for large rewards."""
    hidden: tuple[int, ...] = (64, 64)
    """Control: units of each hidden layer, of the actor and of the critic alike.
    Take more for observations of many numbers."""
    activation: str = "tanh"
    """Control: the activation of hidden units, tanh or relu."""
    beta: float = 0.0
    """Text: weight of the KL penalty to the first policy, in the reward of each token.
    Raise it if the model forgets other skills."""
    max_completion_length: int = 64
    """Text: most tokens of a completion. Raise it if completions/clipped_ratio is above 0."""
    temperature: float = 1.0
    """Text: the logits are divided by this before sampling. Lower it if the model rambles."""
    top_p: float = 1.0
    """Text: sample from the most probable tokens, up to this total probability; 1 takes all.
    Lower it if improbable tokens spoil completions."""
    chat_template: bool | None = None
    """Text: whether prompts go through the chat template; unset: if the tokenizer has one."""
    chat_template_kwargs: dict[str, bool | int | str] = field(default_factory=dict, hash=False)
    """Text: what the chat template is given beside the messages, as enable_thinking False."""
    stop: tuple[str, ...] = ()
    """Text: strings that end a completion. They are trained on, and are no part of the answer."""
    micro_batch_size: int | None = None
    """Text: trajectories in one forward and backward pass; unset: all of a minibatch, or as many as
    fit in memory. Lower it if memory runs out."""
    gradient_checkpointing: bool = False
    """Text: compute each layer again in the backward pass: slower, in less memory.
    Turn it on if memory runs out."""
    lora_rank: int = 0
    """Text: train low-rank adapters of this rank in place of all weights; 0 trains all weights.
    Use adapters for large models: they need less memory. If the model has adapters already, they
    are trained on, and this must be their rank."""
    lora_scale: float = 10.0
    """Text: factor of the outputs of new adapters: PEFT's lora_alpha divided by the rank."""
    lora_layers: int = -1
    """Text: how many layers have new adapters, counted from the last; -1: all.
    Lower it if memory is short."""
    lora_targets: tuple[str, ...] = ()
    """Text: modules that have new adapters, such as q_proj v_proj; unset: all linear ones.
    Name those of attention alone for fewer weights."""
    lora_dropout: float = 0.0
    """Text: share of the adapters' inputs that an update drops; sampling drops none.
    Raise it (0.05) if a long training on few prompts gets worse on others."""
    dora: bool = False
    """Text: new adapters are DoRA's, which also train the length of each row of the weights.
    Turn it on if a low rank learns too little; it is slower."""
    eval_steps: int = 0
    """Text: evaluate on held-out examples every so many optimizer steps, and at the end; 0 never.
    Set it to keep the best model, and to see what the reward of the training does not show."""
    eval_examples: int = 500
    """Text: examples of an evaluation. Raise it if intervals are wide."""
    eval_samples: int = 0
    """Text: sampled answers to each example; 0: one greedy answer.
    Sample if greedy answers hide what the policy learns."""
    eval_share: float = 0.1
    """Text: the share of the time that evaluations may take, beside ten seconds; they have fewer
    examples if need be. 1 sets no limit. Set that if runs are compared."""
    metric_for_best_model: str = "accuracy"
    """Text: the best model has most of this in its evaluation: accuracy, reward, or
    rewards/NAME/mean. accuracy is the reward if the task cannot tell what is right."""
    early_stopping_patience: int = 0
    """Text: end the training after this many evaluations without gain; 0: never.
    Set it if the reward may collapse, or to save time."""
    stop_on_collapse: bool = False
    """Text: stop if rewards, or held-out accuracy, fall far below those of the beginning, and go
    back to the best weights: by evaluations if there are any. It holds the trained weights once
    more."""
    on_reward_error: Literal["fail", "skip"] | float = "fail"
    """Text: if a reward function raises, gives NaN, is cut off or ends its process: fail; skip, so
    that the completion is not trained on; or a number, which is the reward.
    Use skip or a number for long runs with fragile rewards."""
    save_steps: int = 0
    """Write a checkpoint every so many updates (a rollout and the training on it), from which
    resume goes on bit for bit; 0: not by updates. There is always one at the end."""
    save_minutes: float = 10.0
    """Write one if the last is so many minutes old; 0: not by time.
    Lower it if much would be lost."""
    seed: int = 0
    """Seed of the environments, the initial weights, the sampling and the minibatches."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", check_stops(self.stop))
        check_on_error(self.on_reward_error)
        check_types(self)
        check_bounds(
            self,
            **dict.fromkeys(
                (
                    *("total_timesteps", "max_steps", "n_steps", "batch_size"),
                    *("n_epochs", "max_completion_length", "micro_batch_size"),
                ),
                (1, None),
            ),
            **dict.fromkeys(
                (
                    *("learning_rate", "clip_range", "clip_range_vf", "ent_coef", "vf_coef"),
                    *("max_grad_norm", "target_kl", "beta", "temperature"),
                ),
                (0, None),
            ),
            num_envs=(1, LARGEST_WIDTH),
            save_steps=(0, None),
            save_minutes=(0, None),
            **dict.fromkeys(("gamma", "gae_lambda", "top_p"), (0, 1)),
        )
        check_lora(self)
        check_settings(self)
        check_widths("hidden", self.hidden)
        if self.activation not in ACTIVATIONS:
            raise ConfigError(unknown("activation", self.activation, ACTIVATIONS))
        if self.n_steps % self.num_envs:
            raise ConfigError(
                f"n_steps={self.n_steps} must be divisible by num_envs={self.num_envs}: a "
                "rollout is shared evenly by all environments"
            )


PRESETS: dict[str, PPOConfig] = {
    "CartPole-v1": PPOConfig(
        total_timesteps=100_000,
        num_envs=8,
        n_steps=8 * 32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=1e-3,
        anneal_learning_rate=True,
        anneal_clip_range=True,
    ),
    "Acrobot-v1": PPOConfig(
        total_timesteps=1_000_000,
        num_envs=16,
        n_steps=16 * 256,
        n_epochs=4,
        gae_lambda=0.94,
        normalize_observations=True,
        normalize_rewards=True,
    ),
    "MountainCar-v0": PPOConfig(
        total_timesteps=1_000_000,
        num_envs=16,
        n_steps=16 * 16,
        n_epochs=4,
        gae_lambda=0.98,
        normalize_observations=True,
        normalize_rewards=True,
    ),
    "Pendulum-v1": PPOConfig(
        total_timesteps=100_000,
        num_envs=4,
        n_steps=4 * 1024,
        gamma=0.9,
        learning_rate=1e-3,
    ),
    "LunarLander-v3": PPOConfig(
        total_timesteps=1_000_000,
        num_envs=16,
        n_steps=16 * 1024,
        n_epochs=4,
        gamma=0.999,
        gae_lambda=0.98,
        ent_coef=0.01,
    ),
    "TextGen-v0": PPOConfig(
        total_timesteps=40 * 512,
        n_steps=512,
        batch_size=256,
        n_epochs=2,
        gamma=1.0,
        gae_lambda=1.0,
        learning_rate=1e-3,
        anneal_learning_rate=True,
        max_grad_norm=1.0,
    ),
}


class Size(NamedTuple):
    """A size of rollout, with what it gains and what it loses."""

    n_steps: int
    gained: str
    lost: str


SIZES: dict[str, Size] = {
    "fast": Size(1024, "updates twice as often as standard", "noisier: less stable"),
    "standard": Size(2048, "a good compromise", "nothing in particular"),
    "stable": Size(4096, "steadier gradients and advantages", "slow to the first update"),
}


def preset(env_id: str | None = None, size: str | None = None) -> PPOConfig:
    """The settings for an environment, or the defaults if it has no preset.

    Args:
        env_id: Gymnasium's id, with or without the ``module:`` that registers it.
        size: one of `SIZES`; None keeps the size of the preset.

    Raises:
        ConfigError: for an unknown size.
    """
    config = PRESETS.get((env_id or "").rpartition(":")[2], PPOConfig())
    if size is None:
        return config
    if size not in SIZES:
        raise ConfigError(unknown("size", size, SIZES))
    return replace(config, n_steps=SIZES[size].n_steps)
