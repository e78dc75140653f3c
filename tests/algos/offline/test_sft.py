"""Supervised training on given answers: its loss, its gradient, its steps, and that it teaches."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.algos.lm.architectures import ARCHITECTURES, config_of
from tests.algos.lm.generation.shared import (
    byte_pair_tokenizer,
    config_for,
    family,
    llama_config,
)
from textenv.algos import SFTConfig, SFTTrainer, load_model
from textenv.algos.lm.memory import watch
from textenv.algos.lm.memory.limits import MemoryLimit
from textenv.algos.lm.scoring.batch import BatchSize, make_batch
from textenv.algos.offline.sft import sft_loss
from textenv.algos.training.gradient import LocalGradient
from textenv.algos.training.microbatches import MicroBatch
from textenv.errors import ConfigError, ConfigTypeError, DataError, OutOfMemoryError

ROWS = [
    {"prompt": "12+30=", "answer": "42"},
    {"prompt": "a", "answer": "a long answer to it"},
    {"prompt": "12+30=", "answer": "forty two"},  # shares its prompt with the first
    {"prompt": "the longest of these prompts = ", "answer": "b"},
    {"prompt": "a", "answer": "-"},
]
TALK = [
    {"role": "user", "content": "the dog"},
    {"role": "assistant", "content": "jumps over"},
    {"role": "user", "content": "who?"},
    {"role": "assistant", "content": "the fox, the brown fox"},
]
CHATS = [{"messages": TALK}, {"messages": TALK[:2]}, {"prompt": "they", "answer": "think"}]


@pytest.fixture
def chat_model(random_model):
    """A random Llama with a byte-pair tokenizer and a chat template."""
    tokenizer = byte_pair_tokenizer()
    return random_model(**llama_config(tokenizer)), tokenizer


def make(model, rows=ROWS, **settings):
    """A trainer of (model, tokenizer), of which nothing else is changed."""
    eval_rows = settings.pop("eval_rows", ())
    on_step = settings.pop("on_step", None)
    config = SFTConfig(**{"learning_rate": 1e-3, "batch_size": len(rows), **settings})
    return SFTTrainer(
        model[0], rows, config, tokenizer=model[1], eval_rows=eval_rows, on_step=on_step
    )


def by_hand(model, trajectories):
    """(loss, accuracy, entropy) over the tokens of the answers, a plain forward for each row."""
    import mlx.core as mx

    losses, hits, entropies = [], [], []
    for t in trajectories:
        ids = [*t.prompt_ids, *t.token_ids]
        logits = np.array(model(mx.array([ids]))[0], np.float64)
        for place, (token, own) in enumerate(zip(t.token_ids, t.token_mask)):
            if own:
                row = logits[len(t.prompt_ids) - 1 + place]
                logprobs = row - row.max() - np.log(np.exp(row - row.max()).sum())
                losses.append(-logprobs[token])
                hits.append(row.argmax() == token)
                entropies.append(-(np.exp(logprobs) * logprobs).sum())
    return np.mean(losses), np.mean(hits), np.mean(entropies)


# --- the loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prompts", "chats"])
def test_loss_accuracy_and_entropy_are_those_of_plain_forwards(fresh, chat_model, kind):
    model, rows = (fresh, ROWS) if kind == "prompts" else (chat_model, CHATS)
    trainer = make(model, rows, epochs=1, eval_rows=rows)
    loss, accuracy, entropy = by_hand(model[0], trainer.trained_on)
    assert trainer.evaluate() == {
        "loss": pytest.approx(loss, rel=1e-5),
        "mean_token_accuracy": pytest.approx(accuracy),
        "entropy": pytest.approx(entropy, rel=1e-5),
        "rows": len(rows),
    }
    (metrics,) = trainer.train()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["mean_token_accuracy"] == pytest.approx(accuracy)
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-5)


@pytest.mark.filterwarnings("ignore:models of type:UserWarning")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures(random_model, tiny, name):
    """Sliding windows, capped logits, and those whose prompts cannot be shared."""
    trainer = make((random_model(**config_of(name)), tiny[1]), epochs=1)
    loss, accuracy, _ = by_hand(trainer.model, trainer.trained_on)
    (metrics,) = trainer.train()
    assert metrics["loss"] == pytest.approx(loss, rel=2e-5)
    assert metrics["mean_token_accuracy"] == pytest.approx(accuracy)


def test_loss_is_that_of_mlx_lm(fresh):
    import mlx.core as mx
    from mlx_lm.tuner.trainer import default_loss

    trainer = make(fresh, epochs=1)
    ids = [[*t.prompt_ids, *t.token_ids] for t in trainer.trained_on]
    batch = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, own in zip(batch, ids):
        row[: len(own)] = own
    lengths = [[len(t.prompt_ids), len(own) - 1] for t, own in zip(trainer.trained_on, ids)]
    expected, tokens = default_loss(fresh[0], mx.array(batch), mx.array(lengths))
    assert tokens.item() == sum(len(t.token_ids) for t in trainer.trained_on)
    assert trainer.train()[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


def labelled_loss(model, ids, labels):
    """Cross-entropy by labels of all tokens, -100 for none, in one plain forward."""
    import mlx.core as mx
    import mlx.nn as nn

    own = mx.array([label != -100 for label in labels[1:]])
    targets = mx.array([max(label, 0) for label in labels[1:]])
    losses = nn.losses.cross_entropy(model(mx.array([ids]))[0, :-1], targets)
    return mx.where(own, losses, 0.0).sum()


def gradients_of(model, trajectories, parts):
    """The gradient by `LocalGradient`, of a batch that is cut into some parts."""
    batch = make_batch(trajectories)
    whole = BatchSize(len(batch), float(batch.mask.sum()))
    pieces = [batch.take(rows) for rows in np.array_split(np.arange(len(batch)), parts)]
    micro = [MicroBatch(piece, np.ones(len(piece)), whole, None) for piece in pieces]
    return LocalGradient(model, sft_loss).gradient(micro)[1]


@pytest.mark.parametrize("kind", ["prompts", "chats"])
def test_gradient_is_that_of_plain_forwards_without_the_prompts(fresh, chat_model, kind):
    """A prompt's own tokens, and what stands between answers, have no part in it."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    (model, tokenizer), rows = (fresh, ROWS) if kind == "prompts" else (chat_model, CHATS)
    trajectories = make((model, tokenizer), rows).trained_on
    tokens = sum(sum(t.token_mask) for t in trajectories)

    def plain(model):
        total = mx.zeros(())
        for t in trajectories:
            ids = [*t.prompt_ids, *t.token_ids]
            mask = [*[0] * len(t.prompt_ids), *t.token_mask]
            labels = [token if own else -100 for token, own in zip(ids, mask)]
            total = total + labelled_loss(model, ids, labels)
        return total / tokens

    expected = dict(tree_flatten(nn.value_and_grad(model, plain)(model)[1]))
    for parts in (1, 2, len(trajectories)):
        found = dict(tree_flatten(gradients_of(model, trajectories, parts)))
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            scale = np.abs(np.array(expected[name])).max()
            np.testing.assert_allclose(gradient, expected[name], atol=2e-5 * max(scale, 1))


