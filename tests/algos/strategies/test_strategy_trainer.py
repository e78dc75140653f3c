"""Strategies in GRPO from end to end: metrics, empty rollouts, save and restore, a run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.algos.shared import make_env, same_weights, vowels, weights_of
from textenv import TextGenerationEnv
from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, load_model
from textenv.algos.cli import main
from textenv.algos.config import from_table, to_table
from textenv.algos.strategies.counts import summarize
from textenv.errors import ConfigError, DataError, MissingFileError

SMALL = {
    "num_prompts": 4,
    "num_generations": 8,
    "max_completion_length": 6,
    "warmup_steps": 0,
    "learning_rate": 1e-3,
}
PARTS = ("greso", "dapo:cap=3", "pods:keep=4", "overlong", "replay")


def always(prompt, completion, example):
    return 1.0


def make_trainer(model, tokenizer, reward_fn=vowels, **settings):
    config = GRPOConfig(**{**SMALL, "max_steps": 2, **settings})
    return GRPOTrainer(model, make_env(reward_fn), config, tokenizer=tokenizer)


def test_plain_grpo_counts_what_it_takes(fresh):
    rollouts = []
    trainer = make_trainer(*fresh)
    trainer._on_step = lambda metrics, rollout: rollouts.append(rollout)
    history = trainer.train()
    for metrics, rollout in zip(history, rollouts):
        tokens = sum(len(t.token_ids) for t in rollout)
        prompts = sum(len(t.prompt_ids) for t in rollout.trajectories[::8])
        assert metrics["strategy/rounds"] == 1
        assert metrics["strategy/groups"] == 4
        assert metrics["strategy/tokens_generated"] == metrics["strategy/tokens_trained"] == tokens
        assert metrics["strategy/tokens_computed"] == tokens + prompts
        assert metrics["strategy/tokens_discarded"] == metrics["strategy/prompts_skipped"] == 0
        assert metrics["strategy/frac_groups_uniform"] == metrics["frac_reward_zero_std"]
    total = summarize(history)
    assert total["tokens_generated"] == history[-1]["num_tokens"]
    assert summarize([]) == {}


def test_pods_trains_on_some_and_reports_of_all(fresh):
    kept = []
    trainer = make_trainer(*fresh, strategy=("pods:keep=2",))
    trainer._on_step = lambda metrics, rollout: kept.append(rollout)
    history = trainer.train()
    for metrics, rollout in zip(history, kept):
        played = rollout.played
        assert (len(played), len(rollout)) == (32, 8)
        assert metrics["reward"] == pytest.approx(np.mean([t.total_reward for t in played]))
        assert metrics["completions/count"] == 32
        for first in range(0, 32, 8):
            rewards = [t.total_reward for t in played[first : first + 8]]
            chosen = [t.total_reward for t in rollout if t.group_id == played[first].group_id]
            assert sorted(chosen) == [min(rewards), max(rewards)]
        trained = sum(len(t.token_ids) for t in rollout)
        assert metrics["strategy/tokens_trained"] == trained
        discarded = metrics["strategy/tokens_generated"] - trained
        assert metrics["strategy/tokens_discarded"] == discarded > 0


def test_a_task_that_is_always_solved_trains_nothing_and_ends(fresh, tmp_path):
    model, tokenizer = fresh
    config = GRPOConfig(**SMALL, max_steps=3, strategy=("dapo:cap=2",))
    env = make_env(always)
    trainer = GRPOTrainer(model, env, config, tokenizer=tokenizer, export_to=tmp_path)
    before = weights_of(model)
    with pytest.warns(UserWarning, match=r"cap \(2\) with 0 of 4 groups"):
        history = trainer.train()
    assert [m["step"] for m in history] == [1, 2, 3]
    assert same_weights(before, weights_of(model))
    for metrics in history:
        assert metrics["strategy/groups_missing"] == 4
        assert metrics["strategy/groups"] == metrics["groups"] == 8
        assert metrics["reward"] == 1 and "loss" not in metrics
    assert summarize(history)["groups"] == 24
    assert summarize(history)["frac_groups_uniform"] == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_a_training_saved_and_restored_rolls_out_equally(fresh, tmp_path):
    trainer = make_trainer(*fresh, strategy=PARTS)
    trainer.train()
    trainer.save(tmp_path)
    model, tokenizer = load_model(tmp_path)
    other = make_trainer(model, tokenizer, strategy=PARTS)
    other.load_strategy(tmp_path)
    plain = make_trainer(model, tokenizer, strategy=PARTS)
    for _ in range(2):
        expected, again = trainer._runner.collect(), other._runner.collect()
        assert expected == again
        assert {t.policy_version for t in again.played} == {2}
        assert expected.counts.metrics() == again.counts.metrics()
    assert plain._runner.collect() != expected
    trainer, other = (make_trainer(*fresh, strategy=PARTS) for _ in range(2))
    trainer.load_strategy(tmp_path)
    assert trainer.train()[-1]["step"] == 2
    assert trainer._runner.policy_version == 4  # staleness goes on being counted


def test_states_that_cannot_be_restored(fresh, tmp_path):
    trainer = make_trainer(*fresh, strategy=("dapo:cap=3",))
    with pytest.raises(MissingFileError, match=r"strategy\.json is not a file"):
        trainer.load_strategy(tmp_path)
    trainer.save(tmp_path)
    with pytest.raises(ConfigError, match=r"strategy\.json: the state is of another strategy"):
        make_trainer(*fresh, strategy=("dapo:cap=2",)).load_strategy(tmp_path)
    with pytest.raises(ConfigError, match=r"of 4 groups; this one has 5"):
        make_trainer(*fresh, strategy=("dapo:cap=3",), num_prompts=5).load_strategy(tmp_path)
    path = tmp_path / "strategy.json"
    for text in ('{"format"', "[]", '{"format": "other"}', '{"format": "textenv.strategy"}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"strategy\.json"):
            trainer.load_strategy(tmp_path)
    make_trainer(*fresh).save(tmp_path / "plain")
    assert not (tmp_path / "plain" / "strategy.json").exists()


def test_the_config_checks_its_strategy_and_goes_through_toml():
    config = GRPOConfig(strategy=("dapo:cap=3", "pods:keep=2"))
    assert from_table(GRPOConfig, to_table(config), "here") == config
    assert from_table(GRPOConfig, {"strategy": ["drop"]}, "here").strategy == ("drop",)
    with pytest.raises(
        ConfigError, match=r"strategy: unknown strategy part 'dapoo'.*Known: .*pods"
    ):
        GRPOConfig(strategy=("dapoo",))
    with pytest.raises(ConfigError, match=r"strategy: .*cap must be at least 1, got 0"):
        GRPOConfig(strategy=("dapo:cap=0",))


def test_the_command_line(tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["train", "--max-steps", "2", "--num-prompts", "4", "--num-generations", "4"]
    argv += ["--eval-examples", "0", "--strategy", "drop", "pods:keep=2", "--out", str(out)]
    assert main(argv) == 0
    assert "strategy drop pods:keep=2" in capsys.readouterr().out
    spent = json.loads((out / "summary.json").read_text())["strategy"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for name in ("tokens_generated", "tokens_discarded", "tokens_trained", "prompts_skipped"):
        assert spent[name] == sum(row[f"strategy/{name}"] for row in rows)
    assert spent["groups"] == 8 and 0 <= spent["frac_groups_uniform"] <= 1
    assert (out / "model" / "strategy.json").is_file()
    again = tmp_path / "again"
    assert main(["train", "--config", str(out / "config.toml"), "--out", str(again)]) == 0
    assert json.loads((again / "summary.json").read_text())["strategy"] == spent
    assert main(["train", "--strategy", "podds"]) == 2
    assert "did you mean 'pods'" in capsys.readouterr().err


def test_ppo_takes_no_strategy(fresh, capsys):
    """It has no weights of tokens, and no trees: nothing may ask it for them."""
    with pytest.raises(TypeError, match="strategy"):
        PPOConfig(strategy=("top_entropy",))
    with pytest.raises(SystemExit) as stop:
        main(["train", "--algo", "ppo", "--strategy", "top_entropy"])
    assert stop.value.code == 2 and "--strategy" in capsys.readouterr().err
    env = TextGenerationEnv(["1+1="], lambda **_: 1.0)
    trainer = PPOTrainer(fresh[0], env, PPOConfig(), tokenizer=fresh[1])
    strategy = trainer._runner.strategy
    assert strategy.parts == [] and strategy.num_generations == 1
    trainer.close()
