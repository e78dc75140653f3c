"""GRPO's loss, gradient and metrics are those of TRL."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.algos import grpo

LENGTH_CAP = 7


def trls_loss(torch, loss_type, logprobs, old, advantages, mask, low, high, beta, ref, corrected):
    """TRL's own loss, gradient and metrics, of a trainer that is given log-probabilities."""
    from types import SimpleNamespace as Namespace

    from trl.trainer.grpo_trainer import GRPOTrainer

    logprobs = torch.tensor(logprobs, requires_grad=True)
    mask = torch.tensor(mask)
    metrics = {}
    trainer = Namespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logprobs, 0 * mask, None),
        accelerator=Namespace(
            num_processes=1, sync_gradients=False, gather=lambda x: x, reduce=lambda x, **_: x
        ),
        args=Namespace(use_bias_correction_kl=corrected, delta=None, steps_per_generation=1),
        model=Namespace(training=True),
        loss_type="grpo" if loss_type == "gspo" else loss_type,
        importance_sampling_level="sequence" if loss_type == "gspo" else "token",
        # TRL's bound for cispo is epsilon_high itself.
        **{"epsilon_low": low, "epsilon_high": 1 + high if loss_type == "cispo" else high},
        **{"beta": beta, "max_completion_length": LENGTH_CAP, "top_entropy_quantile": 1.0},
        **dict.fromkeys(("aux_loss_enabled", "_entropy_bonus_enabled", "use_vllm"), False),
        **{"off_policy_mask_threshold": None, "current_gradient_accumulation_steps": 1},
        _metrics={"train": _Lists(metrics), "eval": {}},
    )
    empty = torch.zeros((len(mask), 0))
    inputs = {
        **{"prompt_ids": empty, "prompt_mask": empty, "completion_ids": mask},
        **{"completion_mask": mask, "old_per_token_logps": torch.tensor(old)},
        **{"ref_per_token_logps": torch.tensor(ref), "advantages": torch.tensor(advantages)},
        "num_items_in_batch": mask.sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return loss.item(), logprobs.grad.numpy(), metrics


class _Lists(dict):
    """TRL appends each metric to a list of its name."""

    def __init__(self, found):
        super().__init__()
        self._found = found

    def __missing__(self, name):
        return type("", (), {"append": lambda _, value: self._found.__setitem__(name, value)})()


@pytest.mark.parametrize(("beta", "corrected"), [(0.0, False), (0.3, False), (0.3, True)])
@pytest.mark.parametrize("loss_type", list(grpo.LOSS_TYPES))
def test_loss_and_metrics_are_those_of_trl(loss_type, beta, corrected):
    pytest.importorskip("trl")
    torch = pytest.importorskip("torch")
    import mlx.core as mx

    rng = np.random.default_rng(1)
    old = rng.normal(-2, 1, (6, 5)).astype(np.float32)
    logprobs, ref = (old + rng.normal(0, 0.4, (6, 5)).astype(np.float32) for _ in range(2))
    mask = (np.arange(5) < rng.integers(1, 6, 6)[:, None]).astype(np.float32)
    advantages = rng.normal(0, 1, 6).astype(np.float32)
    case = (logprobs, old, advantages, mask)
    expected, expected_gradient, theirs = trls_loss(
        *(torch, loss_type, *case, 0.05, 0.1, beta, ref, corrected)
    )

    def loss_fn(x):
        return grpo.policy_loss(
            *(x, *map(mx.array, case[1:])),
            **{"loss_type": loss_type, "epsilon": 0.05, "epsilon_high": 0.1, "beta": beta},
            **{"use_bias_correction_kl": corrected, "ref_logprobs": mx.array(ref)},
            max_completion_length=LENGTH_CAP,
        )

    (loss, metrics), gradient = mx.value_and_grad(loss_fn)(mx.array(logprobs))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(np.array(gradient), expected_gradient, rtol=1e-4, atol=1e-6)
    theirs["clip_ratio/high_mean"] = theirs.pop(
        "cispo_clip_ratio", theirs.get("clip_ratio/high_mean")
    )
    ours = {name: value.item() for name, value in metrics.items()}
    shared = ours.keys() & theirs.keys()
    assert {"clip_ratio/high_mean"} | ({"kl"} if beta else set()) <= shared
    assert {n: ours[n] for n in shared} == pytest.approx({n: theirs[n] for n in shared}, rel=1e-4)
    assert ours["clip_ratio/high_mean"] > 0
