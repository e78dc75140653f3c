"""Lays out a saved rollout for the page: a table of its episodes, and what is shown of each.

Everything is columns with an item for each trajectory, since that packs well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from textenv.algos.cli.page.run import short
from textenv.algos.episodes.trajectory import Buffer, Trajectory
from textenv.algos.storage.codec import encode
from textenv.algos.storage.inspection import Inspected
from textenv.wrappers.plain_info import plain_info

MOST_NUMBERS = 12
"""How many numbers of an observation are plotted."""

_SHOWN_APART = {"completion", "rewards", "messages", "is_correct", "answer", "scored", "turn"}


def table(rollout: Buffer, known: Sequence[Inspected]) -> dict[str, Any]:
    """What is filtered, sorted and searched: a column for each figure, and the groups' prompts.

    Args:
        rollout: the rollout.
        known: what the run kept of each of its N trajectories.

    Returns:
        ``"control"``, whether actions are not text; ``"groups"``, a dict for each group; and
        ``"rows"``, a column of N items for each figure of the N trajectories.
    """
    trajectories = rollout.trajectories
    places: dict[Any, int] = {}
    members = [
        places.setdefault(("alone", n) if t.group_id is None else t.group_id, len(places))
        for n, t in enumerate(trajectories)
    ]
    firsts: dict[int, int] = {}
    for number, group in enumerate(members):
        firsts.setdefault(group, number)
    rewards = [t.total_reward for t in trajectories]
    advantages = [_advantage(t, each) for t, each in zip(trajectories, known)]
    components = [_components(t) for t in trajectories]
    names = dict.fromkeys(name for parts in components for name in parts)
    return {
        "control": not any(isinstance(a, str) for t in trajectories for a in t.actions[:1]),
        "groups": [_group(trajectories[n], known[n]) for n in firsts.values()],
        "rows": {
            "group": members,
            "reward": [short(reward) for reward in rewards],
            "correct": [t.is_correct for t in trajectories],
            "cut": [_is_cut(t) for t in trajectories],
            "end": [_end(t) for t in trajectories],
            "length": [_length(t) for t in trajectories],
            "advantage": [short(advantage) for advantage in advantages],
            "signal": _signals(members, rewards, advantages),
            "text": [_completion(t) for t in trajectories],
            "answer": [_answer(t) for t in trajectories],
            "parent": [t.parent for t in trajectories],
            "branch": [t.branch_at for t in trajectories],
            "turns": [len(t) for t in trajectories],
            "components": {
                name: [short(parts.get(name)) for parts in components] for name in names
            },
        },
    }


def details(rollout: Buffer, known: Sequence[Inspected]) -> dict[str, Any]:
    """What is shown of a single episode; the arguments are those of `table`.

    Returns:
        ``"texts"``, the different texts of tokens; and ``"episodes"``, a dict for each trajectory.
    """
    texts: dict[str, int] = {}
    episodes = [_episode(t, each, texts) for t, each in zip(rollout, known)]
    return {"episodes": episodes, "texts": list(texts)}


def _episode(trajectory: Trajectory, known: Inspected, texts: dict[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "seed": trajectory.seed,
        "version": trajectory.policy_version,
        "env": trajectory.env_index,
        "episode": trajectory.episode,
        "first": trajectory.first_step,
        "rewards": [short(reward) for reward in trajectory.rewards],
        "values": _shorts(trajectory.values),
        "logprobs": _shorts(trajectory.logprobs),
        "temperature": trajectory.temperature,
    }
    if trajectory.token_ids is not None:
        found["tokens"] = _tokens(trajectory, known, texts)
    if any(isinstance(action, str) for action in trajectory.actions):
        found["turns"] = [_turn(trajectory, turn) for turn in range(len(trajectory))]
        found["prompt"] = _text(trajectory.prompt if trajectory.prompt is not None else "")
        infos = [*trajectory.infos, trajectory.reset_info]
        found["messages"] = next((m for info in infos[-2:] if (m := _messages(info))), None)
    else:
        found["control"] = _control(trajectory)
    return {key: value for key, value in found.items() if value is not None}


def _tokens(trajectory: Trajectory, known: Inspected, texts: dict[str, int]) -> dict[str, Any]:
    """Columns with an item for each token; ``texts`` numbers the different texts."""
    found = {
        "ids": trajectory.token_ids,
        "mask": trajectory.token_mask,
        "logprobs": _shorts(trajectory.token_logprobs),
        "entropies": _shorts(trajectory.token_entropies),
        "advantages": _shorts(known.token_advantages or trajectory.token_advantages),
        "ratios": _shorts(known.token_ratios),
        "weights": _shorts(trajectory.token_weights),
    }
    if known.token_texts is not None:
        found["texts"] = [texts.setdefault(text, len(texts)) for text in known.token_texts]
    return {key: value for key, value in found.items() if value is not None}


def _turn(trajectory: Trajectory, turn: int) -> dict[str, Any]:
    """What was said in a turn, and what the environment made of it."""
    info = trajectory.infos[turn] if trajectory.infos else {}
    rest = {key: value for key, value in info.items() if key not in _SHOWN_APART}
    after = trajectory.observations[turn + 1 :] or [trajectory.final_observation]
    reply = info.get("turn", after[0] if len(trajectory) > 1 else None)
    return {
        "text": _text(trajectory.actions[turn]),
        "reply": None if reply is None else _text(reply),
        "components": _numbers(info.get("rewards")),
        "info": _json(rest) if rest else None,
    }


def _control(trajectory: Trajectory) -> dict[str, Any]:
    """Observations and actions as rows of numbers, one for each step.

    Returns:
        ``"observations"`` and ``"actions"``: for each plotted number its T values; ``"size"``, how
        many numbers an observation has; ``"shape"``, if these are too many to plot.
    """
    seen = _matrix(trajectory.observations)
    done = _matrix(trajectory.actions)
    return {
        "observations": [] if seen is None else _series(seen[:, :MOST_NUMBERS]),
        "size": 0 if seen is None else seen.shape[1],
        "actions": [] if done is None else _series(done[:, :MOST_NUMBERS]),
    }


def _matrix(items: Sequence[Any]) -> np.ndarray | None:
    """Items as an array (T, K); None if they are not numbers of one shape."""
    try:
        rows = [flat(item) for item in items]
    except (TypeError, ValueError):
        return None
    alike = rows and all(row.shape == rows[0].shape for row in rows)
    return np.stack(rows) if alike else None


def flat(item: Any) -> np.ndarray:
    """An observation, or one of parts, as its numbers in a row.

    Raises:
        TypeError: if it is not numbers.
    """
    if isinstance(item, (dict, tuple)):
        parts = item.values() if isinstance(item, dict) else item
        return np.concatenate([flat(part) for part in parts])
    array = np.asarray(item)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{type(item).__name__} is not numbers")
    return array.astype(float).reshape(-1)


def _series(values: np.ndarray) -> list[list[Any]]:
    return [[short(float(value)) for value in column] for column in values.T]


def _group(first: Trajectory, known: Inspected) -> dict[str, Any]:
    """What the trajectories of a group share, by the first of them."""
    info = first.reset_info
    prompt = first.prompt if first.prompt is not None else info.get("prompt", "")
    example = info.get("example_id")
    return {
        "prompt": _text(prompt),
        "example": None if example is None else _text(example),
        "expected": None if known.expected is None else _text(known.expected),
        "messages": _messages(info),
    }


def _messages(info: dict[str, Any]) -> list[dict[str, str]] | None:
    """A conversation, with its calls of tools as text; None if there is none."""
    messages = info.get("messages")
    if not isinstance(messages, list):
        return None
    return [
        {
            "role": _text(message.get("role", "")),
            "content": _text(message.get("content") or ""),
            **({"name": _text(message["name"])} if message.get("name") else {}),
            **({"calls": _json(message["tool_calls"])} if message.get("tool_calls") else {}),
        }
        for message in messages
        if isinstance(message, dict)
    ]


def _components(trajectory: Trajectory) -> dict[str, float]:
    """The reward components, summed over the turns."""
    found: dict[str, float] = {}
    for info in trajectory.infos:
        for name, value in _numbers(info.get("rewards")).items():
            found[name] = found.get(name, 0.0) + value
    return found


def _numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    return {str(key): float(each) for key, each in value.items() if isinstance(each, (int, float))}


def _signals(
    members: list[int], rewards: list[float], advantages: list[float | None]
) -> list[bool]:
    """Whether the group of each trajectory has a signal.

    It has one if an advantage in it is not 0; if none is recorded, if its rewards differ. A
    trajectory alone has no group to be compared with, and counts as one with a signal.
    """
    known: dict[int, list[tuple[float, float | None]]] = {}
    for group, reward, advantage in zip(members, rewards, advantages):
        known.setdefault(group, []).append((reward, advantage))
    found = {}
    for group, pairs in known.items():
        recorded = [advantage for _, advantage in pairs if advantage is not None]
        scored = {reward for reward, _ in pairs if not math.isnan(reward)}
        found[group] = any(recorded) if recorded else len(pairs) == 1 or len(scored) > 1
    return [found[group] for group in members]


def _advantage(trajectory: Trajectory, known: Inspected) -> float | None:
    """The advantage that is recorded; of tokens, NaN or the one that is largest in size."""
    of_tokens = known.token_advantages or trajectory.token_advantages
    if known.advantage is not None or not of_tokens:
        return known.advantage
    return max(of_tokens, key=lambda value: (math.isnan(value), abs(value)))


def _answer(trajectory: Trajectory) -> str | None:
    """What was extracted from the last completion; None if the environment does not extract."""
    info = trajectory.infos[-1] if trajectory.infos else {}
    if "answer" not in info:
        return None
    return "(none found)" if info["answer"] is None else _text(info["answer"])


def _completion(trajectory: Trajectory) -> str:
    """What the policy wrote; of several turns, each on a line with its number."""
    written = [action for action in trajectory.actions if isinstance(action, str)]
    if len(written) < 2:
        return "".join(written)
    return "\n".join(f"{turn}. {text.strip()}" for turn, text in enumerate(written, 1))


def _is_cut(trajectory: Trajectory) -> bool:
    cut = trajectory.completion_truncated
    return trajectory.truncated if cut is None else bool(cut)


def _end(trajectory: Trajectory) -> str:
    if trajectory.terminated:
        return "terminated"
    return "truncated" if trajectory.truncated else "open"


def _length(trajectory: Trajectory) -> int:
    """Tokens that the policy chose; without tokens, steps."""
    return len(trajectory) if trajectory.token_mask is None else sum(trajectory.token_mask)


def _shorts(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else [short(value) for value in values]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(encode(plain_info(value)), indent=1, ensure_ascii=False)
