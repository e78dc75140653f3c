"""Parts that choose the prompts of a rollout."""
