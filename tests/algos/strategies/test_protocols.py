"""Parts that change nothing, their titles, and their generators."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from textenv.algos.strategies.protocols import (
    SLOTS,
    Generation,
    Prompts,
    Reuse,
    Selection,
    Setup,
    Start,
    load_rng,
    make_title,
    save_rng,
    settings_of,
)
from textenv.errors import DataError


def test_the_defaults_do_nothing():
    asked = []

    def propose(count):
        asked.append(count)
        return [Start(0, i, None) for i in range(count)]

    assert Prompts().choose(propose, 3) == [Start(0, i, None) for i in range(3)] and asked == [3]
    groups = [[object()], [object(), object()]]
    assert Selection().select(groups) == groups and Selection().rounds == 1
    assert Reuse().extend(groups, 5) == groups

    class Player:
        def chains(self, starts):
            return [f"played {start.seed}" for start in starts]

    assert Generation().play(Player(), propose(2)) == ["played 0", "played 1"]
    assert not Generation().has_trees
    for kind in SLOTS.values():
        part = kind()
        assert part.metrics() == part.state() == {} and part.slot in SLOTS
        part.check(1)
        part.load_state({})


def test_lists_of_groups_are_copies():
    groups = [[object()]]
    for kept in (Selection().select(groups), Reuse().extend(groups, 0)):
        kept.clear()
    assert len(groups) == 1


@dataclass
class Odd(Selection):
    name = "odd"
    keep: int = 4
    how: str | None = None
    by: object = len
    _seen: int = field(default=0, init=False)


def test_settings_are_what_the_constructor_takes():
    part = Odd(keep=2)
    part._seen = 7
    assert settings_of(Odd) == ["keep", "how", "by"] and settings_of(dict) == []
    assert part.settings == {"keep": 2, "how": None, "by": len}
    assert part.plain_settings == {"keep": 2, "how": None, "by": "<built-in function len>"}
    assert part.title == "odd:keep=2,how=None,by=<built-in function len>"
    assert make_title("plain", {}) == "plain"


def test_parts_have_streams_of_their_own():
    def first(seed, name):
        return Setup(None, None, 1, 1, 1, seed).rng(name).integers(2**40)

    assert first(3, "dapo") == first(3, "dapo")
    assert len({first(3, "dapo"), first(4, "dapo"), first(3, "pods")}) == 3
    assert first(None, "dapo") != first(None, "dapo")


def test_generators_go_on_from_where_they_were():
    rng, other = np.random.default_rng(1), np.random.default_rng(2)
    rng.random(5)
    state = save_rng(rng)
    expected = rng.random(4).tolist()
    load_rng(other, state)
    assert other.random(4).tolist() == expected


@pytest.mark.parametrize("state", [{}, None, 3, {"bit_generator": "MT19937"}, {"state": {}}])
def test_what_is_no_state_of_a_generator(state):
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="not the state of a random generator"):
        load_rng(rng, state)
