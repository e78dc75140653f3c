"""Each block of Python and shell of a page runs as it stands, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LANGUAGES = {"python", "bash", "text", "json", "toml", "bibtex"}

# The blocks of a page run one after another in one process; those of Python share a namespace.
RUNNER = """
import json, subprocess, sys, types

page = sys.modules["__main__"] = types.ModuleType("__main__")
for name, line, language, code in json.loads(sys.argv[1]):
    print(f"== {name}, line {line}", flush=True)
    if language == "python":
        exec(compile("\\n" * (line - 1) + code, name, "exec"), page.__dict__)
    else:
        subprocess.run(["bash", "-e", "-c", code], check=True, stdin=subprocess.DEVNULL)
"""


def run_blocks(page, folder) -> None:
    """Run the blocks that are not marked, in their order.

    Raises:
        pytest.fail.Exception: if one fails; says which, and what was printed.
    """
    blocks = [block for block in page.blocks if block.is_code and block.reason is None]
    if not blocks:
        return
    todo = [(page.name, block.line, block.language, block.code) for block in blocks]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # A block that downloads something must be marked.
    offline = {"PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1"}
    environ = os.environ | offline | {"PATH": path, "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(todo)],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    if done.returncode:
        pytest.fail(done.stdout[-6000:], pytrace=False)


def test_code_runs(page, tmp_path):
    for name in ("stable_baselines3", "torch"):
        if re.search(rf"^(from|import) {name}\b", page.text, re.M):
            pytest.importorskip(name)
    run_blocks(page, tmp_path)


PAGE = """
```python
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class One:
    x: int = 1
```

```bash
textenv --help > help.txt
```

```python
assert One().x == 1 and "usage" in open("help.txt").read()
```

<!-- not run: it would fail -->
```python
assert False
```
"""


def test_a_page_is_one_program(make_page, tmp_path):
    run_blocks(make_page(PAGE), tmp_path)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("```python\nassert One().x == 2\n```", "AssertionError"),
        ("```python\n1 +\n```", "SyntaxError"),
        ("```bash\nfalse\ntrue\n```", "CalledProcessError"),
        ("```bash\ntextenv nothing\n```", "unknown command"),
        ("<!-- not run -->\n```bash\nfalse\n```", "CalledProcessError"),
        ("<!-- not run: a blank line follows -->\n\n```bash\nfalse\n```", "CalledProcessError"),
    ],
)
def test_a_block_that_fails_is_found(block, message, make_page, tmp_path):
    page = make_page(f"{PAGE}\n{block}\n")
    line = page.blocks[-1].line
    with pytest.raises(pytest.fail.Exception, match=rf"page\.md, line {line}\n(.|\n)*{message}"):
        run_blocks(page, tmp_path)


def escaped(page) -> Iterator[str]:
    """Blocks of a language that is not checked, and marks that stand above no block."""
    for block in page.blocks:
        if block.language not in LANGUAGES:
            yield f"{page.name}:{block.line}: {block.language!r} is none of {sorted(LANGUAGES)}"
    marks = len(re.findall(r"^\s*<!--\s*not run", page.prose, re.M))
    marked = sum(block.is_code and block.reason is not None for block in page.blocks)
    if marks != marked:
        yield f"{page.name}: {marks} marks 'not run' for {marked} blocks"


def test_no_block_escapes(page):
    assert list(escaped(page)) == []


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("```text\na\n```\n```python\n```", 0),
        ("<!-- not run: why -->\n<!-- train -->\n```bash\nfalse\n```", 0),
        ("```\ntextenv train\n```", 1),
        ("```sh\ntextenv train\n```", 1),
        ("<!-- not run: why -->\n\n```bash\nfalse\n```", 1),
        ("<!-- not run -->\n```bash\nfalse\n```", 1),
        ("<!-- not run: why -->\n```text\nfalse\n```", 1),
    ],
)
def test_the_check_finds_blocks_that_escape(text, bad, make_page):
    assert len(list(escaped(make_page(text)))) == bad
