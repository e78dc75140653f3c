"""Files, modules and extras that a page names exist."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator

import pytest

from textenv.algos.config import read_toml

FOLDERS = r"(textenv|wrappers|algos|examples|tests|\.github|\.ci)"


def missing(page, root) -> Iterator[str]:
    for span in page.spans:
        if re.fullmatch(rf"{FOLDERS}/[\w./-]*", span) and not (root / span).exists():
            yield f"{page.name}: no file {span}"
        if named := re.fullmatch(r"(tests/[\w./-]+\.py)::(\w+)", span):
            file, test = root / named[1], named[2]
            if not file.exists() or f"\ndef {test}(" not in file.read_text(encoding="utf-8"):
                yield f"{page.name}: no test {span}"
        if re.fullmatch(r"textenv(\.\w+)+", span):
            try:
                pkgutil.resolve_name(span)
            except (ImportError, AttributeError):
                yield f"{page.name}: no module or name {span}"
    extras = read_toml(root / "pyproject.toml")["project"]["optional-dependencies"]
    for listed in re.findall(r"(?:textenv|[\"'\s]\.)\[([\w,]+)\]", page.text):
        for extra in listed.split(","):
            if extra not in extras:
                yield f"{page.name}: no extra {extra}"


def test_names_exist(current_page, root):
    assert list(missing(current_page, root)) == []


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("`algos/cli/`, `examples/plain_loop.py`, `textenv.algos.grpo`, `textenv.wrappers`", 0),
        ("`pip install 'textenv[cpu]'`, `pip install -e '.[sb3,tasks]'`, [a link](LICENSE)", 0),
        ("`textenv.algos.export_onnx` and `textenv.nothing`", 1),
        ("`algos/nothing.py`", 1),
        ("`tests/docs/test_names.py::test_names_exist`", 0),
        ("`tests/docs/test_names.py::test_nothing`", 1),
        ("`tests/docs/test_nothing.py::test_names_exist`", 1),
        ("`textenv.algos.nothing`", 1),
        ("pip install 'textenv[cpu,nothing]'", 1),
        ('pip install -e ".[nothing]"', 1),
    ],
)
def test_the_check_finds_what_is_missing(text, bad, make_page, root):
    assert len(list(missing(make_page(text), root))) == bad


def test_each_promise_names_a_test(root):
    text = (root / "examples" / "reliability.md").read_text(encoding="utf-8")
    rows = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("|")]
    promises = [row for row in rows if row[1].strip() not in ("promise", "---")]
    assert len(promises) > 30
    for row in promises:
        assert re.search(r"`tests/[\w./-]+::test_\w+`", row[2]), row[1]
