"""GRPO's loss against numbers by hand and slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from textenv.algos import grpo
from textenv.algos.lm.scoring.batch import BatchSize

LENGTH_CAP = 7


def slow_loss(
    loss_type, logprobs, old, advantages, mask, low, high, beta=0.0, ref=None, corrected=False
) -> tuple[float, dict[str, float]]:
    """Token by token, by the papers' formulas, in Python floats."""
    n, width = mask.shape
    per_sequence, all_tokens, counts = [], [], {"low": 0, "high": 0, "region": 0}
    kls, clips_counted = [], 0
    for i in range(n):
        cells = [t for t in range(width) if mask[i, t]]
        clips_counted += min(1, len(cells)) if loss_type == "gspo" else len(cells)
        mean = sum(logprobs[i, t] - old[i, t] for t in cells) / max(1, len(cells))
        losses = []
        for t in cells:
            advantage = advantages[i] if np.ndim(advantages) == 1 else advantages[i, t]
            ratio = math.exp(mean if loss_type == "gspo" else logprobs[i, t] - old[i, t])
            if loss_type == "cispo":
                loss = -min(ratio, 1 + high) * advantage * logprobs[i, t]
            else:
                clipped = min(max(ratio, 1 - low), 1 + high)
                loss = -min(ratio * advantage, clipped * advantage)
            below = ratio < 1 - low and advantage < 0 and loss_type != "cispo"
            above = ratio > 1 + high and advantage > 0
            share = 1 / len(cells) if loss_type == "gspo" else 1  # of a sequence, or a token
            counts["low"] += below * share
            counts["high"] += above * share
            counts["region"] += (below or above) * share
            if beta:
                d = ref[i, t] - logprobs[i, t]
                kls.append((math.exp(d) - d - 1) * (ratio if corrected else 1))
                loss += beta * kls[-1]
            losses.append(loss)
        per_sequence.append(sum(losses) / max(1, len(losses)))
        all_tokens += losses
    tokens = max(1, len(all_tokens))
    loss = {
        "grpo": sum(per_sequence) / n,
        "gspo": sum(per_sequence) / n,
        "dr_grpo": sum(all_tokens) / (n * LENGTH_CAP),
    }.get(loss_type, sum(all_tokens) / tokens)
    metrics = {f"clip_ratio/{k}_mean": v / max(1, clips_counted) for k, v in counts.items()}
    return loss, metrics | ({"kl": sum(kls) / tokens} if beta else {})


def random_case(seed, n=6, width=5):
    """Arrays of a batch: ragged, one row without any token, rubbish in the padding."""
    rng = np.random.default_rng(seed)
    old = rng.normal(-2, 1, (n, width)).astype(np.float32)
    logprobs = (old + rng.normal(0, 0.4, (n, width))).astype(np.float32)
    ref = (old + rng.normal(0, 0.4, (n, width))).astype(np.float32)
    mask = (np.arange(width) < rng.integers(1, width + 1, n)[:, None]).astype(np.float32)
    mask[1, 0] = 0  # a hole, as between two turns
    mask[2] = 0
    padding = mask == 0
    logprobs[padding] = rng.choice([np.inf, -np.inf, np.nan, 1e30], padding.sum())
    old[padding] = rng.choice([np.inf, np.nan, 0, -1e30], padding.sum())
    ref[padding] = np.nan
    return logprobs, old, rng.normal(0, 1, n).astype(np.float32), mask, ref


@pytest.mark.parametrize(("beta", "corrected"), [(0.0, False), (0.3, False), (0.3, True)])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("loss_type", list(grpo.LOSS_TYPES))
def test_loss_against_a_slow_loop(loss_type, per_token, beta, corrected):
    import mlx.core as mx

    for seed in range(3):
        logprobs, old, advantages, mask, ref = random_case(seed)
        if per_token:
            advantages = np.random.default_rng(seed).normal(0, 1, mask.shape).astype(np.float32)
            advantages[mask == 0] = np.nan
        expected, expected_metrics = slow_loss(
            *(loss_type, logprobs, old, advantages, mask, 0.2, 0.3, beta, ref, corrected)
        )
        settings = {"loss_type": loss_type, "epsilon": 0.2, "epsilon_high": 0.3, "beta": beta}
        settings["use_bias_correction_kl"] = corrected

        def loss_fn(x, case=(old, advantages, mask, ref), settings=settings):
            old, advantages, mask, ref = map(mx.array, case)
            return grpo.policy_loss(
                *(x, old, advantages, mask),
                ref_logprobs=ref,
                max_completion_length=LENGTH_CAP,
                **settings,
            )

        (loss, metrics), gradient = mx.value_and_grad(loss_fn)(mx.array(logprobs))
        assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert {k: v.item() for k, v in metrics.items()} == pytest.approx(
            expected_metrics, rel=1e-4, abs=1e-6
        )
        assert np.isfinite(np.array(gradient)).all()
        assert not np.array(gradient)[mask == 0].any()


