"""How many operations of MLX a step takes: what makes a step slower is seen without a clock.

The limits are what was counted on a CPU, and a fiftieth more. Whoever needs more operations raises
them, and says in the commit what for.
"""

import re
import sys
from collections import Counter
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from textenv.algos import GRPOConfig, GRPOTrainer


def operations(path, *outputs):
    """The operations that these outputs, which are not evaluated yet, still need, by name."""
    arrays = [leaf for _, leaf in tree_flatten(list(outputs)) if isinstance(leaf, mx.array)]
    mx.export_to_dot(str(path), *arrays)
    return Counter(re.findall(r'label ="(\w+)[^"]*", shape=rectangle', path.read_text("utf-8")))


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """The operations of each call of ``mx.eval`` and ``mx.async_eval``, by the caller's file."""
    seen = {}

    def watch(evaluate):
        def watched(*outputs):
            caller = Path(sys._getframe(1).f_code.co_filename).name
            seen.setdefault(caller, []).append(operations(tmp_path / "graph.dot", *outputs))
            return evaluate(*outputs)

        return watched

    monkeypatch.setattr(mx, "eval", watch(mx.eval))
    monkeypatch.setattr(mx, "async_eval", watch(mx.async_eval))
    return seen


def test_operations_that_are_shared_count_once(tmp_path):
    a = mx.zeros((2, 2))
    mx.eval(a)
    product = a @ a
    found = operations(tmp_path / "graph.dot", {"sum": product.sum()}, [product + a])
    assert found["Matmul"] == found["Sum"] == found["Add"] == 1


def test_a_step_takes_no_more_operations_than_before(evaluated):
    config = GRPOConfig(num_prompts=4, num_generations=4, max_completion_length=8, max_steps=2)
    GRPOTrainer("tiny-lm", "TextGen-v0", config, env_kwargs={"task": "arithmetic"}).train()
    decoding, updates = evaluated["generator.py"], evaluated["gradient.py"]
    assert len(updates) == 2
    plain = min(decoding, key=Counter.total)  # a step in which no row ends and none is added
    *_, norm, moved, rest = evaluated["optimizer.py"]
    assert not rest
    for found, most, products in (
        (plain, 640, 34),
        (updates[-1], 2084, 133),
        (norm, 394, 0),
        (moved, 44, 0),
    ):
        assert found.total() <= most, found
        assert found["Matmul"] <= products, found
