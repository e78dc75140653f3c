"""The file of a page: what it holds, what it may do, how it is written."""

import base64
import gzip
import hashlib
import json
from html.parser import HTMLParser

import pytest

from tests.algos.cli.page.conftest import episode, make_run
from textenv.algos import load_rollout
from textenv.algos.cli.page import page_html, write_page
from textenv.algos.cli.page.html import ASSETS
from textenv.errors import ConfigError, StorageError


class Scripts(HTMLParser):
    """Reads a page as a browser does: its scripts by type and id, and its other elements."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.tags, self.policy, self._id = {}, set(), "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        if tag in ("script", "style"):
            self._id = attrs.get("id", tag)
            self.scripts[self._id] = ""
            assert "src" not in attrs
        if attrs.get("http-equiv") == "Content-Security-Policy":
            self.policy = attrs["content"]

    def handle_data(self, data):
        if self._id is not None:
            self.scripts[self._id] += data

    def handle_endtag(self, tag):
        self._id = None


def held(text):
    """The data of a page, by the names of the blocks."""
    scripts = Scripts(text).scripts
    blocks = {name[6:]: block for name, block in scripts.items() if name.startswith("block-")}
    return {
        name: json.loads(gzip.decompress(base64.b64decode(block))) for name, block in blocks.items()
    }


def test_a_page_holds_its_run(tmp_path):
    rollouts = [[episode("2"), episode("3", 0.0)], [episode("4")]]
    run = make_run(tmp_path / "one", rollouts, [{"step": 1, "reward": 0.5}], summary={"state": "x"})
    data = held(page_html([run]))
    (said,) = data["main"]["runs"]
    assert said["name"] == "one" and said["metrics"] == {"step": [1], "reward": [0.5]}
    assert [(each["step"], each["episodes"]) for each in said["rollouts"]] == [(1, 2), (2, 1)]
    assert data["r0-0-table"]["rows"]["text"] == ["2", "3"]
    assert data["r0-1-details"]["episodes"][0]["turns"][0]["text"] == "4"


def test_only_the_pages_own_script_and_style_may_run(tmp_path):
    found = Scripts(page_html([make_run(tmp_path / "run", [[episode("2")]])]))
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(found.scripts[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in found.policy
    assert "default-src 'none'" in found.policy
    assert not found.tags & {"img", "iframe", "object", "embed", "form", "base"}


def test_text_of_a_model_is_nowhere_in_the_file(tmp_path):
    """Compressed and in base64, it cannot close an element or begin one."""
    text = "</script><script>alert(1)</script>"
    run = make_run(tmp_path / "run", [[episode(text, prompt=text)]], config=f'model = "{text}"\n')
    html = page_html([run])
    assert text not in html and "alert(1)" not in html
    assert held(html)["r0-0-table"]["rows"]["text"] == [text]


def test_a_rollout_that_cannot_be_read_is_a_note(tmp_path):
    run = make_run(tmp_path / "run", [[episode("2")], [episode("3")]])
    first, second = sorted((run / "rollouts").iterdir())
    first.write_text(first.read_text()[:-40])
    other = json.loads(second.read_text()) | {"schema_version": 99}
    third = second.with_name("rollout_2_20260101_000000.json")
    third.write_text(json.dumps(other))
    (said,) = held(page_html([run]))["main"]["runs"]
    assert [each["file"] for each in said["rollouts"]] == [second.name]
    assert len(said["notes"]) == 2 and "cut off" in said["notes"][0]
    assert "schema version 99" in said["notes"][1]


def test_how_many_runs(tmp_path):
    run = make_run(tmp_path / "run", [])
    for runs in ([], [run] * 3):
        with pytest.raises(ConfigError, match=f"one run or two, got {len(runs)}"):
            page_html(runs)
    assert len(held(page_html([run, run]))["main"]["runs"]) == 2


def test_a_page_is_written_whole(tmp_path):
    run = make_run(tmp_path / "run", [])
    file = tmp_path / "view.html"
    file.write_text("old")
    write_page([run], file)
    assert file.read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "view.html"]
    with pytest.raises(StorageError, match=r"nowhere.*cannot be written"):
        write_page([run], tmp_path / "nowhere" / "view.html")


def test_a_page_is_the_same_each_time(tmp_path):
    run = make_run(tmp_path / "run", [[episode("2")]])
    assert page_html([run]) == page_html([run])


def test_what_ships_is_small():
    """What every page carries is at most 600 kB."""
    sizes = {each.name: each.stat().st_size for each in ASSETS.iterdir()}
    assert sum(sizes.values()) < 150_000, sizes


def test_texts_and_tables_of_a_real_run(trained):
    """Each saved trajectory is in the page, with its own reward and text."""
    data = held(page_html([trained]))
    paths = sorted((trained / "rollouts").iterdir())
    assert len(paths) == 3
    for number, path in enumerate(paths):
        rows = data[f"r0-{number}-table"]["rows"]
        rollout = load_rollout(path)
        assert rows["text"] == [t.actions[0] for t in rollout]
        assert rows["reward"] == [t.total_reward for t in rollout]
        assert rows["parent"] == [t.parent for t in rollout]
        assert any(parent is not None for parent in rows["parent"])
    steps = [each["step"] for each in data["main"]["runs"][0]["rollouts"]]
    assert steps == [1, 3, 5]
