"""The page in Chromium, of runs whose files hold names and values that no run of ours writes."""

from tests.algos.cli.page.conftest import make_run

NONE = "\u2013"  # what a run does not have


def test_names_that_every_object_of_javascript_has(page, tmp_path):
    """One run has a metric and a setting called "constructor", and the other has not."""
    rows = [{"step": n, "constructor": n / 2, "__proto__": n} for n in (1, 2)]
    one = make_run(tmp_path / "one", [], rows, config="constructor = 1\n__proto__ = 2\n")
    other = make_run(
        tmp_path / "other", [], [{"step": 1, "loss": 1}, {"step": 2, "loss": 2}], "a = 3\n"
    )
    shown = page(one, other).open()
    titles = shown.all(".chart figcaption")
    assert {"constructor", "__proto__", "loss"} <= {title.split()[0] for title in titles}
    shown.go("#/settings")
    cells = [text.split() for text in shown.all("table.answers tbody tr")]
    assert sorted(cells) == [
        ["__proto__", "2", NONE], ["a", NONE, "3"], ["constructor", "1", NONE],
    ]  # fmt: skip
    assert shown.errors() == []


def test_a_metric_that_is_never_finite_has_no_curve(page, tmp_path):
    rows = [{"step": 1, "loss": float("nan"), "kl": float("inf")}]
    shown = page(make_run(tmp_path / "run", [], rows)).open()
    assert shown.all(".chart p.empty") == ["No finite values."] * len(shown.all(".chart"))
    assert shown.errors() == []


def test_answers_of_other_types_can_be_searched(page, tmp_path):
    records = [
        {"example_id": 1, "prompt": 5, "completions": "text", "correct": "x"},
        {"example_id": 2, "completions": 7},
        {},
    ]
    run = make_run(tmp_path / "run", [], after={"records": records})
    shown = page(run).open("#/answers?q=7")
    assert len(shown.all("table.answers tbody tr")) == 1
    shown.go("#/answers?q=text")
    assert len(shown.all("table.answers tbody tr")) == 1
    assert shown.errors() == []
