"""What the page says before its data is unpacked, and if it cannot be."""

import re

import pytest

from tests.algos.cli.page.conftest import episode, make_run

EARLY = "Page.addScriptToEvaluateOnNewDocument"
HELD = """
const whole = Blob.prototype.stream;
const held = new Promise((go) => { window.unpackNow = go; });
Blob.prototype.stream = function () {
  const parts = whole.call(this).getReader();
  return new ReadableStream({ async pull(to) {
    await held;
    const { done, value } = await parts.read();
    if (done) to.close(); else to.enqueue(value);
  } });
};
"""
SAID = "return document.querySelector('#loading[role=status]')?.innerText"


@pytest.fixture
def early(browser):
    """``early(script)`` runs a script before those of every page that is opened in the test."""
    known = []

    def early(script):
        known.append(browser.execute_cdp_cmd(EARLY, {"source": script})["identifier"])

    yield early
    for each in known:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": each})


def test_it_says_that_it_loads_until_the_first_view_stands(page, early, tmp_path):
    early(HELD)
    shown = page(make_run(tmp_path / "run", [[episode("2")]]))
    shown.driver.get(f"{shown.file.as_uri()}#/episodes")
    shown.until(
        "return document.querySelector('#loading')?.checkVisibility({visibilityProperty: true})"
    )
    assert shown.js(SAID) == "Loading..."
    assert shown.js("return document.body.dataset.ready ?? null") is None
    shown.js("unpackNow()")
    shown.until("return document.body.dataset.ready")
    assert shown.js(SAID) is None and len(shown.all("a.group")) == 1


def test_a_browser_that_cannot_unpack_is_told(page, early, tmp_path):
    early("delete window.DecompressionStream")
    shown = page(make_run(tmp_path / "run", []))
    shown.driver.get(shown.file.as_uri())
    assert "this browser cannot unpack its data" in shown.until(SAID)
    assert shown.js("return document.querySelector('#page').childElementCount") == 0


@pytest.mark.parametrize("name", ["main", "r0-0-table"])
def test_data_that_is_cut_off_is_told(page, tmp_path, name):
    shown = page(make_run(tmp_path / "run", [[episode("2")]]))
    text, found = re.subn(
        rf'(id="block-{name}">)[^<]+', r"\1H4sIAAAAAAAC/w==", shown.file.read_text()
    )
    assert found == 1
    shown.file.write_text(text)
    shown.driver.get("about:blank")
    shown.driver.get(f"{shown.file.as_uri()}#/episodes")
    said = shown.until("return document.querySelector('.empty:not(.waiting)')?.innerText")
    assert "its data cannot be unpacked, since the file was cut off or changed" in said
    if name != "main":  # the other views are there
        shown.go("#/settings")
        assert len(shown.all("tbody tr")) == 1


def test_without_scripts_it_says_why_there_is_nothing(page, tmp_path):
    shown = page(make_run(tmp_path / "run", []))
    shown.driver.get("about:blank")
    shown.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        shown.driver.get(shown.file.as_uri())
        said = shown.js("return document.body.innerText")
        assert "scripts are turned off here" in said and "Loading" not in said
    finally:
        shown.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_halves_of_characters_are_shown_as_codes(page, tmp_path):
    """A lone half of a surrogate pair has a code; a whole pair, as an emoji has, is itself."""
    shown = page(make_run(tmp_path / "run", [[episode("a\ud83d \ude42b 🙂")]]))
    shown.open("#/episode?step=0&i=0")
    assert "a\\ud83d \\ude42b 🙂" in shown.all(".message")[1]
    assert shown.all(".escape") == ["\\ud83d", "\\ude42"] and shown.errors() == []
