"""The plain loop: run a language model in an environment, and keep what happened.

python examples/plain_loop.py  # a few seconds
"""

import gymnasium as gym

from textenv.algos import create_policy, load_model

env = gym.make("textenv:TextGen-v0")
policy = create_policy(*load_model("tiny-lm"), {"max_tokens": 25, "seed": 7})

obs, info = env.reset(seed=0)
done = False
trajectory = []

while not done:
    action, extras = policy(obs)
    next_obs, reward, terminated, truncated, info = env.step(action)
    trajectory.append((obs, action, reward))
    obs, done = next_obs, terminated or truncated

for obs, action, reward in trajectory:
    print(f"{obs!r} -> {action!r}: reward {reward}")
print(f"tokens {extras['token_ids']}, log-probabilities {extras['token_logprobs']}")
