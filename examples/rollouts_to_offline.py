r"""Offline training: write rollouts to files, and train a better policy from the files alone.

    python examples/rollouts_to_offline.py                        # about 20 seconds
    python examples/rollouts_to_offline.py --env Acrobot-v1 --method filtered_bc

It has four stages:

1. PPO collects five rollouts of 2048 steps with 8 agents, and writes each rollout to a file before
   it updates its policy. After five updates PPO has only begun to learn, so the data is mediocre.
2. A new policy is trained from the files alone, by advantage-weighted regression.
3. The new policy is saved and loaded.
4. It plays 20 episodes. Its mean return is higher than that of the data.

The same training on the command line:

    textenv train --algo ppo --env CartPole-v1 --num-envs 8 --n-steps 2048 \
        --total-timesteps 10240 --out runs/ppo
    textenv train --from-rollouts runs/ppo/rollouts --rollouts 5 --out runs/offline
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np

from textenv.algos import (
    OfflineConfig,
    OfflineTrainer,
    PPOConfig,
    PPOTrainer,
    load_policy,
    load_rollouts,
)
from textenv.algos.evaluation.measure import episode_returns

_EVALUATION_SEED = 10**6  # far from those of training


def collect(env_id: str, folder: Path, rollouts: int, n_steps: int, agents: int, seed: int) -> None:
    """Train PPO, and write each of its rollouts to a file in the folder."""
    total = 0

    def on_step(metrics: dict[str, float], rollout) -> None:
        nonlocal total
        total += rollout.num_transitions
        print(
            f"  PPO update {len(trainer.history) - 1}: "
            f"policy_loss={metrics['train/policy_gradient_loss']:.4f} "
            f"value_loss={metrics['train/value_loss']:.4f}, exported {rollout.num_transitions} "
            f"transitions to {trainer.exporter.last.name} ({total} in all)"
        )

    config = PPOConfig(
        total_timesteps=rollouts * n_steps, num_envs=agents, n_steps=n_steps, seed=seed
    )
    trainer = PPOTrainer("mlp", env=env_id, config=config, on_step=on_step, export_to=folder)
    trainer.train()
    trainer.close()


def train_offline(folder: Path, rollouts: int, method: str, epochs: int, seed: int):
    """Train a policy from the files of the folder; the trainer holds it."""
    data = load_rollouts(folder, count=rollouts)
    trainer = OfflineTrainer(data, OfflineConfig(method=method, epochs=epochs, seed=seed))
    print(f"  {trainer.describe()}")
    whole = [e.trajectory.total_reward for e in trainer.episodes if e.whole]
    print(f"  data: {len(whole)} whole episodes, mean return {np.mean(whole):.1f}")
    trainer.train()
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--out", type=Path, default=Path("runs/rollouts_to_offline"))
    parser.add_argument("--method", default="awr", choices=["awr", "filtered_bc", "bc"])
    parser.add_argument("--rollouts", type=int, default=5)
    parser.add_argument("--n-steps", type=int, default=2048, help="of all agents together")
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder, model = args.out / "rollouts", args.out / "model"
    for earlier in folder.glob("rollout_*.json"):  # of an earlier run of this example
        earlier.unlink()

    print(f"1. collect {args.rollouts} rollouts of {args.n_steps} steps, {args.agents} agents")
    collect(args.env, folder, args.rollouts, args.n_steps, args.agents, args.seed)

    print(f"2. train offline from {folder}")
    trainer = train_offline(folder, args.rollouts, args.method, args.epochs, args.seed)
    trainer.save(model)

    print(f"3. load {model} back")
    policy = load_policy(model)

    print("4. evaluate")
    returns = episode_returns(policy, gym.make(args.env), 20, _EVALUATION_SEED)
    print(f"  mean return of the data  {trainer.data_return:8.1f}")
    print(f"  trained from it, greedy  {returns.mean():8.1f}  (20 episodes)")


if __name__ == "__main__":
    main()
