"""GSPO: GRPO with one importance ratio a sequence (Zheng et al. 2025, arXiv 2507.18071).

The ratio is the geometric mean of the tokens' ratios (equation 7). It is clipped as a whole, and
all completions count the same (equation 5). Advantages are those of GRPO.

Deviation: ``epsilon`` keeps GRPO's default of 0.2. The paper's experiments clip at 3e-4 and 4e-4.
"""

from __future__ import annotations

from functools import partial

from textenv.algos import grpo
from textenv.algos.grpo import compute_advantages

__all__ = ["compute_advantages", "policy_loss"]

policy_loss = partial(grpo.policy_loss, loss_type="gspo")
