"""Coordinators that are closed at the end."""

from __future__ import annotations

from functools import partial

import pytest

from tests.algos.rollouts.shared import GROUPS_OF_4, make_sums
from tests.algos.shared import make_policy
from textenv.algos import RolloutCoordinator


@pytest.fixture(scope="module")
def coordinate(tiny_folder):
    """``coordinate(num_workers, ...)``: a coordinator of GRPO on 10 prompts."""
    made = []

    def coordinate(
        num_workers, create_env=make_sums, strategy=GROUPS_OF_4, max_steps=41, create=None, **more
    ):
        create = create or partial(make_policy, str(tiny_folder), top_p=0.9)
        made.append(
            RolloutCoordinator(create_env, create, strategy, num_workers, max_steps, **more)
        )
        return made[-1]

    yield coordinate
    for coordinator in made:
        coordinator.close()
