"""PPO on CartPole, native and of Stable-Baselines3, with the same settings and the same judge.

    python examples/cartpole_beside_sb3.py --total-timesteps 20480

It needs the extra ``sb3``. Both agents are trained in the rollout loop of this package;
``SB3Trainer`` comes to the very weights of ``model.learn()``. `textenv compare` does this over
several seeds, with intervals.
"""

import argparse
import time

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from textenv.algos import PPOConfig, PPOTrainer, SB3Trainer
from textenv.wrappers.sb3 import as_sb3_policy

ENV = "CartPole-v1"


def main():
    """Train both, and let Stable-Baselines3 measure both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--total-timesteps", type=int, default=20_480)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # networks this small are slower on several

    config = PPOConfig(
        total_timesteps=args.total_timesteps, n_steps=1024, num_envs=8, n_epochs=10, seed=args.seed
    )
    native = PPOTrainer("mlp", ENV, config)
    began = time.perf_counter()
    native.train()
    report("native PPO", as_sb3_policy(native.policy), began, args.seed)

    # n_steps counts each environment there, and all of them together here
    envs = make_vec_env(ENV, 8, seed=args.seed)
    model = PPO("MlpPolicy", envs, n_steps=128, n_epochs=10, seed=args.seed, device="cpu")
    began = time.perf_counter()
    SB3Trainer(model, args.total_timesteps).train()
    report("Stable-Baselines3", model, began, args.seed)


def report(name, policy, began, seed):
    """Print the mean return of ten episodes, and the seconds of the training."""
    seconds = time.perf_counter() - began
    mean, deviation = evaluate_policy(policy, make_vec_env(ENV, 1, seed=seed + 1000), 10)
    print(f"{name}: return {mean:.0f} +/- {deviation:.0f} after {seconds:.1f} s")


if __name__ == "__main__":
    main()
