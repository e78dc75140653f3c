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
        ("`textenv.algos.nothing`", 1),
        ("pip install 'textenv[cpu,nothing]'", 1),
        ('pip install -e ".[nothing]"', 1),
    ],
)
def test_the_check_finds_what_is_missing(text, bad, make_page, root):
    assert len(list(missing(make_page(text), root))) == bad
