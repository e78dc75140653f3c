"""PPO in one file, one token a step: a text environment as an ordinary discrete environment.

    pip install torch --index-url https://download.pytorch.org/whl/cpu
    python examples/ppo_tokens.py                           # about 6 seconds
    python examples/ppo_tokens.py --total-timesteps 20000   # a short look

Shaped after CleanRL's `ppo.py` (https://github.com/vwxyzjn/cleanrl; Schulman et al. 2017,
arXiv 1707.06347). Only `make_envs`, `tokens_of` and the one-hot input of `Agent` are about text.
The task is to write three letters backwards. The best return is 1, and PPO reaches it; random
tokens earn about 0.15.

Deviations from CleanRL:
- Actions are masked.
- Environments reset in the same step (`AutoresetMode.SAME_STEP`), so no step is lost between
  episodes.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import nn
from torch.distributions import Categorical

import textenv  # noqa: F401  (registers the environments)


@dataclass
class Args:
    """Settings of a training, with CleanRL's names."""

    seed: int = 1
    total_timesteps: int = 60_000
    learning_rate: float = 2.5e-3
    num_envs: int = 16
    num_steps: int = 64
    gamma: float = 1.0
    gae_lambda: float = 0.95
    num_minibatches: int = 4
    update_epochs: int = 4
    clip_coef: float = 0.2
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5


class Letters:
    """A tokenizer with four tokens: the end, and the letters a, b and c."""

    vocab_size, eos_token_id = 4, 0

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return [" abc".index(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids."""
        return "".join(" abc"[i] for i in ids)


def letters_right(prompt: str, completion: str, example: dict) -> float:
    """The share of letters in the right place; each letter too many counts as a wrong one."""
    right = sum(a == b for a, b in zip(completion, example["answer"]))
    return right / max(len(completion), len(example["answer"]))


def make_envs(num_envs: int) -> gym.vector.VectorEnv:
    prompts = ["".join(letters) for letters in itertools.product("abc", repeat=3)]
    return gym.make_vec(
        "TextGenTokens-v0",
        num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        prompts=prompts,
        examples=[{"answer": prompt[::-1]} for prompt in prompts],
        reward_fn=letters_right,
        tokenizer=Letters(),
        max_tokens=5,
        max_length=8,
    )


def layer(inputs: int, outputs: int, std: float = np.sqrt(2)) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, std)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    """An actor and a critic of one-hot tokens; an empty place is a token of its own."""

    def __init__(self, vocabulary: int, length: int):
        super().__init__()
        self.vocabulary = vocabulary
        inputs = (vocabulary + 1) * length
        self.critic = nn.Sequential(
            layer(inputs, 128), nn.Tanh(), layer(128, 128), nn.Tanh(), layer(128, 1, 1.0)
        )
        self.actor = nn.Sequential(
            layer(inputs, 128), nn.Tanh(), layer(128, 128), nn.Tanh(), layer(128, vocabulary, 0.01)
        )

    def forward(
        self, tokens: torch.Tensor, allowed: torch.Tensor
    ) -> tuple[Categorical, torch.Tensor]:
        """The policy over the allowed tokens, and the values (N,)."""
        x = nn.functional.one_hot(tokens, self.vocabulary + 1).float().flatten(1)
        logits = self.actor(x).masked_fill(~allowed, -torch.inf)
        return Categorical(logits=logits, validate_args=False), self.critic(x).squeeze(1)


def tokens_of(observation: dict[str, np.ndarray], vocabulary: int) -> torch.Tensor:
    """Token ids (N, L); an empty place has the id ``vocabulary``."""
    ids = np.where(observation["mask"] == 1, observation["ids"], vocabulary)
    return torch.as_tensor(ids, dtype=torch.long)


def train(args: Args) -> list[float]:
    """Train, and return the mean return of the episodes that ended in each rollout."""
    torch.set_num_threads(1)  # the network is too small to share out
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    envs = make_envs(args.num_envs)
    vocabulary = int(envs.single_action_space.n)
    length = envs.single_observation_space["ids"].shape[0]
    agent = Agent(vocabulary, length)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    batch_size = args.num_envs * args.num_steps
    updates = max(1, args.total_timesteps // batch_size)
    shape = (args.num_steps, args.num_envs)  # (T, N)
    tokens = torch.zeros((*shape, length), dtype=torch.long)
    allowed = torch.ones((*shape, vocabulary), dtype=torch.bool)
    actions = torch.zeros(shape, dtype=torch.long)
    logprobs, rewards, dones, values = (torch.zeros(shape) for _ in range(4))
    history: list[float] = []

    observation, info = envs.reset(seed=args.seed)
    next_done, returns = torch.zeros(args.num_envs), np.zeros(args.num_envs)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = (1 - update / updates) * args.learning_rate
        ended: list[float] = []
        for t in range(args.num_steps):
            tokens[t] = tokens_of(observation, vocabulary)
            allowed[t] = torch.as_tensor(info["action_mask"] == 1)
            dones[t] = next_done
            with torch.no_grad():
                policy, values[t] = agent(tokens[t], allowed[t])
            actions[t] = policy.sample()
            logprobs[t] = policy.log_prob(actions[t])
            observation, reward, terminated, truncated, info = envs.step(actions[t].numpy())
            over = terminated | truncated
            rewards[t], next_done = torch.as_tensor(reward), torch.as_tensor(over).float()
            returns += reward
            ended += returns[over].tolist()
            returns[over] = 0
        history.append(float(np.mean(ended)))

        with torch.no_grad():
            mask = torch.as_tensor(info["action_mask"] == 1)
            _, next_value = agent(tokens_of(observation, vocabulary), mask)
        advantages, last = torch.zeros(shape), torch.zeros(args.num_envs)
        for t in reversed(range(args.num_steps)):
            following = next_done if t == args.num_steps - 1 else dones[t + 1]
            after = next_value if t == args.num_steps - 1 else values[t + 1]
            delta = rewards[t] + args.gamma * after * (1 - following) - values[t]
            last = delta + args.gamma * args.gae_lambda * (1 - following) * last
            advantages[t] = last
        targets = (advantages + values).flatten()
        flat = [x.flatten(0, 1) for x in (tokens, allowed, actions, logprobs, advantages)]

        for _ in range(args.update_epochs):
            for rows in np.array_split(rng.permutation(batch_size), args.num_minibatches):
                seen, may, taken, old, advantage = (x[rows] for x in flat)
                policy, value = agent(seen, may)
                ratio = (policy.log_prob(taken) - old).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                policy_loss = -torch.min(advantage * ratio, advantage * clipped).mean()
                value_loss = 0.5 * (value - targets[rows]).square().mean()
                loss = policy_loss + args.vf_coef * value_loss
                loss = loss - args.ent_coef * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
        if update % 10 == 0:
            print(f"step {(update + 1) * batch_size:7d}  return {history[-1]:.3f}")
    envs.close()
    return history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in vars(Args()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = Args(**vars(parser.parse_args()))
    start = time.perf_counter()
    history = train(args)
    seconds = time.perf_counter() - start
    print(f"mean return {history[0]:.3f} at first, {history[-1]:.3f} at the end (the best is 1)")
    print(f"{args.total_timesteps / seconds:,.0f} steps a second, {seconds:.0f} s")


if __name__ == "__main__":
    main()
