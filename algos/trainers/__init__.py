"""Trainers: GRPO, PPO on control and on text, and the agents of Stable-Baselines3."""
