"""Renders episodes of control again, for the page: rollouts hold no pictures.

An environment is made only if it is registered already and a rollout's file asks for no settings,
so that no file of somebody else decides what runs. Its episode is played again from the recorded
seed and actions, and shown only if the same observations come.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from textenv.algos.cli.page.episodes import flat
from textenv.algos.episodes.trajectory import Buffer, Trajectory

MOST_FRAMES = 16
"""Frames of an episode, evenly spread, the first and the last included."""

_MODE = "rgb_array"
_WIDEST = 240  # pixels
Frame = tuple[int, str]
"""How many actions there had been, and the picture as base64 of a PNG."""


def render(rollout: Buffer) -> tuple[dict[int, list[Frame]], str]:
    """Render the best and the worst of a rollout's episodes.

    Args:
        rollout: a rollout of control.

    Returns:
        The frames by the episode's number in the rollout, and why there are none, if that is not
        plain: empty if there are some, or if the environment has no pictures.
    """
    source = rollout.source
    spec = None if source is None or source.env_id is None else gym.registry.get(source.env_id)
    if source is None or spec is None or source.env_kwargs or source.env_wrappers:
        return {}, ""
    whole = [n for n, t in enumerate(rollout) if t.seed is not None and not t.first_step and len(t)]
    if not whole or spec.entry_point is None:
        return {}, ""
    named = spec.entry_point
    made: Any = load_env_creator(named) if isinstance(named, str) else named
    if _MODE not in getattr(made, "metadata", {}).get("render_modes", ()):
        return {}, ""
    trajectories = rollout.trajectories
    ranked = sorted(whole, key=lambda number: trajectories[number].total_reward)
    frames: dict[int, list[Frame]] = {}
    try:
        env = gym.make(spec.id, render_mode=_MODE)
        try:
            for number in {ranked[-1], ranked[0]}:
                found = _played(env, trajectories[number])
                if found is None:
                    return {}, f"{spec.id} has no frames here: played again, it goes another way"
                frames[number] = found
        finally:
            env.close()
    except gym.error.DependencyNotInstalled as error:
        return {}, f"{spec.id} has no frames here: {error}"
    return frames, ""


def _played(env: Any, trajectory: Trajectory) -> list[Frame] | None:
    """The frames of an episode; None if other observations come than those recorded."""
    moments = set(np.linspace(0, len(trajectory), MOST_FRAMES).round().astype(int).tolist())
    after = [*trajectory.observations[1:], trajectory.final_observation]
    if not _same(env.reset(seed=trajectory.seed)[0], trajectory.observations[0]):
        return None
    frames = [(0, _png(env.render()))]
    for step, (action, expected) in enumerate(zip(trajectory.actions, after), 1):
        if action not in env.action_space or not _same(env.step(action)[0], expected):
            return None
        if step in moments:
            frames.append((step, _png(env.render())))
    return frames


def _same(one: Any, other: Any) -> bool:
    return np.array_equal(flat(one), flat(other))


def _png(picture: Any) -> str:
    """A picture (H, W, 3) as base64 of a PNG that is at most `_WIDEST` wide."""
    from matplotlib.image import imsave

    pixels = np.asarray(picture, np.uint8)
    every = -(-pixels.shape[1] // _WIDEST)
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(pixels[::every, ::every, :3]), format="png")
    return base64.b64encode(file.getvalue()).decode()
