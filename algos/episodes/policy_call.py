"""Calls any policy with the arguments that its parameters declare, and checks its answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from textenv.errors import ConfigTypeError

Policy = Callable[..., tuple[Any, dict[str, Any]]]
"""``policy(observation, deterministic=False) -> (action, extras)``."""

_KNOWN = (
    "episode_start",
    "infos",
    "context",
    "seeds",
    "continues",
    "ended",
    "branches",
    "begun",
    "limits",
)


class PolicyCall:
    """Calls a policy with the arguments that it declares.

    Args:
        policy: any policy.

    Attributes:
        policy: as given.
        batched: whether it takes batches of text.
        values: gives the critic's values of a batch of observations; None without a critic.
        deterministic: whether it is asked for deterministic actions.

    Raises:
        ConfigTypeError: if the policy cannot be called.
    """

    def __init__(self, policy: Policy):
        if not callable(policy):
            raise ConfigTypeError(f"policy must be callable, got {type(policy).__name__}")
        self.policy = policy
        self._declared = declared(policy, _KNOWN)
        self.batched: bool = getattr(policy, "batched", False)
        self.values: Callable[[list[Any]], Any] | None = getattr(policy, "values", None)
        self.deterministic = False

    def __call__(self, observation: Any, **known: Any) -> tuple[Any, dict[str, Any]]:
        """The policy's action and its extras.

        Args:
            observation: one, or a batch.
            known: arguments that the policy may declare, by name.

        Raises:
            ConfigTypeError: if the policy does not return these two.
        """
        known = {"context": None, "seeds": None, "continues": False, **known}
        passed = {name: known[name] for name in self._declared if name in known}
        if self.deterministic:
            passed["deterministic"] = True
        answer = self.policy(observation, **passed)
        # A text of two characters would unpack as well.
        pair = isinstance(answer, tuple) and len(answer) == 2
        if not pair or not isinstance(answer[1], Mapping):
            raise ConfigTypeError(
                f"a policy must return (action, extras), extras a dict, got {answer!r:.80}"
            )
        return answer


def declared(function: Callable[..., Any], names: tuple[str, ...]) -> list[str]:
    """Those of ``names`` that are parameters of a callable."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a builtin without a signature
        return []
    return [name for name in names if name in parameters]
