"""The page in Chromium: every view can be read, and nothing of a model runs.

With ``TEXTENV_SCREENSHOTS`` set to a folder, the views are kept there as pictures.
"""

import math
import os
import re
from pathlib import Path

import pytest

from tests.algos.cli.page.conftest import episode, make_run, rollouts

VIEWS = {
    "curves": "#/curves",
    "steps": "#/steps",
    "episodes": "#/episodes",
    "group": "#/group?step=0&g=0",
    "episode": "#/episode?step=0&i=1",
    "answers": "#/answers",
    "settings": "#/settings",
}

HOSTILE = (
    "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
    "\x1b[31mred\x07 \u202eevil\u202c \u200b[red] 🙂 \u0645\u0631\u062d\u0628\u0627"
)

CONTRAST = """
const parse = (text) => {
  const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
  const most = text.startsWith("color(srgb") ? 1 : 255;
  return [r / most, g / most, b / most, a ?? 1];
};
const over = (top, under) => [0, 1, 2].map((k) => top[k] * top[3] + under[k] * (1 - top[3]));
const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.data.trim();
  const one = walker.currentNode.parentElement;
  if (!text || one.closest("script, noscript, option, svg, .hidden, .skip")) continue;
  const layers = [];
  for (let up = one; up; up = up.parentElement) layers.push(getComputedStyle(up).backgroundColor);
  const back = layers.reverse().reduce((under, layer) => over(parse(layer), under), [1, 1, 1]);
  const ink = over(parse(getComputedStyle(one).color), back);
  const [high, low] = [light(ink), light(back)].sort((x, y) => y - x);
  if (one.checkVisibility()) found.push([(high + 0.05) / (low + 0.05), one.className, text]);
}
return found.sort((x, y) => x[0] - y[0])
"""

UNNAMED = """
const kinds = "button, input, select, a, [role=img], [tabindex='0']";
const named = (one) => one.ariaLabel || one.innerText?.trim() || one.closest("label");
return [...document.querySelectorAll(kinds)]
  .filter((one) => one.checkVisibility() && !named(one)).map((one) => one.outerHTML)
"""

CUT = """
return [...document.querySelectorAll(".scroll")]
  .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.ariaLabel)
"""


def picture(page, name):
    folder = os.environ.get("TEXTENV_SCREENSHOTS")
    if folder:
        page.driver.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_every_view_can_be_read(page, trained, width, dark):
    """No error, no request, nothing wider than the window, contrast of 4.5, a name for all."""
    shown = page(trained).open(width=width, dark=dark)
    for name, place in VIEWS.items():
        shown.go(place)
        shown.until("return document.querySelector('main').children.length")
        picture(shown, f"{name}-{width}-{'dark' if dark else 'light'}")
        assert shown.js("return document.documentElement.scrollWidth") <= width, name
        ratio, *where = shown.js(CONTRAST)[0]
        assert ratio >= 4.5, (name, ratio, where)
        assert shown.js(UNNAMED) == [], name
        if name in ("curves", "answers"):  # the last column is the one that tells most
            assert shown.js(CUT) == [], name
    assert shown.errors() == [] and shown.requests() == []