def test_a_label_of_a_prompt_token_changes_nothing(fresh):
    """Brute force: our loss is that of every labelling of the prompts that is not counted."""
    model, _ = fresh
    (t,) = make(fresh, ROWS[:1]).trained_on
    ids = [*t.prompt_ids, *t.token_ids]
    loss = make(fresh, ROWS[:1], eval_rows=ROWS[:1]).evaluate()["loss"] * len(t.token_ids)
    uncounted = [-100] * len(t.prompt_ids)
    assert labelled_loss(model, ids, [*uncounted, *t.token_ids]).item() == pytest.approx(loss)
    # The first token has no prediction. Of the others each label would count, if it were one.
    for place in range(1, len(t.prompt_ids)):
        for label in (3, 9):
            labels = [*uncounted, *t.token_ids]
            labels[place] = label
            assert labelled_loss(model, ids, labels).item() > loss + 1e-3


# --- steps -------------------------------------------------------------------------------------


def test_micro_batches_and_checkpointing_change_no_figure(fresh):
    runs = [
        make((copy.deepcopy(fresh[0]), fresh[1]), epochs=1, **settings).train()[0]
        for settings in ({}, {"micro_batch_size": 2}, {"gradient_checkpointing": True})
    ]
    for name in ("loss", "mean_token_accuracy", "entropy", "grad_norm"):
        values = [run[name] for run in runs]
        np.testing.assert_allclose(values, values[0], rtol=1e-4, err_msg=name)