LOSSES = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
LOSS_MASK = np.array([[1, 1, 1], [1, 0, 0]], np.float32)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [("dapo", 2.5), ("bnpo", 2.5), ("grpo", 3.0), ("dr_grpo", 1.25)],
)
def test_aggregation(loss_type, expected):
    # On-policy, the loss of a token is minus its advantage.
    zeros = np.zeros((2, 3), np.float32)
    loss, _ = grpo.policy_loss(
        zeros, zeros, -LOSSES, LOSS_MASK, loss_type=loss_type, max_completion_length=4
    )
    assert loss.item() == expected


def test_clipping_by_hand():
    # A > 0 gains nothing above 1.2, A < 0 nothing below .8; the other sides are not clipped.
    ratio = np.array([[0.5, 2.0, 0.5, 2.0]])
    advantages = np.array([[1.0, 1.0, -1.0, -1.0]])
    loss, metrics = grpo.policy_loss(
        np.log(ratio), np.zeros((1, 4)), advantages, np.ones((1, 4)), epsilon=0.2
    )
    assert loss.item() == pytest.approx((-0.5 - 1.2 + 0.8 + 2.0) / 4, rel=1e-6)
    assert {k: v.item() for k, v in metrics.items()} == {
        "clip_ratio/low_mean": 0.25,
        "clip_ratio/high_mean": 0.25,
        "clip_ratio/region_mean": 0.5,
    }


@pytest.mark.parametrize(("high", "expected"), [(None, 1.2), (0.28, 1.28), (0.0, 1.0)])
def test_epsilon_high(high, expected):
    one = np.ones((1, 1))
    loss, _ = grpo.policy_loss(
        np.log(3 * one), 0 * one, one[0], one, epsilon=0.2, epsilon_high=high
    )
    assert -loss.item() == pytest.approx(expected, rel=1e-6)


def test_clipped_tokens_have_no_gradient():
    import mlx.core as mx

    ratio = mx.array([[0.5, 2.0, 0.5, 2.0, 1.1]])
    advantages = mx.array([[1.0, 1.0, -1.0, -1.0, 1.0]])

    def loss_fn(logprobs):
        return grpo.policy_loss(logprobs, 0 * ratio, advantages, mx.ones((1, 5)))[0]

    gradient = 5 * np.array(mx.grad(loss_fn)(mx.log(ratio)))[0]
    # d(-ratio * A) / d(logprob) = -ratio * A where the surrogate is not clipped
    np.testing.assert_allclose(gradient, [-0.5, 0, 0, 2.0, -1.1], rtol=1e-5)


def test_kl_of_a_log_ratio():
    # reference minus policy is .1: k3 = exp(.1) - .1 - 1 = .0051709; at -.1 it is .0048374
    for difference, k3 in [(0.1, 0.0051709), (-0.1, 0.0048374)]:
        zeros = np.zeros((1, 2), np.float32)
        loss, metrics = grpo.policy_loss(
            *(zeros, zeros, np.zeros(1), np.ones((1, 2))),
            beta=2.0,
            ref_logprobs=zeros + difference,
        )
        assert metrics["kl"].item() == pytest.approx(k3, abs=1e-7)
        assert loss.item() == pytest.approx(2 * k3, abs=2e-7)


def kl_gradient(policy, old, reference, **settings):
    """The expected gradient of the KL term by the logits, over tokens that ``old`` sampled."""
    import mlx.core as mx

    old, reference = mx.array(old), mx.array(reference)

    def loss_fn(logits):
        logprobs = logits - mx.logsumexp(logits)
        loss, metrics = grpo.policy_loss(
            *(logprobs[:, None], mx.log(old)[:, None], mx.zeros(len(old)), mx.ones((len(old), 1))),
            # The mean over the batch becomes the mean under the policy that sampled.
            weights=old[:, None],
            beta=1.0,
            ref_logprobs=mx.log(reference)[:, None],
            **settings,
        )
        return loss, metrics["kl"]

    (_, _), gradient = mx.value_and_grad(loss_fn)(mx.log(mx.array(policy)))
    return np.array(gradient)


POLICY, OLD, REFERENCE = [0.5, 0.3, 0.2], [0.4, 0.25, 0.35], [0.1, 0.6, 0.3]


