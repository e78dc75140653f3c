"""What parts tell of themselves reaches the metrics of each step, and no sum over steps."""

from __future__ import annotations

from textenv.algos import GRPOConfig, GRPOTrainer
from textenv.algos.strategies.counts import summarize


def test_metrics_of_parts_step_by_step(fresh):
    config = GRPOConfig(
        max_steps=3,
        num_prompts=4,
        num_generations=2,
        max_completion_length=4,
        strategy=("curriculum:start=3", "top_entropy", "replay"),
    )
    trainer = GRPOTrainer(fresh[0], "TextGen-v0", config, tokenizer=fresh[1])
    trainer.train()
    trainer.close()
    for row in trainer.history:
        assert row["strategy/curriculum/level"] == 3
        assert row["strategy/top_entropy/threshold"] > 0
        assert row["strategy/replay/groups"] == row["strategy/groups_reused"]
    assert not any("curriculum" in name for name in summarize(trainer.history))
    assert summarize(trainer.history)["groups"] == 12