def test_nothing_of_a_model_runs_or_hides(page, tmp_path):
    """Markup is text, and codes that would turn or hide text are shown as such."""
    one = episode(HOSTILE, prompt=HOSTILE, token_ids=[1], token_mask=[1], token_logprobs=[-1.0])
    one.infos[0] |= {"answer": HOSTILE, "note": HOSTILE, "rewards": {HOSTILE: 1.0}}
    other = episode("x", prompt=HOSTILE, group=0)
    chat = episode("y", group=1)
    chat.infos[0]["messages"] = [{"role": HOSTILE, "content": HOSTILE}]
    record = {"example_id": 0, "prompt": HOSTILE, "expected": HOSTILE, "completions": [HOSTILE]}
    metrics = [
        {"step": 1, f"rewards/{HOSTILE}/mean": 1.0},
        {"step": 2, f"rewards/{HOSTILE}/mean": 0},
    ]
    warning = {"name": HOSTILE, "step": 1, "what": HOSTILE, "remedy": HOSTILE}
    run = make_run(
        tmp_path / "</title><script>window.ran = 1< script>", [[one, other, chat]], metrics,
        'model = "<img src=x onerror=window.ran=1>"\n',
        summary={"warnings": [warning], "state": HOSTILE},
        before={"records": [record]},
    )  # fmt: skip
    shown = page(run, run).open()
    for view in (
        *VIEWS.values(),
        "#/episode?step=0&i=0",
        "#/episode?step=0&i=2",
        "#/episodes?q=<b>",
    ):
        shown.go(view)
        shown.until("return document.querySelector('main').children.length")
        assert shown.js("return window.ran ?? null") is None
        assert shown.js("return document.querySelectorAll('main img, main script').length") == 0
        hidden = "[\\x00-\\x08\\x0b-\\x1f\\u200b-\\u200f\\u202a-\\u202e]"
        assert not shown.js(f"return new RegExp({hidden!r}).test(document.body.innerText)"), view
    shown.go("#/episode?step=0&i=0")
    text = shown.until("return document.querySelector('.messages')?.innerText")
    assert "</script><script>window.ran = 1</script>" in text
    for code in ("\\x1b", "\\x07", "\\u202e", "\\u200b"):
        assert code in shown.all(".escape")
    assert "🙂" in text and "\u0645\u0631\u062d\u0628\u0627" in text
    assert shown.errors() == [] and shown.requests() == []


def test_a_million_characters_and_ten_thousand_tokens(page, tmp_path):
    size = 10_000
    tokens = {"token_ids": list(range(size)), "token_mask": [1] * size,
              "token_logprobs": [-1.0] * size}  # fmt: skip
    long = episode("x" * 1_000_000, prompt="y" * 1_000_000, **tokens)
    shown = page(make_run(tmp_path / "run", [[long]])).open("#/episodes")
    assert shown.js("return document.body.innerText.length") < 10_000
    shown.go("#/episode?step=0&i=0")
    shown.until("return document.querySelector('.tokens')")
    assert len(shown.all(".token")) == 4000
    shown.click(".tokenview .more")
    shown.click(".tokenview .more")
    assert len(shown.all(".token")) == size
    assert shown.js("return document.querySelector('.messages').innerText.length") < 20_000
    shown.click(".messages button", "Show all 1,000,000 characters")
    assert shown.js("return document.querySelector('.messages').innerText.length") > 1_000_000
    assert shown.errors() == []


def test_metrics_that_are_not_numbers(page, tmp_path):
    metrics = [{"step": n, "reward": n / 4, "loss": math.inf if n == 2 else n, "kl": math.nan}
               for n in range(1, 5)]  # fmt: skip
    shown = page(make_run(tmp_path / "run", [], metrics)).open()
    labels = shown.js("return [...document.querySelectorAll('.canvas')].map((o) => o.ariaLabel)")
    assert "Curve of reward over steps. value: from 0.25 to 1, lowest 0.25, highest 1" in labels
    (loss,) = [label for label in labels if "loss" in label]
    assert "some values are NaN or infinite" in loss and "from 1 to 4" in loss
    shown.go("#/steps")
    assert any("∞" in row and "NaN" in row for row in shown.all("tbody tr"))
    assert shown.errors() == []


def test_curves_are_drawn_against_what_is_chosen(page, trained):
    shown = page(trained).open("#/curves?x=tokens")
    assert shown.until("return document.querySelectorAll('canvas').length") >= 4
    inked = shown.js(
        "const canvas = document.querySelector('canvas');"
        "const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "return pixels.data.filter((value, k) => k % 4 === 3 && value > 0).length"
    )
    assert inked > 500
    label = shown.js("return document.querySelector('.canvas').ariaLabel")
    rewards = [sum(t.total_reward for t in saved) / len(saved) for saved in rollouts(trained)]
    assert label.startswith("Curve of reward over tokens. value: from")
    assert float(re.search(r"from ([\d.]+)", label)[1]) == pytest.approx(rewards[0], abs=1e-4)
    axes = shown.js(
        "return [...document.querySelectorAll('select')[0].options].map((o) => o.value)"
    )
    assert axes == ["steps", "seconds", "tokens"]