@pytest.mark.parametrize("old", [POLICY, OLD])
def test_a_corrected_kl_has_the_gradient_of_the_reverse_divergence(old):
    """d KL(p || r) / d logit_i = p_i (log(p_i / r_i) - KL), on the policy and off it."""
    p, r = np.array(POLICY), np.array(REFERENCE)
    divergence = (p * np.log(p / r)).sum()
    found = kl_gradient(POLICY, old, REFERENCE, use_bias_correction_kl=True)
    np.testing.assert_allclose(found, p * (np.log(p / r) - divergence), atol=1e-6)


def test_a_plain_kl_has_the_gradient_of_the_forward_divergence():
    """d KL(r || p) / d logit_i = p_i - r_i, on the policy; the default, as in GRPO's paper."""
    found = kl_gradient(POLICY, POLICY, REFERENCE)
    np.testing.assert_allclose(found, np.array(POLICY) - REFERENCE, atol=1e-6)


@pytest.mark.parametrize("loss_type", ["dapo", "cispo"])
def test_a_corrected_kl_by_hand(loss_type):
    # the ratio is 2, the reference is likelier by exp(.1): 2 * (exp(.1) - .1 - 1) = .0103418
    one = np.ones((1, 1))
    loss, metrics = grpo.policy_loss(
        *(np.log(2 * one), 0 * one, 0 * one[0], one),
        beta=3.0,
        use_bias_correction_kl=True,
        ref_logprobs=np.log(2 * one) + 0.1,
        loss_type=loss_type,
    )
    assert metrics["kl"].item() == pytest.approx(0.0103418, abs=1e-6)
    assert loss.item() == pytest.approx(3 * 0.0103418, abs=3e-6)


def clip_ratios(loss_type, ratio, advantages, mask, **settings):
    ratio = np.array(ratio)
    _, metrics = grpo.policy_loss(
        *(np.log(ratio), np.zeros_like(ratio), np.array(advantages), np.array(mask)),
        loss_type=loss_type,
        **settings,
    )
    return [metrics[f"clip_ratio/{name}_mean"].item() for name in ("low", "high", "region")]


def test_cispo_counts_only_what_its_bound_stops():
    """TRL's cispo_clip_ratio: above the bound with an advantage above 0; nothing bounds below."""
    ratio, advantages = [[0.1, 3.0, 3.0, 1.1]], [[-1.0, 1.0, -1.0, 1.0]]
    assert clip_ratios("cispo", ratio, advantages, [[1, 1, 1, 1]]) == [0, 0.25, 0.25]
    assert clip_ratios("dapo", ratio, advantages, [[1, 1, 1, 1]]) == [0.25, 0.25, 0.5]
    # TRL's bound of 5 is an epsilon_high of 4 here.
    assert clip_ratios("cispo", [[4.9, 5.1]], [[1, 1]], [[1, 1]], epsilon_high=4.0)[1] == 0.5


def test_gspo_counts_sequences():
    """A completion of one token counts as much as one of four; one without tokens not at all."""
    ratio = [[2.0, 1.0, 1.0, 1.0], [2.0] * 4, [0.5] * 4, [1.0] * 4, [9.0] * 4]
    mask = [[1, 0, 0, 0], [1] * 4, [1] * 4, [1] * 4, [0] * 4]
    advantages = [1.0, -1.0, -1.0, 1.0, 1.0]
    assert clip_ratios("gspo", ratio, advantages, mask) == [0.25, 0.25, 0.5]


@pytest.mark.parametrize("loss_type", list(grpo.LOSS_TYPES))
def test_parts_sum_to_the_whole(loss_type):
    logprobs, old, advantages, mask, ref = random_case(11)
    common = {"loss_type": loss_type, "max_completion_length": LENGTH_CAP, "beta": 0.1}
    whole, _ = grpo.policy_loss(logprobs, old, advantages, mask, ref_logprobs=ref, **common)
    size = BatchSize(len(mask), mask.sum())
    parts = [
        grpo.policy_loss(
            *(logprobs[rows], old[rows], advantages[rows], mask[rows]),
            ref_logprobs=ref[rows],
            batch_size=size,
            **common,
        )[0].item()
        for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    assert sum(parts) == pytest.approx(whole.item(), rel=1e-5)
    assert abs(parts[0]) > 1e-3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss_type": "dapoo"}, "unknown loss_type 'dapoo'; did you mean 'dapo'"),
        ({"loss_type": "dr_grpo"}, "max_completion_length"),
        ({"beta": 0.1}, "ref_logprobs"),
    ],
)
def test_bad_loss_arguments(settings, words):
    ones = np.ones((1, 1))
    with pytest.raises(ValueError, match=words):
        grpo.policy_loss(ones, ones, ones[0], ones, **settings)
