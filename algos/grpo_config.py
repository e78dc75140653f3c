"""The settings of GRPO. The docstring of each is its help text on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from textenv.algos.config import check_bounds, check_choice, check_lora, check_types
from textenv.algos.episodes.scoring import check_on_error
from textenv.algos.evaluation.schedule import check_settings
from textenv.algos.lm.generation.sampling import SamplingParams
from textenv.algos.lm.generation.stops import check_stops
from textenv.algos.rollouts.workers import BACKENDS, TIMEOUTS
from textenv.algos.strategies.strategy import Strategy, create_strategy
from textenv.errors import ConfigError, ConfigTypeError

LOSS_TYPES = {
    "grpo": "clipped surrogate, mean over each completion's tokens, then over completions",
    "bnpo": "clipped surrogate, mean over the tokens of the batch (dapo, under TRL's other name)",
    "dr_grpo": "clipped surrogate, sum over tokens divided by max_completion_length",
    "dapo": "clipped surrogate, mean over the tokens of the batch",
    "cispo": "log-likelihood weighted by the clipped ratio, mean over the tokens of the batch",
    "gspo": "clipped surrogate on sequence-level ratios, mean over completions",
}
SCALES = ("group", "batch", "none")


@dataclass(frozen=True)
class GRPOConfig:
    """Settings of `GRPOTrainer`. Names are TRL's, as far as TRL has them.

    Defaults are for small models on one machine. ``algos/training/README.md`` has a table of what
    differs from TRL.

    Raises:
        ConfigError: for a value out of range, naming the field.
        ConfigTypeError: for a value of another type, naming the field.
    """

    max_steps: int = 120
    """Number of optimizer steps. Raise it if the reward still rises at the end."""
    num_prompts: int | None = None
    """Prompts in each rollout; unset: 32 up to 10 million weights, else 8, or fewer if memory is
    short. Raise it for a steadier gradient."""
    num_generations: int | None = None
    """Completions of each prompt, which are compared; unset: 16 up to 10 million weights or with a
    strategy, else 8. Raise it if few of them are right."""
    max_completion_length: int = 64
    """Most tokens of a completion. Raise it if completions/clipped_ratio is above 0."""
    temperature: float = 1.0
    """The logits are divided by this before sampling. Lower it if the model rambles."""
    top_p: float = 1.0
    """Sample from the most probable tokens, up to this total probability; 1 takes all.
    Lower it if improbable tokens spoil completions."""
    top_k: int = 0
    """Sample from this many of the most probable tokens; 0 takes all.
    Set it if improbable tokens spoil completions."""
    min_p: float = 0.0
    """Sample from tokens with at least this share of the best one's probability; 0 takes all.
    Raise it if improbable tokens spoil completions."""
    sampling_precision: str = "float32"
    """What products are computed in while completions are sampled: float32, or bfloat16 on a CPU
    with AVX512_BF16, which is faster for large models and samples a little differently; auto takes
    bfloat16 from 100 million weights on, where the CPU has it."""
    chat_template: bool | None = None
    """Whether prompts go through the chat template; unset: if the tokenizer has one.
    Turn it off for prompts that the model is to continue as they are."""
    chat_template_kwargs: dict[str, bool | int | str] = field(default_factory=dict, hash=False)
    """What the chat template is given beside the messages.
    With enable_thinking False, a thinking model answers at once."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion. They are trained on, and are no part of the answer.
    Set them for a model that goes on after its answer."""

    loss_type: str = "dapo"
    """grpo, bnpo, dr_grpo, dapo, cispo or gspo.
    Use gspo for mixtures of experts and for long answers."""
    scale_rewards: str = "group"
    """Divide advantages by the standard deviation of the group or the batch, or not at all (none).
    Use none if groups are easy."""
    epsilon: float = 0.2
    """How far the ratio may fall below 1. It matters only with several updates a rollout."""
    epsilon_high: float | None = None
    """How far the ratio may rise above 1; unset: epsilon.
    A higher one keeps entropy up (DAPO has 0.28). For cispo, write TRL's epsilon_high minus 1."""
    beta: float = 0.0
    """Weight of the KL penalty to the first policy. Raise it if the model forgets other skills."""
    use_bias_correction_kl: bool = False
    """Multiply the KL penalty by the ratio, as TRL does by default (GRPO's paper does not).
    Turn it on for the unbiased gradient of KL(policy || first policy)."""
    strategy: tuple[str, ...] = ()
    """Parts of the rollout strategy, such as dapo pods:keep=8; without any it is plain GRPO.
    algos/strategies/README.md describes them."""
    mask_truncated_completions: bool = False
    """Leave completions that ran out of tokens out of the loss. Turn it on for long reasoning."""

    num_iterations: int = 1
    """Passes over each rollout. Raise it if generation is slow; the ratio then leaves 1."""
    num_minibatches: int = 1
    """Optimizer steps in each pass. Raise it to learn more from each rollout."""
    micro_batch_size: int | None = None
    """Completions in one forward and backward pass; unset: all, or as many as fit in memory.
    Lower it if memory runs out."""
    gradient_checkpointing: bool = False
    """Compute each layer again in the backward pass: less memory, up to a third more work.
    Turn it on if memory runs out."""
    learning_rate: float | None = None
    """Highest learning rate of AdamW; unset: 1e-3 to 1e-6 by the size of the model.
    Lower it if the reward collapses."""
    lr_scheduler_type: str = "linear"
    """Learning rate after the warm-up: constant, linear (to 0) or cosine (to 0)."""
    warmup_steps: int = 5
    """Steps over which the learning rate rises. Raise it if the first steps do harm."""
    weight_decay: float = 0.0
    """How strongly AdamW pulls all weights towards 0. Raise it if they grow in a long training."""
    max_grad_norm: float = 1.0
    """The gradient's global norm is clipped to this; 0 does not clip.
    Lower it if single updates do harm."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank in place of all weights; 0 trains all weights.
    Use adapters for large models: they need less memory. If the model has adapters already, they
    are trained on, and this must be their rank."""
    lora_scale: float = 10.0
    """The output of new adapters is multiplied by this: PEFT's lora_alpha divided by the rank."""
    lora_layers: int = -1
    """How many layers have new adapters, counted from the last; -1: all.
    Lower it if memory is short."""
    lora_targets: tuple[str, ...] = ()
    """Modules that have new adapters, such as q_proj v_proj; unset: every linear one of a layer.
    Name those of attention alone for fewer weights."""
    lora_dropout: float = 0.0
    """Share of the adapters' inputs that an update drops; sampling drops none.
    Raise it (0.05) if a long training on few prompts gets worse on others."""
    dora: bool = False
    """New adapters are DoRA's, which also train the length of each row of the weights.
    Turn it on if a low rank learns too little; it is slower."""
    stop_on_collapse: bool = False
    """Stop if rewards, or held-out accuracy, fall far below those of the beginning, and go back to
    the best weights: by evaluations if there are any. It holds the trained weights once more."""
    eval_steps: int = 0
    """Evaluate on held-out examples every so many steps, and at the end; 0 never.
    Set it to keep the best model, and to see what the reward of the training does not show."""
    eval_examples: int = 500
    """Examples of an evaluation. Raise it if intervals are wide."""
    eval_samples: int = 0
    """Sampled answers to each example; 0: one greedy answer.
    Sample if greedy answers hide what the policy learns."""
    eval_share: float = 0.1
    """The share of the time that evaluations may take, beside ten seconds; they have fewer
    examples if need be. 1 sets no limit. Set that if runs are compared."""
    metric_for_best_model: str = "accuracy"
    """The best model has most of this in its evaluation: accuracy, reward, or rewards/NAME/mean for
    a reward component. accuracy is the reward if the task cannot tell what is right."""
    early_stopping_patience: int = 0
    """End the training after this many evaluations without gain; 0: never.
    Set it if the reward may collapse, or to save time."""
    save_steps: int = 0
    """Write a checkpoint every so many steps, from which resume goes on bit for bit; 0: not by
    steps. There is always one at the end. Set it to eval_steps to keep that of the best model."""
    save_minutes: float = 10.0
    """Write one if the last is so many minutes old; 0: not by time.
    Lower it if much would be lost."""
    rollouts_ahead: int = 0
    """1: workers play the next rollout while this process trains on the one before, so with weights
    that are one update old. 0: nobody plays while weights change. Set it if playing and training
    take about as long; it needs num_workers."""
    importance_cap: float = 2.0
    """With rollouts_ahead: the largest importance weight of a token that older weights drew.
    Lower it if single updates do harm."""
    num_workers: int = 0
    """Worker processes that generate and compute gradients; 0: this process alone.
    On a CPU, use one for every core or two if rollouts are large."""
    worker_timeout: float | None = None
    """Seconds that a worker may take for its part before it is ended and another does that part;
    unset: ten times the longest part so far, and at least 600. Lower it if reward functions hang.
    """
    backend: str = "local"
    """Where workers are: local, processes of this machine, or ray, actors of Ray (the extra ray).
    Use ray for several machines, each of which needs the model and the data at the same paths."""
    ray_address: str | None = None
    """The cluster of Ray, such as auto or 10.0.0.1:6379; unset: RAY_ADDRESS, or else one that is
    started for this machine alone."""
    on_reward_error: Literal["fail", "skip"] | float = "fail"
    """If a reward function raises, gives NaN, is cut off or ends its process: fail; skip its group;
    or a number, which is the reward. Use skip or a number for long runs with fragile rewards."""
    seed: int = 0
    """Seed of the prompts, the sampling, the minibatches and the adapters."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", check_stops(self.stop))
        check_on_error(self.on_reward_error)
        check_types(self)
        check_choice(
            self,
            loss_type=LOSS_TYPES,
            scale_rewards=SCALES,
            backend=BACKENDS,
            lr_scheduler_type=("constant", "linear", "cosine"),
            sampling_precision=("float32", "bfloat16", "auto"),
        )
        check_bounds(
            self,
            **dict.fromkeys(
                (
                    *("max_steps", "num_prompts", "max_completion_length"),
                    *("num_iterations", "num_minibatches", "micro_batch_size"),
                ),
                (1, None),
            ),
            **dict.fromkeys(
                (
                    *("epsilon", "epsilon_high", "beta", "learning_rate", "warmup_steps"),
                    *("weight_decay", "max_grad_norm"),
                ),
                (0, None),
            ),
            num_generations=(2, None),
            num_workers=(0, 1024),
            worker_timeout=TIMEOUTS,
            rollouts_ahead=(0, 1),
            importance_cap=(1, None),
            save_steps=(0, None),
            save_minutes=(0, None),
        )
        check_lora(self)
        check_settings(self)
        if self.ray_address is not None and self.backend != "ray":
            raise ConfigError(
                f"ray_address={self.ray_address!r} needs backend='ray', got {self.backend!r}"
            )
        if self.backend == "ray" and not self.num_workers:
            raise ConfigError("backend='ray' needs num_workers above 0, got num_workers=0")
        is_open = self.num_prompts is None or self.num_generations is None
        if not is_open and self.num_minibatches > self.completions:
            raise ConfigError(
                f"num_minibatches={self.num_minibatches} is more than the {self.completions} "
                "completions of a rollout (num_prompts x num_generations)"
            )
        if self.rollouts_ahead and not self.num_workers:
            raise ConfigError(
                "rollouts_ahead=1 needs num_workers: they play while this process trains"
            )
        self.sampling  # noqa: B018  (checks the sampling fields)
        try:
            strategy = self._make_strategy()
        except (ConfigError, ConfigTypeError) as error:
            raise type(error)(f"strategy: {error}") from error
        if self.rollouts_ahead and (strategy.reuse or self.loss_type == "gspo"):
            raise ConfigError(
                "rollouts_ahead=1 corrects each token for the weights that drew it, which has no "
                "meaning for loss_type='gspo', whose ratio is of a whole completion, and is not "
                "known for a strategy that trains on earlier rollouts again"
            )
        if self.loss_type == "gspo" and strategy.generation.has_trees:
            raise ConfigError(
                f"loss_type='gspo' has one ratio for a completion, and in trees "
                f"({strategy.generation.title}) the tokens of a completion have advantages of "
                "their own: use another loss_type, or chains"
            )

    @property
    def completions(self) -> int:
        """Completions of a rollout.

        Raises:
            ConfigError: if their number is still open.
        """
        if self.num_prompts is None or self.num_generations is None:
            raise ConfigError(
                "num_prompts and num_generations are chosen by a trainer: read trainer.config"
            )
        return self.num_prompts * self.num_generations

    @property
    def oversampling(self) -> int:
        """How many times the completions of a rollout may be generated at once, at most."""
        return self._make_strategy().oversampling

    def _make_strategy(self) -> Strategy:
        generations = self.num_generations or 16
        return create_strategy("grpo", num_generations=generations, parts=self.strategy)

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of the policy, for `create_policy`."""
        names = ("temperature", "top_p", "top_k", "min_p")
        params = {name: getattr(self, name) for name in names}
        SamplingParams(**params)
        return params | {
            "max_tokens": self.max_completion_length,
            "chat_template": self.chat_template,
            "chat_template_kwargs": self.chat_template_kwargs,
            "stop": self.stop,
            "seed": self.seed,
            "precision": self.sampling_precision,
        }


def describe(config: GRPOConfig) -> str:
    """The loss and the data in words, in one line."""
    c = config
    high = c.epsilon if c.epsilon_high is None else c.epsilon_high
    clip = f"1 + {high:g}" if c.loss_type == "cispo" else f"[1 - {c.epsilon:g}, 1 + {high:g}]"
    times_ratio = " x ratio" if c.use_bias_correction_kl else ""
    penalty = f", KL penalty {c.beta:g}{times_ratio}" if c.beta else ", no KL penalty"
    strategy = f", strategy {' '.join(c.strategy)}" if c.strategy else ""
    return (
        f"loss {c.loss_type}: {LOSS_TYPES[c.loss_type]}; ratio clipped to {clip}{penalty}; "
        f"advantages scaled by {c.scale_rewards}; {c.num_prompts} prompts x "
        f"{c.num_generations} completions{strategy}"
    )
