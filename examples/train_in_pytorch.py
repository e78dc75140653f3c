"""Train a PyTorch policy from exported rollouts, without textenv.

    pip install torch --index-url https://download.pytorch.org/whl/cpu
    python examples/rollouts_to_offline.py                        # writes the rollouts
    python examples/train_in_pytorch.py runs/rollouts_to_offline/rollouts
    python examples/train_in_pytorch.py --score                   # plays the trained policy

Advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177) in one file, on JSON rollouts
with Box observations and Discrete actions. `read` shows how to read such a file; the file describes
itself under "layout". An episode that was cut between two rollouts is not joined again here: the
critic's value stands for the rewards after the cut.

The weights are written as JSON, layer by layer, so that any program can read them. Only --score
imports textenv: it makes the environment of the rollouts and plays in textenv's loop.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

GAMMA, LAMBDA = 0.99, 0.95
TEMPERATURE, MAX_WEIGHT = 0.5, 20.0


def read(folder: Path) -> tuple[list[dict], dict]:
    """Read a folder: the trajectories of all its rollouts, and the source (environment, spaces)."""
    paths = sorted(folder.glob("rollout_*.json"), key=lambda path: int(path.name.split("_")[1]))
    trajectories, source = [], {}
    for path in paths:
        rollout = json.loads(path.read_text(encoding="utf-8"))
        if rollout["format"] != "textenv.rollout" or rollout["schema_version"] != 3:
            raise SystemExit(f"{path} is not a rollout of schema version 3")
        source = rollout["source"]
        for row in rollout["trajectories"]:
            trajectories.append(
                {
                    "observations": array(row["observations"]),  # (T, D)
                    "actions": array(row["actions"]),  # (T,)
                    "rewards": np.array(row["rewards"], np.float32),  # (T,)
                    "last": array(row["final_observation"]),  # (D,)
                    "terminated": row["terminated"],
                    "ended": row["terminated"] or row["truncated"],
                }
            )
    if not trajectories:
        raise SystemExit(f"{folder} holds no rollout_*.json")
    return trajectories, source


def array(column: dict) -> np.ndarray:
    """An array from the file, which holds its data, dtype and shape."""
    return np.array(column["data"], column["dtype"]).reshape(column["shape"])


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


class Policy(nn.Module):
    """An actor, with the mean and standard deviation that it standardises observations by."""

    def __init__(self, inputs: int, actions: int):
        super().__init__()
        self.actor = network(inputs, actions)
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Logits (N, actions) for raw observations (N, D)."""
        return self.actor((observations - self.mean) / self.std)


