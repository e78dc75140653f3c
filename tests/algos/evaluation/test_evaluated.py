"""A training that goes back from a collapse goes by held-out answers, whatever is paid."""

import pytest

from tests.algos.shared import make_env, same_weights, weights_of
from textenv import TextGenerationEnv
from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer

SMALL = {
    **{"max_completion_length": 4, "learning_rate": 1e-3, "stop_on_collapse": True},
    **{"eval_steps": 2, "eval_examples": 40, "eval_share": 1.0},
}
GRPO = GRPOConfig(**SMALL, num_prompts=4, num_generations=4, warmup_steps=0, max_steps=20)
PPO = PPOConfig(**SMALL, total_timesteps=320, n_steps=16, batch_size=16, n_epochs=1)


def held_out(*rights):
    """40 prompts, of whose answers so many are right in each evaluation, whatever they are."""
    calls = iter(range(10_000))

    def is_right(prompt, completion, example):
        call = next(calls)
        return float(call % 40 < rights[call // 40])

    is_right.verifies = True
    return TextGenerationEnv([f"{i}=" for i in range(40)], is_right)


def more_and_more():
    """A reward that grows from one completion to the next, so that each rollout seems the best."""
    calls = iter(range(10_000))
    return lambda prompt, completion, example: float(next(calls))


@pytest.mark.parametrize(("make", "config"), [(GRPOTrainer, GRPO), (PPOTrainer, PPO)])
@pytest.mark.parametrize(
    ("before", "after", "best"),
    [
        ((24,), (20, 18, 2), 0),  # it was never as good as at the beginning
        ((24,), (28, 18, 2), 2),
        ((), (24, 28, 2), 4),
        ((), (24, 2), 2),  # what was before is not known
    ],
)
def test_the_weights_of_the_best_evaluation_come_back(fresh, make, config, before, after, best):
    model, tokenizer = fresh
    at = {0: weights_of(model)}

    def on_step(metrics, rollout):
        at[len(at)] = weights_of(model)

    env = make_env(more_and_more())
    held = held_out(*before, *after)
    trainer = make(model, env, config, tokenizer=tokenizer, eval_env=held, on_step=on_step)
    for right in before:
        assert trainer.evaluate().accuracy == right / 40
    trainer.train()
    last = 2 * len(after)
    assert trainer.stopped == (
        f"stopped at a collapse after {last} steps; the model is that of step {best}, whose "
        "evaluation was the best"
    )
    assert [(w.name, w.step) for w in trainer.warnings if w.name == "collapse"] == [
        ("collapse", last)
    ]
    assert same_weights(at[best], weights_of(model)) and not same_weights(at[best], at[last])
