"""Prompts in the uniform order are what comes without a part."""

from __future__ import annotations

from tests.algos.strategies.shared import make_runner, plain
from textenv.algos import create_strategy
from textenv.algos.strategies import make_part


def test_uniform_is_what_comes_without_a_part(answers):
    one, two = (
        make_runner(answers, "uniform", True),
        make_runner(answers, make_part("uniform"), True),
    )
    two.strategy = create_strategy("grpo", num_generations=4)
    for _ in range(3):
        assert plain(one.collect()) == plain(two.collect())
    assert one.strategy.prompts.skipped == 0
