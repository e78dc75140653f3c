"""GRPO in one file, to be read from top to bottom: sample, reward, advantage, loss, step.

    python examples/grpo_single_file.py             # about 40 seconds on two cores
    python examples/grpo_single_file.py --steps 10  # a short look

Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), section 4. The environment is this package's,
the model is mlx-lm's, and all of GRPO is here. tiny-lm forgets the carry, so about half of its sums
are right at first. `textenv.algos.grpo` is the same algorithm with more speed and options.

Deviations from the paper:
- The loss is the mean over all tokens of the batch, as in DAPO (Yu et al. 2025, arXiv 2503.14476),
  and not the mean over each completion's tokens, then over completions.
- There is no KL penalty and no reference model, also as in DAPO.
- A group's standard deviation has ddof 1, and eps 1e-4 is added, as in TRL; the paper does not say.
- Each rollout has one update, so the ratio is 1 and nothing is clipped. The clipped loss is written
  out because a second update needs it.

Shapes: P prompts, G completions of each, N = P * G rows, T tokens, V entries in the vocabulary.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np

from textenv.algos.runtime import blas
from textenv.hub import ASSETS

blas.load()  # On Linux CPUs: a fast BLAS in place of MLX's slow one, before MLX is imported.

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
import mlx_lm  # noqa: E402
from mlx_lm.models.cache import make_prompt_cache  # noqa: E402


@dataclass
class Args:
    """Settings of a training."""

    seed: int = 0
    steps: int = 60
    num_prompts: int = 32  # P
    num_generations: int = 16  # G
    max_tokens: int = 8
    learning_rate: float = 5e-4
    epsilon: float = 0.2
    max_grad_norm: float = 1.0
    eval_every: int = 10
    eval_examples: int = 300


@dataclass
class Completion:
    """What the model wrote after a prompt; the last token is EOS unless it ran out of room."""

    prompt: list[int]  # token ids
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # of each token, when it was drawn


def logprobs_of(logits: mx.array, ids: mx.array) -> mx.array:
    """Log-probabilities (...) of token ids (...) under logits (..., V)."""
    chosen = mx.take_along_axis(logits, ids[..., None], axis=-1).squeeze(-1)
    return chosen - mx.logsumexp(logits, axis=-1)


def sample(model, tokenizer, prompts: list[str], max_tokens: int, greedy=False) -> list[Completion]:
    """Complete each prompt at temperature 1, or greedily."""
    completions = [Completion(tokenizer.encode(prompt)) for prompt in prompts]
    for length in {len(c.prompt) for c in completions}:  # equal lengths need no padding
        batch = [c for c in completions if len(c.prompt) == length]
        cache = make_prompt_cache(model)  # keys and values of all tokens so far
        inputs = mx.array([c.prompt for c in batch])  # (B, length), then (B, 1)
        ended = [False] * len(batch)
        for _ in range(max_tokens):
            logits = model(inputs, cache)[:, -1]  # (B, V)
            drawn = mx.argmax(logits, axis=-1) if greedy else mx.random.categorical(logits)  # (B,)
            logprobs = logprobs_of(logits, drawn)  # (B,)
            for i, (token, logprob) in enumerate(zip(drawn.tolist(), logprobs.tolist())):
                if not ended[i]:  # a row that has ended is still computed, but no longer kept
                    batch[i].tokens.append(token)
                    batch[i].logprobs.append(logprob)
                    ended[i] = token in tokenizer.eos_token_ids
            if all(ended):
                break
            inputs = drawn[:, None]
    return completions


def reward(env, tokenizer, example_ids: list[int], completions: list[Completion]) -> np.ndarray:
    """The environment's reward for each completion as an answer to its example: (N,)."""
    rewards = []
    for example_id, completion in zip(example_ids, completions):
        tokens = [t for t in completion.tokens if t not in tokenizer.eos_token_ids]
        env.reset(options={"example_id": example_id})
        rewards.append(env.step(tokenizer.decode(tokens))[1])
    return np.array(rewards)


def advantage(rewards: np.ndarray) -> np.ndarray:
    """How far each reward (P, G) is above the mean of its group, in standard deviations."""
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    scaled = centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)
    differ = np.ptp(rewards, axis=1, keepdims=True) > 1e-8  # (P, 1); equal rewards teach nothing
    return np.where(differ, scaled, 0.0)  # (P, G)


