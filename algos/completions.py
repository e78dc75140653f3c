"""What a sampler gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Completion:
    """One sampled completion; EOS, where it came, is its last token."""

    token_ids: list[int] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)
    """Log-probability of each token under the distribution that it was drawn from."""
    token_entropies: list[float] = field(default_factory=list)
    """Entropy of that distribution, in nats."""
    support: list[np.ndarray] | None = None
    """Ids of the tokens that could be drawn, for each token; None where all could."""
    truncated: bool = True
    """Whether it ran out of tokens before an EOS."""
