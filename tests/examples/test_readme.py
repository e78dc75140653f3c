"""The reading order names every example once."""

import re
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_reading_order_has_every_example():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`([^`]+)`\]\(([^)]+)\) \|", page, re.MULTILINE)
    assert all(name == link for name, link in rows)
    files = [f for kind in ("py", "md", "sh") for f in EXAMPLES.glob(f"**/*.{kind}")]
    names = {f.relative_to(EXAMPLES).as_posix() for f in files} - {"README.md"}
    assert sorted(name for name, _ in rows) == sorted(names)