def targets(trajectories: list[dict], value) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and TD(lambda) returns of all steps, both (N,), by the critic ``value``."""
    advantages, returns = [], []
    for t in trajectories:
        values = value(np.concatenate([t["observations"], t["last"][None]]))  # (T + 1,)
        if t["terminated"]:
            values[-1] = 0
        advantage, own = 0.0, np.zeros(len(t["rewards"]))
        for step in range(len(own) - 1, -1, -1):
            delta = t["rewards"][step] + GAMMA * values[step + 1] - values[step]
            own[step] = advantage = delta + GAMMA * LAMBDA * advantage
        advantages.append(own)
        returns.append(own + values[:-1])
    return np.concatenate(advantages), np.concatenate(returns)


def train(trajectories: list[dict], actions: int, epochs: int, critic_epochs: int) -> Policy:
    """Train the critic, and after ``critic_epochs`` also the actor, which imitates good actions.

    The actor's loss weights each action by exp(advantage / temperature).
    """
    observations = np.concatenate([t["observations"] for t in trajectories]).astype(np.float32)
    taken = torch.as_tensor(np.concatenate([t["actions"] for t in trajectories]))
    seen = torch.as_tensor(observations)
    policy, critic = Policy(seen.shape[1], actions), network(seen.shape[1], 1)
    policy.mean.copy_(seen.mean(0))
    policy.std.copy_(seen.std(0) + 1e-6)
    standard = (seen - policy.mean) / policy.std
    scale = float(np.mean([t["rewards"].sum() for t in trajectories])) or 1.0

    def value(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            x = (torch.as_tensor(rows.astype(np.float32)) - policy.mean) / policy.std
            return critic(x)[:, 0].numpy() * scale

    optimizer = torch.optim.Adam([*policy.parameters(), *critic.parameters()], lr=1e-3)
    for epoch in range(critic_epochs + epochs):
        advantages, returns = targets(trajectories, value)
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-5)
        counts = np.exp(np.minimum(advantages / TEMPERATURE, np.log(MAX_WEIGHT)))
        if epoch < critic_epochs:
            counts[:] = 0
        counts = torch.as_tensor(counts, dtype=torch.float32)
        goal = torch.as_tensor(returns / scale, dtype=torch.float32)
        for rows in torch.randperm(len(seen)).split(256):
            logprobs = policy(seen[rows]).log_softmax(1)
            likelihood = logprobs.gather(1, taken[rows, None])[:, 0]
            error = (critic(standard[rows])[:, 0] - goal[rows]).square().mean()
            loss = error - (counts[rows] * likelihood).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if (epoch + 1) % 10 == 0:
            print(f"  pass {epoch + 1}: loss {loss.item():.3f}, critic's error {error.item():.3f}")
    return policy


def score(path: Path, episodes: int) -> None:
    """Play the policy of a file in textenv's loop, and print its mean return."""
    import gymnasium as gym

    import textenv  # noqa: F401  (registers its environments)
    from textenv.algos.evaluation.measure import episode_returns

    saved = json.loads(path.read_text(encoding="utf-8"))
    weights = {name: torch.tensor(value) for name, value in saved["weights"].items()}
    policy = Policy(len(weights["mean"]), len(weights["actor.4.bias"]))
    policy.load_state_dict(weights)

    def play(observation, deterministic=False):
        with torch.no_grad():
            logits = policy(torch.as_tensor(observation, dtype=torch.float32))
        if deterministic:
            return int(logits.argmax()), {}
        return int(torch.distributions.Categorical(logits=logits).sample()), {}

    env = gym.make(saved["env_id"], **saved["env_kwargs"])
    returns = episode_returns(play, env, episodes, seed=10**6)
    print(f"mean return of the data  {saved['data_return']:8.1f}")
    print(f"trained from it, greedy  {returns.mean():8.1f}  ({episodes} episodes)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path("runs/rollouts_to_offline")
    parser.add_argument("folder", type=Path, nargs="?", default=default / "rollouts")
    parser.add_argument("--weights", type=Path, default=default / "torch_policy.json")
    parser.add_argument("--score", action="store_true", help="play the trained policy")
    parser.add_argument("--episodes", type=int, default=20, help="how many to play")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--critic-epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the networks are too small to share out
    if args.score:
        return score(args.weights, args.episodes)
    trajectories, source = read(args.folder)
    if source["action_space"]["type"] != "Discrete":
        raise SystemExit(f"this example is for Discrete actions, got {source['action_space']}")
    steps = sum(len(t["rewards"]) for t in trajectories)
    ended = sum(t["ended"] for t in trajectories)
    rewards = sum(float(t["rewards"].sum()) for t in trajectories)
    print(f"{len(trajectories)} trajectories of {source['env_id']}, {steps} transitions")
    policy = train(trajectories, source["action_space"]["n"], args.epochs, args.critic_epochs)
    saved = {
        "env_id": source["env_id"],
        "env_kwargs": source["env_kwargs"],
        "data_return": rewards / max(1, ended),
        "weights": {name: value.tolist() for name, value in policy.state_dict().items()},
    }
    args.weights.parent.mkdir(parents=True, exist_ok=True)
    args.weights.write_text(json.dumps(saved), encoding="utf-8")
    print(f"the weights are in {args.weights}; --score plays them")


if __name__ == "__main__":
    main()
