"""Replay: weights by hand, the gradient of a plain implementation, staleness, share and state."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from tests.algos.shared import weights_of
from textenv.algos import Buffer, Trainer, create_policy, grpo
from textenv.algos.strategies import make_part
from textenv.algos.strategies.selection.replay import Replay, importance_weights
from textenv.errors import ConfigError

PROMPTS = ["12+30="] * 4 + ["a"] * 4 + ["the longest prompt = "] * 4
EPSILON, CAP = 0.2, 1.5


@pytest.fixture
def grouped(sample):
    """``grouped(model, tokenizer, version)``: three groups of four, as a policy sampled them."""

    def make(model, tokenizer, version=0, seed=1, **settings):
        rows = sample(model, tokenizer, PROMPTS, seed=seed, **settings)
        for t in rows:
            t.policy_version = version
        return [rows[i : i + 4] for i in (0, 4, 8)]

    return make


@pytest.fixture
def replay(prepared, fresh):
    """``replay(**settings)``: the part, for the policy of `fresh` and rollouts of three groups."""

    def make(num_groups=3, **settings):
        policy = create_policy(*fresh, {"max_tokens": 9})
        return prepared(Replay(**settings), policy=policy, num_groups=num_groups)

    return make


def move(model, scale=0.15):
    """Another policy, some way off."""
    import mlx.core as mx
    from mlx.utils import tree_map

    mx.random.seed(5)
    noise = tree_map(
        lambda w: w + scale * mx.std(w) * mx.random.normal(w.shape), model.parameters()
    )
    model.update(noise)
    mx.eval(model.parameters())


def test_the_weights_of_three_tokens_by_hand():
    now, then = np.log([0.5, 0.2, 0.9]), np.log([0.4, 0.4, 0.1])
    np.testing.assert_allclose(importance_weights(now, then, 2.0), [1.25, 0.5, 2.0])
    np.testing.assert_allclose(importance_weights(now, then, 0.9), [0.9, 0.5, 0.9])
    with np.errstate(all="raise"):  # a token that was all but impossible
        assert importance_weights(np.zeros(1), np.full(1, -1000.0), 2.0) == pytest.approx([2.0])


def test_weights_and_log_probabilities_of_what_is_replayed(fresh, grouped, replay, plain_logprobs):
    model, tokenizer = fresh
    settings = {"temperature": 0.8, "top_p": 0.95}
    part = replay(share=1.0, cap=CAP)
    then = grouped(model, tokenizer, 0, **settings)
    for t in then[0]:
        t.token_mask[1] = 0  # what an environment wrote
        t.token_logprobs[1] = 0.0
    assert part.extend(then, 0) == then
    move(model)
    fresh_groups = grouped(model, tokenizer, 1, seed=2, **settings)
    groups = part.extend(fresh_groups, 1)
    assert groups[:3] == fresh_groups
    assert sorted(g[0].group_id for g in groups[3:]) == [-3, -2, -1]
    by_prompt = {tuple(g[0].prompt_ids): g for g in then}
    capped = below = 0
    for group in groups[3:]:
        for new, old in zip(group, by_prompt[tuple(group[0].prompt_ids)], strict=True):
            now = plain_logprobs(model, old.prompt_ids, old.token_ids, 0.8, old.support)
            mask = np.array(old.token_mask)
            ratio = np.exp(now - np.array(old.token_logprobs))
            expected = np.where(mask, np.minimum(ratio, CAP), 1.0)
            np.testing.assert_allclose(new.token_weights, expected, rtol=2e-4)
            np.testing.assert_allclose(new.token_logprobs, now * mask, atol=1e-4)
            capped += (mask * ratio > CAP).sum()
            below += (mask * ratio < 0.9).sum()
            restored = dataclasses.replace(
                new,
                token_weights=None,
                token_logprobs=old.token_logprobs,
                group_id=old.group_id,
            )
            assert restored == old  # all else is as it was
    assert capped > 3
    assert below > 3


def plain_loss(model, rows, advantages):
    """The decoupled objective, one sequence at a time: what is differentiated, and by what."""
    import mlx.core as mx

    total, weight = mx.zeros(()), 0.0
    for t, advantage in zip(rows, advantages):
        ids = mx.array([t.prompt_ids + t.token_ids])
        logits = model(ids)[0, len(t.prompt_ids) - 1 : -1]
        chosen = mx.take_along_axis(logits, mx.array(t.token_ids)[:, None], -1)[:, 0]
        logprobs = chosen - mx.logsumexp(logits, axis=-1)
        now, then = mx.stop_gradient(logprobs), mx.array(t.token_logprobs)
        w = mx.minimum(mx.exp(now - then), CAP) if t.policy_version == 0 else mx.ones(now.shape)
        ratio = mx.exp(logprobs - now)
        clipped = mx.clip(ratio, 1 - EPSILON, 1 + EPSILON)
        total = total - (w * mx.minimum(ratio * advantage, clipped * advantage)).sum()
        weight += w.sum()
    return total / mx.stop_gradient(weight)


def test_the_gradient_is_that_of_a_plain_implementation(fresh, grouped, replay):
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten

    model, tokenizer = fresh
    part = replay(share=1.0, cap=CAP)
    then = grouped(model, tokenizer, 0)
    part.extend(then, 0)
    move(model)
    now = grouped(model, tokenizer, 1, seed=2)
    rows = [t for group in (*now, *then) for t in group]
    ids = [i // 4 for i in range(len(rows))]
    advantages = grpo.compute_advantages([t.total_reward for t in rows], ids)
    _, gradient = nn.value_and_grad(model, lambda: plain_loss(model, rows, advantages.tolist()))()
    before = weights_of(model)
    expected = {k: before[k] - 0.1 * np.array(g) for k, g in tree_flatten(gradient)}
    buffer = Buffer(t for group in part.extend(now, 1) for t in group)
    trainer = Trainer(
        model,
        grpo.compute_advantages,
        grpo.policy_loss,
        optim.SGD(0.1),
        buffer,
        max_grad_norm=0,
        micro_batch_size=5,
    )
    metrics = trainer.train()
    assert metrics["clip_ratio/region_mean"] == 0  # around the policy as it is now
    assert metrics["sampling/logprob_difference/max"] < 1e-4
    moved = 0.0
    for name, value in weights_of(model).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-6, err_msg=name)
        moved = max(moved, np.abs(value - before[name]).max())
    assert moved > 1e-3


def test_fresh_trajectories_are_not_scored(fresh, grouped, replay, monkeypatch):
    from textenv.algos.lm.scoring import scorer as scoring

    scored = []
    original = scoring.Scorer.__call__

    def counting(self, batch):
        scored.append(len(batch))
        return original(self, batch)

    monkeypatch.setattr(scoring.Scorer, "__call__", counting)
    part = replay(share=0.4, rows=3)  # 1.2 of 3 groups, rounded up
    part.extend(grouped(*fresh, 0), 0)
    assert scored == []
    assert len(part.extend(grouped(*fresh, 1, seed=2), 1)) == 3 + 2
    assert scored == [3, 3, 2]


def test_the_policy_is_the_one_of_now(fresh, grouped, replay):
    model, tokenizer = fresh
    part = replay(share=1.0, cap=1e6)
    part.extend(grouped(model, tokenizer, 0), 0)
    same = part.extend([], 1)
    assert np.allclose([w for g in same for t in g for w in t.token_weights], 1, atol=1e-4)
    move(model)
    other = part.extend([], 2)
    off = [abs(math.log(w)) for g in other for t in g for w in t.token_weights]
    assert max(off) > 0.1


def test_nothing_is_older_than_max_staleness(fresh, grouped, replay):
    part = replay(share=1.0, max_staleness=4)
    ages = []
    for version in (0, 2, 4, 6, 11):
        new = grouped(*fresh, version, seed=version)
        added = part.extend(new, version)[3:]
        ages.append({version - g[0].policy_version for g in added})
        assert part.metrics()["groups"] == len(added)
    assert ages[0] == set()
    assert ages[1] == {2}
    assert set().union(*ages) <= {2, 4}
    assert ages[4] == set()  # 5 steps after the latest
    assert [g[0].policy_version for g in part._store] == [11] * 3


def test_what_is_uniform_or_replayed_already_is_not_kept(fresh, grouped, replay):
    part = replay(share=1.0)
    groups = grouped(*fresh, 0)
    for t in groups[1]:
        t.rewards = [1.0]
    part.extend(groups, 0)
    assert part._store == [groups[0], groups[2]]
    old = grouped(*fresh, 0, seed=3)  # another part brought them in
    part.extend(old, 5)
    assert part._store == [groups[0], groups[2]]


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.25, 2), (0.5, 4), (2.0, 12)])
def test_the_share_is_of_the_groups_that_a_rollout_is_to_have(fresh, grouped, replay, share, count):
    part = replay(num_groups=8, share=share)
    for version in range(4):
        part.extend(grouped(*fresh, version, seed=version), version)
    added = part.extend([], 4)  # none is left of this one
    assert len(added) == count
    keys = {(g[0].policy_version, tuple(g[0].prompt_ids)) for g in added}
    assert len(keys) == count  # each once


def test_weights_of_other_parts_are_kept(fresh, grouped, replay):
    part = replay(share=1.0, cap=1e6)
    groups = grouped(*fresh, 0)
    for t in groups[0]:
        t.token_weights = [0.5] * len(t.token_ids)
    part.extend(groups, 0)
    for group in part.extend([], 1):
        halved = group[0].prompt_ids == groups[0][0].prompt_ids
        for t in group:
            np.testing.assert_allclose(t.token_weights, 0.5 if halved else 1.0, rtol=1e-4)


def test_equal_continuation(fresh, grouped, replay):
    part = replay(share=0.4)
    for version in range(3):
        part.extend(grouped(*fresh, version, seed=version, top_p=0.9), version)
    saved = json.dumps(part.state())
    again = replay(share=0.4)
    again.load_state(json.loads(saved))
    for version in range(3, 6):
        new = grouped(*fresh, version, seed=version, top_p=0.9)
        assert again.extend(new, version) == part.extend(new, version)
    assert again.state() == part.state()


def test_a_policy_without_a_model_is_refused(prepared):
    with pytest.raises(ConfigError, match="the policy function has no model"):
        prepared(Replay(), policy=lambda observation: ("", {}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("replay:share=0", "share must be above 0 and finite, got 0"),
        ("replay:cap=inf", "cap must be above 0 and finite, got inf"),
        ("replay:max_staleness=0", "max_staleness must be at least 1, got 0"),
        ("replay:rows=0", "rows must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_named(text, says):
    with pytest.raises(ConfigError, match=says):
        make_part(text)
