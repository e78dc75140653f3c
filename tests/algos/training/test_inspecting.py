"""What a training keeps for readers: advantages and ratios recomputed, and texts of tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.algos.shared import make_env, total, weights_of
from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, load_rollout
from textenv.algos.storage.inspection import load_inspection
from textenv.algos.training.inspecting import token_texts

SMALL = {"num_prompts": 2, "num_generations": 4, "max_completion_length": 6, "warmup_steps": 0}


def inspected(folder):
    """The rollouts of a run and their inspections, in their order."""
    files = sorted((folder / "rollouts").iterdir())
    return [(load_rollout(file), load_inspection(file)) for file in files]


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_advantages_and_ratios_of_grpo(fresh, tmp_path, plain_logprobs, micro_batch_size):
    model, tokenizer = fresh
    config = GRPOConfig(**SMALL, max_steps=3, learning_rate=1e-2, micro_batch_size=micro_batch_size)
    places = {"export_to": tmp_path / "rollouts", "export_every": 2, "out": tmp_path}
    trainer = GRPOTrainer(model, make_env(total), config, tokenizer=tokenizer, **places)
    trainer.train()
    (_, first), (rollout, last) = inspected(tmp_path)
    assert (first.step, last.step) == (1, 3)
    assert len(last.rows) == len(rollout) == 8
    moved = 0.0
    for start in (0, 4):
        rewards = np.array([t.total_reward for t in rollout.trajectories[start : start + 4]])
        expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        found = [row.advantage for row in last.rows[start : start + 4]]
        assert found == pytest.approx(expected.tolist(), rel=1e-4)
    for row, t in zip(last.rows, rollout):
        # The model is now what the last update made of it.
        now = plain_logprobs(model, t.prompt_ids, t.token_ids)
        expected = np.exp(now - np.array(t.token_logprobs))
        assert row.token_ratios == pytest.approx(expected.tolist(), rel=1e-3)
        assert row.token_advantages is None and row.expected is None
        assert "".join(row.token_texts) == tokenizer.decode(t.token_ids)
        moved = max(moved, np.abs(expected - 1).max())
    assert moved > 0.01  # so that ratios of 1 everywhere would have failed


def test_looking_changes_nothing_that_is_trained(fresh, tmp_path):
    import copy

    model, tokenizer = fresh
    other = copy.deepcopy(model)
    config = GRPOConfig(**SMALL, max_steps=2, learning_rate=1e-2, lora_rank=2, lora_dropout=0.5)
    places = {"export_to": tmp_path / "rollouts", "out": tmp_path}
    GRPOTrainer(model, make_env(total), config, tokenizer=tokenizer, **places).train()
    GRPOTrainer(other, make_env(total), config, tokenizer=tokenizer).train()
    looked, plain = weights_of(model), weights_of(other)
    assert all(np.array_equal(looked[name], plain[name]) for name in plain)


def test_trees_have_the_advantages_of_their_tokens_and_shared_ones_those_of_the_parent(
    fresh, tmp_path
):
    model, tokenizer = fresh
    config = GRPOConfig(**SMALL, max_steps=1, strategy=("tree:chains=1",), learning_rate=1e-2)
    places = {"export_to": tmp_path / "rollouts", "out": tmp_path}
    trainer = GRPOTrainer(model, make_env(total), config, tokenizer=tokenizer, **places)
    trainer.train()
    [(rollout, found)] = inspected(tmp_path)
    rows, trajectories = found.rows, rollout.trajectories
    groups = {}
    for row, t in zip(rows, trajectories):
        groups.setdefault(t.group_id, []).append((row, t))
    branches = 0
    for members in groups.values():
        for row, t in members:
            own = row.token_advantages or [row.advantage] * len(t.token_ids)
            assert len(own) == len(row.token_ratios) == len(t.token_ids)
            if t.parent is None or not t.branch_at:
                continue
            branches += 1
            above, parent = members[t.parent]
            theirs = above.token_advantages or [above.advantage] * len(parent.token_ids)
            assert own[: t.branch_at] == theirs[: t.branch_at]
            assert row.token_ratios[: t.branch_at] == above.token_ratios[: t.branch_at]
    assert branches


def test_a_step_without_signal_has_advantages_of_0_and_no_ratios(fresh, tmp_path):
    model, tokenizer = fresh
    config = GRPOConfig(**SMALL, max_steps=1)
    places = {"export_to": tmp_path / "rollouts", "out": tmp_path}
    env = make_env(lambda prompt, completion, example: 1.0)
    GRPOTrainer(model, env, config, tokenizer=tokenizer, **places).train()
    [(_, found)] = inspected(tmp_path)
    assert {row.advantage for row in found.rows} == {0.0}
    assert all(row.token_ratios is None for row in found.rows)


def test_ppo_on_text_has_advantages_of_tokens(fresh, tmp_path, plain_logprobs):
    model, tokenizer = fresh
    config = PPOConfig(
        n_steps=8, total_timesteps=8, batch_size=8, n_epochs=1, max_completion_length=6, gamma=1.0
    )
    places = {"export_to": tmp_path / "rollouts", "out": tmp_path}
    PPOTrainer(model, make_env(total), config, tokenizer=tokenizer, **places).train()
    [(rollout, found)] = inspected(tmp_path)
    assert found.step == 1
    tokens = []
    for row, t in zip(found.rows, rollout):
        now = plain_logprobs(model, t.prompt_ids, t.token_ids)
        expected = np.exp(now - np.array(t.token_logprobs))
        assert row.token_ratios == pytest.approx(expected.tolist(), rel=1e-3)
        tokens += row.token_advantages or [row.advantage] * len(t.token_ids)
    assert np.mean(tokens) == pytest.approx(0, abs=1e-4)  # they are standardised
    assert np.std(tokens, ddof=1) == pytest.approx(1, abs=1e-3)


def test_without_a_folder_nothing_is_kept(fresh, tmp_path):
    model, tokenizer = fresh
    config = GRPOConfig(**SMALL, max_steps=1)
    folder = tmp_path / "rollouts"
    GRPOTrainer(model, make_env(total), config, tokenizer=tokenizer, export_to=folder).train()
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts"]


def test_the_expected_answer_is_that_of_the_example(fresh, tmp_path):
    from textenv import TextGenerationEnv

    prompts = ["1+1=", "2+2="]
    env = TextGenerationEnv(prompts, total, examples=[{"answer": "2"}, {"answer": ["4", 4]}])
    config = GRPOConfig(**SMALL, max_steps=1)
    places = {"export_to": tmp_path / "rollouts", "out": tmp_path}
    GRPOTrainer(fresh[0], env, config, tokenizer=fresh[1], **places).train()
    [(rollout, found)] = inspected(tmp_path)
    for row, t in zip(found.rows, rollout):
        assert row.expected == ("2" if t.prompt == "1+1=" else ["4", 4])


# --- texts of tokens --------------------------------------------------------------------------


def by_bytes(ids):
    """A tokenizer whose tokens are bytes."""
    return bytes(ids).decode("utf-8", "replace")


@pytest.mark.parametrize("text", ["12", "é漢🙂a", "\x1b[31m\u202e</script>", "", "🙂" * 3])
def test_texts_of_bytes_make_the_text(text):
    ids = list(text.encode())
    texts = token_texts(by_bytes, ids)
    assert len(texts) == len(ids) and "".join(texts) == text
    ends = [i for i, piece in enumerate(texts) if piece]
    assert len(ends) == len(text)  # each character at the byte that completes it


def test_bytes_that_are_no_text_end_as_such():
    ids = [97, 0xF0, 0x9F, 98, *[0xFF] * 50]
    texts = token_texts(by_bytes, ids)
    assert len(texts) == len(ids) and texts[0] == "a"
    assert "".join(texts).startswith("a\ufffd")
    assert token_texts(by_bytes, [97, 0xF0, 0x9F])[0] == "a"


def test_a_space_that_is_left_out_at_the_beginning():
    words = {0: " one", 1: " two", 2: "<eos>"}

    def decode(ids):
        return "".join(words[i] for i in ids).removeprefix(" ")

    assert token_texts(decode, [0, 1, 0, 2]) == ["one", " two", " one", "<eos>"]


def test_the_inspection_is_json_lines(fresh, tmp_path):
    """So that other programs can read it."""
    import gzip

    config = GRPOConfig(**SMALL, max_steps=1)
    places = {"export_to": tmp_path / "rollouts", "out": tmp_path}
    GRPOTrainer(fresh[0], make_env(total), config, tokenizer=fresh[1], **places).train()
    [path] = (tmp_path / "inspection").iterdir()
    head, *rows = map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
    assert head["num_trajectories"] == len(rows) == 8
