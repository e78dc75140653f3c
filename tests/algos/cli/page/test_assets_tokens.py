"""The tokens of an episode in Chromium: their numbers, their colours and the links to them."""

import math
import re

import pytest

from tests.algos.cli.page.conftest import episode, make_run, rollouts
from textenv.algos.storage.inspection import (
    Inspected,
    Inspection,
    inspection_path,
    save_inspection,
)

TINTS = """
return [...document.querySelectorAll('.tokens .token')]
  .map((one) => [one.className, one.style.getPropertyValue('--tint')])
"""


def test_from_the_steps_to_a_token(page, trained):
    """The numbers of a token are those of the rollout's file."""
    shown = page(trained).open()
    shown.click(".tabs a", "Steps")
    shown.until("return document.querySelector('tbody tr')")
    assert len(shown.all("tbody tr")) == 7
    shown.click("td a", "episodes")
    shown.until("return document.querySelector('a.group')")
    shown.click("a.group")
    shown.until("return document.querySelector('.cards')")
    first = [t for t in rollouts(trained)[0] if t.group_id == 0]
    assert [
        card.split("\n")[0].split(" ✓")[0].split(" ✗")[0] for card in shown.all(".card strong")
    ] == [f"reward {t.total_reward:g}" for t in first]
    shown.click("a.card")
    shown.until("return document.querySelector('.tokens')")
    one = first[0]
    assert len(shown.all(".token")) == len(one.token_ids)
    shown.js(
        "document.querySelectorAll('.token')[1]"
        ".dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))"
    )
    (said,) = shown.all(".token-said")
    assert f"id {one.token_ids[1]} " in said
    for name, value in (
        ("probability", math.exp(one.token_logprobs[1])),
        ("log-probability", one.token_logprobs[1]),
        ("entropy", one.token_entropies[1]),
    ):
        told = float(re.search(rf"· {name} (\S+)", said)[1])
        assert told == pytest.approx(value, rel=1e-3)
    assert shown.errors() == []


def test_a_colour_is_as_strong_as_the_value(page, tmp_path):
    """By hand: a log-probability of -4 takes all of the colour, -1 a quarter, 0 none."""
    one = episode("abcd", token_ids=[1, 2, 3, 4], token_mask=[1, 1, 1, 0],
                  token_logprobs=[0.0, -1.0, -6.0, 0.0], token_entropies=[2.0, 0.5, 0.0, 0.0],
                  token_advantages=[1.0, -2.0, 0.5, 0.0])  # fmt: skip
    shown = page(make_run(tmp_path / "run", [[one]])).open("#/episode?step=0&i=0")

    def by(measure):
        shown.js(
            "const list = document.querySelector('.tokenview select'); list.value = arguments[0];"
            "list.dispatchEvent(new Event('change'))",
            measure,
        )
        return shown.js(TINTS)

    theirs = ["token theirs", "0%"]
    assert shown.js(TINTS) == [
        ["token hot", "0%"],
        ["token hot", "25%"],
        ["token hot", "100%"],
        theirs,
    ]
    assert by("entropies") == [
        ["token hot", "100%"], ["token hot", "25%"], ["token hot", "0%"], theirs,
    ]  # fmt: skip
    assert by("advantages") == [
        ["token high", "50%"], ["token low", "100%"], ["token high", "25%"], theirs,
    ]  # fmt: skip
    assert "color=advantages" in shown.place()


