"""Parts that change nothing, their titles, and their generators."""

from dataclasses import dataclass, field

from textenv.algos.strategies.protocols import (
    SLOTS,
    Generation,
    Prompts,
    Reuse,
    Selection,
    Setup,
    Start,
    make_title,
    settings_of,
)


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
