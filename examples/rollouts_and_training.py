"""One rollout and one update by hand: environment, policy, coordinator, buffer, trainer.

The reward is the number of words, so an update makes longer answers more likely.

    python examples/rollouts_and_training.py
"""

from textenv import TextGenerationEnv
from textenv.algos import (
    RolloutCoordinator,
    RolloutRunner,
    Trainer,
    create_policy,
    create_strategy,
    grpo,
    load_model,
)

model, tokenizer = load_model("tiny-lm")
policy_fn = create_policy(model, tokenizer, {"max_tokens": 25})


def create_env():
    """An environment with two prompts; each word of an answer earns 1."""
    prompts = ["What is AI?", "Explain neural networks"]

    def reward_fn(prompt, completion, example, **kwargs):
        return float(len(completion.split()))

    return TextGenerationEnv(prompts, reward_fn, tokenizer=tokenizer)


coordinator = RolloutCoordinator(
    create_env, lambda: policy_fn, algorithm="grpo", num_workers=0, max_steps=100
)
buffer = coordinator.collect()
print(f"{len(buffer)} trajectories in groups of 8")

trainer = Trainer(
    model=model,
    advantage_fn=grpo.compute_advantages,
    loss_fn=grpo.policy_loss,
    optimizer=None,  # AdamW
    buffer=buffer,
)  # on_policy=True by default: clears the buffer after each train()
metrics = trainer.train()
print(f"one update: gradient norm {metrics['grad_norm']:.3f}, buffer now {len(buffer)}")

runner = RolloutRunner(create_env(), policy_fn, create_strategy("grpo"), max_steps=50)
for trajectory in list(runner.collect())[:3]:
    print(f"{trajectory.prompt!r} -> {trajectory.actions[0]!r}: {trajectory.total_reward}")