def test_advantages_that_are_not_finite_have_no_colour(page, tmp_path):
    """By hand: of 1, NaN, an infinity and -2, the finite ones are coloured by the largest, 2."""
    one = episode("abcd", token_ids=[1, 2, 3, 4], token_mask=[1] * 4, token_logprobs=[-1.0] * 4)
    run = make_run(tmp_path / "run", [[one, one]])
    (file,) = (run / "rollouts").iterdir()
    values = [1.0, math.nan, math.inf, -2.0]
    known = [Inspected(list("abcd"), None, values, values), Inspected(advantage=math.nan)]
    save_inspection(Inspection(1, known), inspection_path(file))
    shown = page(run).open("#/episode?step=0&i=0&color=advantages")
    assert shown.js(TINTS) == [
        ["token high", "50%"], ["token odd", "0%"], ["token odd", "0%"], ["token low", "100%"],
    ]  # fmt: skip
    assert shown.all(".legend")[0].split() == ["\u22122", "+2", "NaN", "or", "∞"]
    for token, said in ((2, "NaN"), (3, "+∞")):
        shown.click(f".token:nth-child({token})")
        assert f"advantage {said} · ratio {said.strip('+')}" in shown.all(".token-said")[0]
    assert "advantage\nNaN" in shown.all(".facts")[0]
    shown.go("#/episode?step=0&i=1&color=advantages")
    shown.until("return document.querySelector('h2').innerText.startsWith('Episode 2 ')")
    assert shown.js(TINTS) == [["token odd", "0%"]] * 4
    shown.go("#/group?step=0&g=0")
    assert all("advantage\nNaN" in card for card in shown.all(".card"))
    assert shown.errors() == []


def test_a_link_leads_to_a_token_and_a_colour(page, tmp_path):
    one = episode("abcd", token_ids=[11, 12, 13, 14], token_mask=[1, 1, 1, 1],
                  token_logprobs=[0.0, -1.0, -6.0, 0.0],
                  token_entropies=[2.0, 0.5, 0.0, 0.0])  # fmt: skip
    shown = page(make_run(tmp_path / "run", [[one, one]])).open("#/episode?step=0&i=0")
    shown.click(".token:nth-child(2)")
    assert "Token 2 of 4" in shown.all(".token-said")[0]
    address = f"{shown.place()}&color=entropies"
    assert "token=2" in address

    shown.open(address)
    assert "Token 2 of 4" in shown.all(".token-said")[0] and "id 12 " in shown.all(".token-said")[0]
    assert shown.js("return document.querySelector('.tokenview select').value") == "entropies"
    assert "token=" not in shown.js(
        "return document.querySelector('main > [data-next]').dataset.next"
    )

    # What is not there is as if it was not asked for: the colours are those of the choice shown.
    shown.open("#/episode?step=0&i=0&color=ratio&token=9")
    assert "Token" not in shown.all(".token-said")[0]
    assert shown.js("return document.querySelector('.tokenview select').value") == "logprobs"
    assert shown.js("return document.querySelectorAll('.token.hot').length") == 4
    assert shown.errors() == []


def test_a_colour_goes_along_to_other_episodes(page, trained):
    """By a key, by a link, up to the group and the list, and down again; each address has it."""
    from selenium.webdriver.common.keys import Keys

    shown = page(trained).open("#/episode?step=0&i=1")
    chosen = "return document.querySelector('.tokenview select')?.value"
    assert shown.js(chosen) == "logprobs"
    shown.js(
        "const list = document.querySelector('.tokenview select'); list.value = 'entropies';"
        "list.dispatchEvent(new Event('change'))"
    )
    shown.keys(Keys.ARROW_RIGHT)
    shown.until("return document.querySelector('h2').innerText.startsWith('Episode 3 of')")
    assert shown.js(chosen) == "entropies" and "color=entropies" in shown.place()
    shown.click(".pager a", "← previous episode")
    shown.until("return document.querySelector('h2').innerText.startsWith('Episode 2 of')")
    assert shown.js(chosen) == "entropies"
    for view in ("group", "episodes"):
        shown.keys("u")
        shown.until("return document.body.dataset.view === arguments[0]", view)
    shown.click("a.group")
    shown.until("return document.querySelector('.leaf')")
    shown.js(
        "document.querySelector('.leaf').dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    assert shown.until(chosen) == "entropies"
    again = page(trained).open(shown.place())
    assert again.js(chosen) == "entropies"
    # The first measure is the usual one, and needs no words in an address.
    again.js(
        "const list = document.querySelector('.tokenview select'); list.value = 'logprobs';"
        "list.dispatchEvent(new Event('change'))"
    )
    assert (
        again.js("return document.querySelectorAll('[href*=color], [data-next*=color]').length")
        == 0
    )
    assert again.errors() == []
