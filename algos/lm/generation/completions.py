"""`Completion`: the tokens that were sampled for one prompt, and what ends and receives one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Completion:
    """One sampled completion. Its last token is what ended it, such as EOS, unless truncated."""

    token_ids: list[int] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)
    """The log-probability of each token under the distribution that it was drawn from."""
    token_entropies: list[float] = field(default_factory=list)
    """The entropy of that distribution for each token, in nats."""
    support: list[np.ndarray] | None = None
    """For each token, the ids of the tokens that could be drawn; None if all could."""
    truncated: bool = True
    """Whether it reached its limit of tokens before an EOS or a stop string."""

    def head(self, count: int) -> Completion:
        """The first ``count`` tokens, as a completion that reached its limit there."""
        return Completion(
            self.token_ids[:count],
            self.token_logprobs[:count],
            self.token_entropies[:count],
            None if self.support is None else self.support[:count],
        )

    def followed_by(self, rest: Completion) -> Completion:
        """This completion with what was sampled after it."""
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


Ends = Callable[[int, list[int]], bool]
"""``ends(row, token_ids)`` says whether the last of a row's tokens so far ends its completion."""

OnCompletion = Callable[[int, Completion], None]
"""``on_completion(row, completion)`` is called once the row's completion has ended."""


def ignore(row: int, completion: Completion) -> None:
    """An `OnCompletion` that does nothing."""
