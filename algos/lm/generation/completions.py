"""What a sampler gives back."""

from __future__ import annotations

from collections.abc import Callable
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

    def head(self, count: int) -> Completion:
        """Its first tokens, as a completion that ran out of tokens there."""
        return Completion(
            self.token_ids[:count],
            self.token_logprobs[:count],
            self.token_entropies[:count],
            None if self.support is None else self.support[:count],
        )

    def followed_by(self, rest: Completion) -> Completion:
        """This one and what came after it."""
        support = None
        if self.support is not None and rest.support is not None:
            support = [*self.support, *rest.support]
        return Completion(
            self.token_ids + rest.token_ids,
            self.token_logprobs + rest.token_logprobs,
            self.token_entropies + rest.token_entropies,
            support,
            rest.truncated,
        )


OnCompletion = Callable[[int, Completion], None]
"""What is told of a row and its completion once that has ended."""


def ignore(row: int, completion: Completion) -> None:
    """Nothing is to be done then."""
