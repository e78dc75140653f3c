"""What a strategy leaves in trajectories: written and read again in every format."""

from __future__ import annotations

import json

import pytest

from textenv import TextGenerationEnv
from textenv.algos import RolloutRunner, create_policy, create_strategy, load_rollout
from textenv.algos.storage.files import FORMATS
from textenv.algos.storage.format_json import SCHEMA_PATH
from textenv.algos.storage.source import describe_source

NEEDS = {"parquet": "pyarrow", "minari": "minari"}


@pytest.fixture(scope="module")
def rollout(tiny):
    env = TextGenerationEnv(["a", "b"], lambda p, c, e: float(len(c)))
    policy = create_policy(*tiny, {"max_tokens": 6})
    runner = RolloutRunner(env, policy, create_strategy("grpo", num_generations=3), max_steps=6)
    rollout = runner.collect()
    first, second, third, *_ = rollout
    second.parent, second.branch_at = 0, 0
    third.parent, third.branch_at = 1, 2
    third.token_weights = [1 / 3] * len(third.token_ids)
    second.token_advantages = [-0.1] * len(second.token_ids)
    first.shaping = -0.25
    rollout.source = describe_source(runner)
    return rollout


@pytest.mark.parametrize("ending", list(FORMATS))
def test_a_tree_comes_back_from_every_format(rollout, tmp_path, ending):
    if ending in NEEDS:
        pytest.importorskip(NEEDS[ending])
    again = load_rollout(rollout.save(tmp_path / f"r.{ending}"))
    assert again == rollout
    assert [(t.parent, t.branch_at, t.shaping) for t in again][:4] == [
        (None, None, -0.25),
        (0, 0, None),
        (1, 2, None),
        (None, None, None),
    ]
    again.trajectories[2].branch_at = 3
    assert again != rollout


def test_the_schema_allows_it_and_no_more(rollout, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    valid = jsonschema.Draft202012Validator(json.loads(SCHEMA_PATH.read_text()))
    content = json.loads(rollout.save(tmp_path / "r.json").read_text())
    valid.validate(content)
    rows = content["trajectories"]
    assert "parent" not in rows[0] and rows[2]["parent"] == 1
    for name, value in [("parent", -1), ("branch_at", "2"), ("token_weights", 1.0)]:
        broken = {**content, "trajectories": [rows[0], {**rows[1], name: value}]}
        assert not valid.is_valid(broken)
