"""Prompts of a dataset that do not fit the model's context."""

import json

import gymnasium as gym
import pytest

from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, create_policy, load_model
from textenv.algos.lm.models.properties import context_length
from textenv.algos.rollouts.prompts import check_prompts
from textenv.errors import DataError


@pytest.fixture(scope="module")
def policy():
    return create_policy(*load_model("tiny-lm"), {"max_tokens": 4})


def make(prompts, **kwargs):
    return gym.make("textenv:TextGen-v0", prompts=prompts, reward_fn="length", **kwargs)


def test_a_prompt_that_just_fits_and_one_that_does_not(policy):
    room = context_length(policy.model) - 4  # tiny-lm has one token for each character
    own = len(policy.encode("1")) - 1
    check_prompts(policy, make(["1+1=", "1" * (room - own)]))
    with pytest.raises(DataError, match=r"prompts, row 1: a prompt of \d+ tokens .*leave the row"):
        check_prompts(policy, make(["1+1=", "1" * (room - own + 1), "2" * (room + 100)]))


def test_only_the_split_that_is_played_is_checked(policy):
    prompts = [str(i) for i in range(50)]
    ids = {split: make(prompts, split=split).unwrapped.task.ids for split in ("train", "test")}
    room = context_length(policy.model)
    for number in range(100):  # a prompt that falls in the test split
        prompts = [*prompts[:50], "1" * (room + number)]
        if 50 in make(prompts, split="test").unwrapped.task.ids:
            break
    check_prompts(policy, make(prompts, split="train"))
    with pytest.raises(DataError, match="row 50"):
        check_prompts(policy, make(prompts, split="test"))
    assert ids["train"]


def test_what_has_no_end_is_not_checked(policy):
    check_prompts(policy, gym.make("textenv:TextGen-v0", task="arithmetic"))
    check_prompts(policy, gym.make_vec("textenv:TextGen-v0", 2, prompts=["1"], reward_fn="length"))


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_a_training_does_not_begin(tmp_path, kind):
    rows = [{"prompt": f"{i}+1=", "answer": "1"} for i in range(20)]
    rows[7]["prompt"] = "1" * 5000
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = []
    given = {
        "env": "textenv:TextGen-v0",
        "env_kwargs": {"dataset": str(path), "reward_fn": "exact_match"},
        "on_step": lambda *_: steps.append(1),
    }
    if kind == "grpo":
        config = GRPOConfig(max_steps=1, num_prompts=1, num_generations=2, max_completion_length=2)
        trainer = GRPOTrainer("tiny-lm", config=config, **given)
    else:
        config = PPOConfig(total_timesteps=2, n_steps=2, batch_size=2, max_completion_length=2)
        trainer = PPOTrainer("tiny-lm", config=config, **given)
    with pytest.raises(DataError, match=r"rows.jsonl, row 8: a prompt of \d+ tokens"):
        trainer.train()
    assert not steps and not trainer.history