def test_epochs_and_steps(fresh):
    seen = []
    trainer = make(fresh, epochs=3, batch_size=2, on_step=seen.append)
    history = trainer.train()
    assert history == seen == trainer.history and trainer.steps == 9
    assert [m["step"] for m in history] == list(range(1, 10))
    assert [round(3 * m["epoch"]) for m in history] == list(range(1, 10))
    assert all(m["step_time"] > 0 for m in history)
    tokens = sum(len(t.prompt_ids) + len(t.token_ids) for t in trainer.trained_on)
    assert history[2]["num_tokens"] == tokens and history[8]["num_tokens"] == 3 * tokens
    # Each pass has every row once, in an order of its own.
    orders = [[trainer._batch(3 * epoch + i) for i in range(3)] for epoch in range(3)]
    flat = [[id(t) for batch in order for t in batch] for order in orders]
    assert all(sorted(row) == sorted(map(id, trainer.trained_on)) for row in flat)
    assert len({tuple(row) for row in flat}) > 1
    few = make(fresh, max_steps=4, batch_size=2)
    assert [round(3 * m["epoch"]) for m in few.train()] == [1, 2, 3, 4]


def test_the_schedule_of_the_learning_rate(fresh):
    settings = {"max_steps": 6, "warmup_steps": 2, "learning_rate": 0.01}
    history = make(fresh, lr_scheduler_type="linear", **settings).train()
    np.testing.assert_allclose(
        [m["learning_rate"] for m in history],
        [0.005, 0.0075, 0.01, 0.0075, 0.005, 0.0025],
        rtol=1e-5,
    )
    trainer = make(fresh, lr_scheduler_type="constant", **settings)
    assert [m["learning_rate"] for m in trainer.train()][2:] == [pytest.approx(0.01)] * 4
    assert SFTTrainer("tiny-lm", ROWS[:1]).learning_rate == 1e-3


