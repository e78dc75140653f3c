"""Parts by name, and the strings that configure them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import partial

import pytest

from tests.algos.shared import SUMS, make_env
from textenv.algos import RolloutRunner, create_strategy
from textenv.algos.strategies import Generation, Selection, make_part, names, register, registry
from textenv.algos.strategies.protocols import SLOTS
from textenv.errors import ConfigError, ConfigTypeError, MissingFileError

make_sums = partial(make_env, prompts=SUMS)


@pytest.fixture
def own_names(monkeypatch):
    """Parts that are registered here are forgotten afterwards."""
    monkeypatch.setattr(registry, "_registered", {})


def test_every_built_in_part_is_called_what_it_is_registered_as():
    for name in names():
        part = make_part(name)
        assert part.name == name
        assert part.slot in SLOTS
        assert isinstance(part, SLOTS[part.slot])
        assert make_part(part) is part


def test_a_part_of_ones_own_in_five_lines(own_names):
    @register("shortest")
    @dataclass
    class Shortest(Selection):
        keep: int = 4

        def select(self, groups):
            return [sorted(g, key=lambda t: len(t.actions[0]))[: self.keep] for g in groups]

    def policy(observation):
        policy.count += 1
        return "a" * (policy.count * 7 % 5), {}

    policy.count = 0
    strategy = create_strategy("grpo", num_generations=4, parts=["shortest:keep=2"])
    rollout = RolloutRunner(make_sums(), policy, strategy, max_steps=8).collect()
    # lengths 2 4 1 3 | 0 2 4 1
    assert [len(t.actions[0]) for t in rollout] == [1, 2, 0, 1]
    assert "shortest" in names()
    with pytest.raises(ConfigError, match="'shortest' is registered already"):
        register("shortest")
    with pytest.raises(ConfigError, match="'dapo' is registered already"):
        register("dapo")
    with pytest.raises(
        ConfigTypeError, match="derive from one of Prompts, Generation, Selection, Reuse; got"
    ):
        register("other")(dict)
    with pytest.raises(ConfigError, match="letters, digits"):
        register("a:b")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (["dapp"], "unknown strategy part 'dapp'; did you mean 'dapo'.*Known: .*pods.*overlong"),
        (["pods:keeps=3"], "'pods:keeps=3': unknown setting 'keeps'; did you mean 'keep'"),
        (["pods:keep=many"], "'pods:keep=many': keep must be int, got 'many'"),
        (["pods:keep"], "expected name:key=value,key=value, got 'keep'"),
        (["pods:keep=2,keep=3"], "got 'keep=3'"),
        (["uniform", "greso"], "one part for its prompts, got 'uniform' and 'greso"),
        ([Generation(), Generation()], "one part for its generation"),
    ],
)
def test_bad_parts_are_named(parts, words):
    with pytest.raises(ConfigError, match=words):
        create_strategy("grpo", parts=parts)


CODE = """
from dataclasses import dataclass, field
from textenv.algos.strategies import Selection

@dataclass
class Shortest(Selection):
    keep: int = 4
    seen: int = field(default=0, init=False)

    def select(self, groups):
        self.seen += len(groups)
        return [sorted(g, key=lambda t: len(t.actions[0]))[: self.keep] for g in groups]

two = Shortest(2)
number = 3
"""


@pytest.fixture
def at(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    return lambda name: f"{tmp_path / 'mine.py'}:{name}"


def test_a_part_of_a_file(at):
    def policy(observation):
        policy.count += 1
        return "a" * (policy.count * 7 % 5), {}

    for name in ("Shortest:keep=2", "two"):
        policy.count = 0
        strategy = create_strategy("grpo", num_generations=4, parts=[at(name)])
        rollout = RolloutRunner(make_sums(), policy, strategy, max_steps=8).collect()
        assert [len(t.actions[0]) for t in rollout] == [1, 2, 0, 1]  # as in five lines, above
        assert strategy.parts[0].title == "Shortest:keep=2" and strategy.parts[0].seen == 2
    assert pickle.loads(pickle.dumps(strategy)).selection == strategy.selection
    assert make_part(at("two")).seen == 0  # each run has an object of its own


def test_what_is_no_part_of_a_file_says_so(at, tmp_path):
    for name, says in (
        ("Short", r"has no strategy part 'Short'; it has Shortest, two"),
        ("number", r"must derive from one of .*mine\.py:number, of type int"),
        ("Shortest:kep=2", "unknown setting 'kep'; did you mean 'keep'"),
        ("Shortest:keep=two", "keep must be int, got 'two'"),
        ("two:keep=2", "is an object, which takes no settings"),
    ):
        with pytest.raises((ConfigError, ConfigTypeError), match=says):
            make_part(at(name))
    with pytest.raises(MissingFileError, match=r"none\.py is not a file"):
        make_part(f"{tmp_path / 'none.py'}:Shortest")
