"""Settings of GRPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textenv.algos.config import LARGEST_RANK, check_bounds, check_choice, check_types
from textenv.algos.lm.generation.sampling import SamplingParams
from textenv.algos.strategies.strategy import create_strategy
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
    """Settings of `GRPOTrainer`. Names and meanings follow TRL's where TRL has them.

    Raises:
        ConfigError: for a value out of range, naming the field.
        ConfigTypeError: for a value of another type, naming the field.
    """

    max_steps: int = 120
    """Optimizer steps. More where the reward still rises at the end."""
    num_prompts: int = 32
    """Prompts a rollout. More for a steadier gradient, fewer where memory is short."""
    num_generations: int = 16
    """Completions of each prompt, compared with each other. More where few of them are right."""
    max_completion_length: int = 64
    """Longest completion in tokens. Raise it where completions/clipped_ratio is above 0."""
    temperature: float = 1.0
    """Divides the logits when sampling. Lower it for a model that rambles."""
    top_p: float = 1.0
    """Sample from the most probable tokens of this mass; 1 is all."""
    top_k: int = 0
    """Sample from this many most probable tokens; 0 is all."""
    min_p: float = 0.0
    """Sample from tokens at least this share as probable as the best; 0 is all."""
    chat_template: bool | None = None
    """Whether prompts go through the chat template; unset: where the tokenizer has one."""

    loss_type: str = "dapo"
    """grpo, bnpo, dr_grpo, dapo, cispo or gspo. gspo for mixtures of experts and long answers."""
    scale_rewards: str = "group"
    """Divide advantages by the std of the group, the batch, or none. none where groups are easy."""
    epsilon: float = 0.2
    """How far the ratio may fall below 1. Matters only with more than one update a rollout."""
    epsilon_high: float | None = None
    """How far the ratio may rise above 1; unset: epsilon. Higher keeps entropy up (DAPO: .28)."""
    beta: float = 0.0
    """Weight of the KL penalty to the first policy. Raise it where the model forgets the rest."""
    strategy: tuple[str, ...] = ()
    """Parts of the rollout strategy: dapo pods:keep=8 ...; none: plain GRPO. See the README."""
    mask_truncated_completions: bool = False
    """Leave completions that ran out of room out of the loss. On for long reasoning."""

    num_iterations: int = 1
    """Passes over each rollout. More where generation is slow; the ratio then leaves 1."""
    num_minibatches: int = 1
    """Optimizer steps in each pass."""
    micro_batch_size: int | None = None
    """Completions in one forward and backward; unset: all. Lower it where memory runs out."""
    gradient_checkpointing: bool = False
    """Compute each layer again in the backward: less memory, up to a third more work."""
    learning_rate: float | None = None
    """AdamW's step; unset: by the model's size, see `optimizer.default_learning_rate`."""
    lr_scheduler_type: str = "linear"
    """constant, linear (to 0) or cosine (to 0)."""
    warmup_steps: int = 5
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """AdamW's pull of all weights towards 0."""
    max_grad_norm: float = 1.0
    """The gradient's global norm is clipped to this; 0 does not clip."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank in place of all weights; 0: all weights."""
    lora_scale: float = 10.0
    """What the adapters' output is multiplied by."""
    num_workers: int = 0
    """Processes that generate and compute gradients; 0: this one. On a CPU, one a core or two."""
    seed: int = 0
    """Seeds prompts, sampling, minibatches and adapters."""

    def __post_init__(self) -> None:
        check_types(self)
        check_choice(
            self,
            loss_type=LOSS_TYPES,
            scale_rewards=SCALES,
            lr_scheduler_type=("constant", "linear", "cosine"),
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
                    *("weight_decay", "max_grad_norm", "lora_scale"),
                ),
                (0, None),
            ),
            num_generations=(2, None),
            lora_rank=(0, LARGEST_RANK),
            num_workers=(0, 1024),
        )
        completions = self.num_prompts * self.num_generations
        if self.num_minibatches > completions:
            raise ConfigError(
                f"num_minibatches={self.num_minibatches} is more than the {completions} "
                "completions of a rollout (num_prompts x num_generations)"
            )
        self.sampling  # noqa: B018  (checks the sampling fields)
        try:
            strategy = create_strategy(
                "grpo", num_generations=self.num_generations, parts=self.strategy
            )
        except (ConfigError, ConfigTypeError) as error:
            raise type(error)(f"strategy: {error}") from error
        if self.loss_type == "gspo" and strategy.generation.has_trees:
            raise ConfigError(
                f"loss_type='gspo' has one ratio for a completion, and in trees "
                f"({strategy.generation.title}) the tokens of a completion have advantages of "
                "their own: use another loss_type, or chains"
            )

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of the policy."""
        names = ("temperature", "top_p", "top_k", "min_p")
        params = {name: getattr(self, name) for name in names}
        SamplingParams(**params)
        return params | {
            "max_tokens": self.max_completion_length,
            "chat_template": self.chat_template,
            "seed": self.seed,
        }