def test_a_seed_reproduces_bit_for_bit(fresh):
    def run(**settings):
        trainer = make((copy.deepcopy(fresh[0]), fresh[1]), epochs=2, batch_size=2, **settings)
        metrics = [{k: v for k, v in m.items() if k != "step_time"} for m in trainer.train()]
        return trainer.policy.fingerprint(), metrics

    first = run(seed=3)
    assert first == run(seed=3)
    assert first[0] != run(seed=4)[0]
    assert run(seed=3, lora_rank=4) == run(seed=3, lora_rank=4)


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(fresh):
    whole = make((copy.deepcopy(fresh[0]), fresh[1]), epochs=2, batch_size=2)
    whole.train()

    def stop(metrics):
        if metrics["step"] == 3 and not stopped:
            stopped.append(metrics)
            raise KeyboardInterrupt

    stopped = []
    trainer = make(fresh, epochs=2, batch_size=2, on_step=stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert len(trainer.history) == 3
    assert len(trainer.train()) == 6
    assert trainer.policy.fingerprint() == whole.policy.fingerprint()
    # Another call takes as many steps again.
    history = trainer.train()
    assert [m["step"] for m in history] == list(range(1, 13))
    assert history[6]["learning_rate"] == history[0]["learning_rate"]


def test_adapters_are_trained_alone_and_merged_when_saved(fresh, tiny_folder, tmp_path):
    from mlx.utils import tree_flatten

    before = dict(tree_flatten(copy.deepcopy(fresh[0]).parameters()))
    trainer = make(fresh, epochs=20, lora_rank=4, learning_rate=1e-2, eval_rows=ROWS)
    assert "LoRA rank 4" in trainer.describe()
    start = trainer.evaluate()["loss"]
    trainer.train()
    assert trainer.evaluate()["loss"] < start - 0.5
    after = dict(tree_flatten(trainer.model.parameters()))
    for name, value in before.items():
        same = [after.get(name), after.get(name.replace(".weight", ".linear.weight"))]
        assert any(np.array_equal(value, other) for other in same if other is not None), name
    trainer.save(tmp_path / "model")
    merged = make(load_model(tmp_path / "model"), eval_rows=ROWS).evaluate()
    assert merged["loss"] == pytest.approx(trainer.evaluate()["loss"], abs=1e-4)


# --- what it teaches ---------------------------------------------------------------------------


def test_a_random_model_learns_a_format(fresh):
    """From no answer of the form to more than nine in ten, on prompts that were held out."""
    rng = np.random.default_rng(0)
    rows = [{"prompt": f"{n}+", "answer": f"x={rng.integers(10)}z"} for n in range(1000, 1640)]
    settings = {"epochs": 1, "batch_size": 16, "lr_scheduler_type": "constant"}
    trainer = make(fresh, rows, learning_rate=1e-2, **settings)

    def share():
        prompts = [f"{n}+" for n in range(3000, 3064)]
        policy = trainer.policy.with_params(seed=5)
        texts, extras = policy(prompts)
        ended = [not cut for cut in extras["truncated"]]
        return np.mean([bool(re.fullmatch(r"x=\dz", t)) and e for t, e in zip(texts, ended)])

    assert share() == 0
    trainer.train()
    assert share() > 0.9


def test_a_chat_model_learns_to_answer_and_to_end(random_model):
    """Over two turns: the policy renders the prompt as the training did."""
    tokenizer = family("chatml")
    rows = [
        {"messages": [*talk("abc"[i % 3], "one"), *talk("xyz"[i % 3], "two")]} for i in range(9)
    ]
    model = random_model(**config_for(tokenizer)), tokenizer
    trainer = make(model, rows, max_steps=30, learning_rate=1e-2)
    trainer.train()
    text, extras = trainer.policy("b", deterministic=True)
    assert text == "one" and not extras["truncated"]
    context = [*extras["prompt_ids"], *extras["token_ids"]]
    infos = {"turn": "y", "messages": [*talk("b", "one"), {"role": "user", "content": "y"}]}
    text, extras = trainer.policy("", deterministic=True, infos=infos, context=context)
    assert text == "two" and not extras["truncated"]


def talk(asked, answered):
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


# --- lengths and memory ------------------------------------------------------------------------


def test_what_max_length_cuts_is_counted(fresh):
    trainer = make(fresh, max_length=9, epochs=1)
    assert (trainer.cut, trainer.left_out, len(trainer.trained_on)) == (2, 1, 4)
    assert "4 rows, 2 of them cut to 9 tokens, and 1 more left out" in trainer.describe()
    assert max(len(t.prompt_ids) + len(t.token_ids) for t in trainer.trained_on) == 9
    loss = by_hand(fresh[0], trainer.trained_on)[0]
    assert trainer.train()[0]["loss"] == pytest.approx(loss, rel=1e-5)
    whole = make(fresh)
    assert (whole.cut, whole.left_out) == (0, 0) and "cut" not in whole.describe()


def test_the_longest_step_is_found(fresh):
    rng = np.random.default_rng(0)
    rows = [{"prompt": "1" * int(n), "answer": "2"} for n in rng.integers(1, 60, 23)]
    for settings in ({"epochs": 3}, {"max_steps": 2}, {"max_steps": 9}):
        trainer = make(fresh, rows, batch_size=4, **settings)
        totals = [
            sum(len(t.prompt_ids) + len(t.token_ids) for t in trainer._batch(step))
            for step in range(trainer.steps)
        ]
        assert trainer._longest_step() == int(np.argmax(totals))


def test_a_training_that_does_not_fit_is_refused_before_it_starts(fresh, monkeypatch):
    monkeypatch.setattr(watch, "memory_limit", lambda: MemoryLimit(10**6, "this test's limit"))
    with pytest.raises(OutOfMemoryError, match=r"training needs about .* this test's limit is"):
        make(fresh)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([], {"batch_size": 1}, "there are no rows to train on"),
        ([{"prompt": "a"}], {}, "rows, row 0: there is no answer"),
        ([*ROWS, {"prompt": "1" * 120, "answer": "1" * 8}], {}, "row 5: a prompt of 120.*of 128"),
        (ROWS[3:4], {"max_length": 5}, "nothing to train on: 1 rows, .*max_length=5"),
        (ROWS, {"max_length": 129}, "max_length=129 is more than the model's context of 128"),
    ],
)
def test_what_is_refused(fresh, rows, settings, message):
    with pytest.raises((DataError, ConfigError), match=message):
        make(fresh, rows, **settings)


def test_a_template_that_fails_names_the_row(random_model):
    tokenizer = family("instructions")
    rows = [{"prompt": "a", "answer": "b"}, {"messages": [TALK[0], TALK[0], TALK[1]]}]
    model = random_model(**config_for(tokenizer)), tokenizer
    with pytest.raises(DataError, match=r"rows, row 1: .*user, user: the roles must alternate"):
        make(model, rows)


def test_there_is_nothing_to_evaluate_on(fresh):
    with pytest.raises(DataError, match="give eval_rows"):
        make(fresh).evaluate()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epochs": 0}, ConfigError, "epochs must be at least 1"),
        ({"max_length": 1}, ConfigError, "max_length must be at least 2"),
        ({"max_steps": 0}, ConfigError, "max_steps"),
        ({"batch_size": "3"}, ConfigTypeError, "batch_size must be int"),
        ({"lr_scheduler_type": "lin"}, ConfigError, "unknown lr_scheduler_type 'lin'"),
        ({"learning_rate": -1.0}, ConfigError, "learning_rate"),
    ],
)
def test_a_config_checks_itself(settings, error, message):
    with pytest.raises(error, match=message):
        replace(SFTConfig(), **settings)