def test_two_runs_side_by_side(page, tmp_path):
    records = [[{"example_id": n, "prompt": f"p{n}", "expected": "1", "completions": [text],
                 "correct": [text == "1"]} for n, text in enumerate(texts)]
               for texts in (["1", "2", "2"], ["1", "1", "2"])]  # fmt: skip
    metrics = [{"step": n, "reward": n / 2} for n in (1, 2)]
    one = make_run(tmp_path / "one", [[episode("2")]], metrics, "a = 1\nb = 2\n",
                   after={"records": records[0]})  # fmt: skip
    two = make_run(tmp_path / "two", [[episode("3")]], metrics, "a = 1\nb = 3\nc = 4\n",
                   after={"records": records[1]})  # fmt: skip
    shown = page(one, two).open()
    assert "A: from 0.5 to 1" in shown.js("return document.querySelector('.canvas').ariaLabel")
    assert "B: from 0.5 to 1" in shown.js("return document.querySelector('.canvas').ariaLabel")
    shown.go("#/settings")
    assert [row.split("\t") for row in shown.all("tbody tr")] == [
        ["b", "2", "3"],
        ["c", "\u2013", "4"],
    ]
    shown.go("#/answers")
    assert shown.all("[role=status]") == ["3 examples of 3"]
    shown.click(".chip", "now right")
    assert shown.all("[role=status]") == ["1 example of 3"]
    assert "p1" in shown.all("tbody tr")[0] and "✓" in shown.all("tbody tr")[0]
    shown.go("#/episode?run=1&step=0&i=0")
    assert "3" in shown.until("return document.querySelector('.messages')?.innerText")
    assert shown.errors() == []


def test_keys(page, trained):
    from selenium.webdriver.common.keys import Keys

    shown = page(trained).open("#/group?step=0&g=0")
    shown.keys(Keys.ARROW_RIGHT)
    shown.until("return document.querySelector('h2')?.innerText.startsWith('Group 2 ')")
    shown.keys(Keys.ARROW_DOWN, Keys.ENTER)
    shown.until("return document.body.dataset.view === 'episode'")
    assert shown.all("h2")[0].startswith("Episode 9 of 32")
    shown.js("document.querySelector('.tokens').focus()")
    shown.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert shown.all(".token-said")[0].startswith("Token 2 of ")
    shown.js("document.activeElement.blur()")
    shown.keys("u")
    shown.until("return document.body.dataset.view === 'group'")
    shown.keys("?")
    assert shown.js("return document.querySelector('dialog').open")
    shown.keys(Keys.ESCAPE)
    assert not shown.js("return document.querySelector('dialog').open")
    shown.keys("/")
    shown.until("return document.activeElement.id === 'search'")
    shown.keys("5", Keys.ESCAPE, "5")
    shown.until("return document.body.dataset.view === 'settings'")
    before = shown.js("return getComputedStyle(document.body).backgroundColor")
    shown.keys("t")
    assert shown.js("return getComputedStyle(document.body).backgroundColor") != before


def test_a_run_without_anything_says_so(page, tmp_path):
    shown = page(make_run(tmp_path / "run", [], config="")).open()
    for view in ("curves", "steps", "episodes", "answers", "settings"):
        shown.go(f"#/{view}")
        assert shown.until("return document.querySelector('.empty')?.innerText"), view
    shown.go("#/episode?step=7&i=3")
    assert "not in the page" in shown.until("return document.querySelector('.empty')?.innerText")
    shown.go("#/group?step=x&g=y")
    assert "not in the page" in shown.until("return document.querySelector('.empty')?.innerText")
    assert shown.errors() == []