def pack(completions: list[Completion]) -> tuple[mx.array, mx.array, mx.array]:
    """Token ids (N, T + 1), log-probabilities of sampling (N, T), and which of those count (N, T).

    Padding is on the right, where causal attention does not see it. Column t of the (N, T) arrays
    is about token t + 1, because the model predicts that token from those up to t.
    """
    width = max(len(c.prompt) + len(c.tokens) for c in completions)
    ids = np.zeros((len(completions), width), np.int32)
    old_logprobs, mask = np.zeros((2, len(completions), width - 1), np.float32)
    for row, c in enumerate(completions):
        start, end = len(c.prompt) - 1, len(c.prompt) + len(c.tokens) - 1
        ids[row, : end + 1] = c.prompt + c.tokens
        old_logprobs[row, start:end] = c.logprobs
        mask[row, start:end] = 1
    return mx.array(ids), mx.array(old_logprobs), mx.array(mask)


def loss(logprobs, old_logprobs, advantages, mask, epsilon: float) -> mx.array:
    """Minus the clipped surrogate, mean over the mask; advantages (N,), the other arrays (N, T)."""
    ratio = mx.exp(mx.where(mask > 0, logprobs - old_logprobs, 0.0))  # (N, T)
    clipped = mx.clip(ratio, 1 - epsilon, 1 + epsilon)
    surrogate = mx.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
    return -(surrogate * mask).sum() / mask.sum()


def step(model, optimizer, completions: list[Completion], advantages: np.ndarray, args: Args):
    """Update the weights once, by the advantage (N,) of each completion."""
    ids, old_logprobs, mask = pack(completions)
    weights = mx.array(advantages, mx.float32)

    def loss_fn(model) -> mx.array:
        logprobs = logprobs_of(model(ids[:, :-1]), ids[:, 1:])  # (N, T)
        return loss(logprobs, old_logprobs, weights, mask, args.epsilon)

    _, gradients = nn.value_and_grad(model, loss_fn)(model)
    gradients, _ = optim.clip_grad_norm(gradients, args.max_grad_norm)
    optimizer.update(model, gradients)
    mx.eval(model.parameters(), optimizer.state)


def accuracy(model, tokenizer, env, args: Args) -> float:
    """The share of examples whose greedy answer earns the reward of 1."""
    ids = list(range(args.eval_examples))
    prompts = [env.reset(options={"example_id": i})[0] for i in ids]
    completions = sample(model, tokenizer, prompts, args.max_tokens, greedy=True)
    return float(np.mean(reward(env, tokenizer, ids, completions) == 1))


def train(args: Args) -> None:
    """Train tiny-lm on sums, and print reward and accuracy every few steps."""
    mx.random.seed(args.seed)
    model, tokenizer = mlx_lm.load(str(ASSETS / "tiny-lm"))
    env, held_out = (gym.make("textenv:TextGen-v0", split=split) for split in ("train", "test"))
    env.reset(seed=args.seed)
    optimizer = optim.AdamW(args.learning_rate, [0.9, 0.95], weight_decay=0, bias_correction=True)
    start = time.perf_counter()
    print(f"step   0  accuracy {accuracy(model, tokenizer, held_out, args):.3f}")
    for i in range(1, args.steps + 1):
        examples = [env.reset() for _ in range(args.num_prompts)]  # P pairs of prompt and info
        rows = [example for example in examples for _ in range(args.num_generations)]  # N
        prompts, ids = zip(*((prompt, info["example_id"]) for prompt, info in rows))
        completions = sample(model, tokenizer, prompts, args.max_tokens)
        rewards = reward(env, tokenizer, ids, completions).reshape(len(examples), -1)  # (P, G)
        advantages = advantage(rewards).ravel()  # (N,)
        if advantages.any():  # AdamW's momentum moves the weights even if the gradient is 0
            step(model, optimizer, completions, advantages, args)
        if i % args.eval_every == 0 or i == args.steps:
            right = accuracy(model, tokenizer, held_out, args)
            seconds = time.perf_counter() - start
            mean = rewards.mean()
            print(f"step {i:3d}  accuracy {right:.3f}  reward {mean:.3f}  {seconds:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in vars(Args()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    train(Args(**vars(parser.parse_args())))
