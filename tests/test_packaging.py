"""What pyproject.toml says of the package."""

import ast
import re
from pathlib import Path

import pytest

import textenv
from textenv.algos.config import read_toml

ROOT = Path(__file__).resolve().parents[1]
TABLE = read_toml(ROOT / "pyproject.toml")
PROJECT = TABLE["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_IN_ALL = {
    "mlx": "a backend; all has the one of the platform",
    "cpu": "a backend",
    "cuda12": "a backend that all cannot choose",
    "cuda13": "a backend that all cannot choose",
    "box2d": "is compiled with some versions of Python",
    "clients": "for tests alone",
    "test": "for tests alone",
    "all": "itself",
}


def named_extras(source):
    """The extras that a source file tells people to install."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for listed in re.findall(r"textenv\[([\w,]+)\]", node.value):
                yield from listed.split(",")
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("MissingDependencyError"):
            given = [k.value for k in node.keywords if k.arg == "extra"] or node.args[1:2]
            yield from (g.value for g in given if isinstance(g, ast.Constant))
        if isinstance(node, ast.Assign) and "EXTRA" in map(ast.unparse, node.targets):
            yield from (n.value for n in ast.walk(node) if getattr(n, "value", "") in EXTRAS)


def test_every_extra_that_a_message_names_exists():
    files = [
        p for folder in ("textenv", "wrappers", "algos") for p in (ROOT / folder).rglob("*.py")
    ]
    named = {name for path in files for name in named_extras(path.read_text(encoding="utf-8"))}
    assert named <= EXTRAS.keys()
    assert named >= {"cpu", "mlx", "sb3", "tasks", "rewards", "tokenizers", "export", "trl"}


@pytest.mark.parametrize(
    "source",
    [
        "raise MissingDependencyError('x', 'nothing', 'A thing')",
        "raise errors.MissingDependencyError('x', extra='nothing', purpose='A thing')",
        "print(\"pip install 'textenv[cpu,nothing]'\")",
    ],
)
def test_the_scan_sees_every_way_to_name_an_extra(source):
    assert "nothing" in set(named_extras(source))


def test_all_has_every_extra_but_those_that_are_left_out():
    taken = re.findall(r"textenv\[([\w,]+)\]", " ".join(EXTRAS["all"]))
    assert {*",".join(taken).split(",")} == EXTRAS.keys() - NOT_IN_ALL.keys()
    for backend in ("cpu", "mlx"):
        for wanted in EXTRAS[backend]:
            name = re.split(r"[;]", wanted)[0].strip()
            assert name == "textenv[cli]" or any(name in line for line in EXTRAS["all"]), name


def test_versions_of_python_and_of_the_package():
    minors = re.findall(r"Python :: 3\.(\d+)", " ".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">=3.{minors[0]}"
    assert PROJECT["version"] == textenv.__version__
    citation = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"version = {{{textenv.__version__}}}" in citation


def test_every_folder_of_modules_is_a_package_of_the_wheel():
    listed = TABLE["tool"]["setuptools"]["packages"]
    homes = {"textenv": "textenv", "wrappers": "textenv.wrappers", "algos": "textenv.algos"}
    found = []
    for folder, package in homes.items():
        for path in (ROOT / folder).rglob("*.py"):
            below = path.parent.relative_to(ROOT / folder).parts
            found.append(".".join([package, *below]))
    assert sorted(listed) == sorted(set(found))


def test_files_that_are_no_modules_ship_too():
    data = TABLE["tool"]["setuptools"]["package-data"]
    homes = {"textenv.algos": "algos", "textenv.wrappers": "wrappers", "textenv": "textenv"}
    shipped = set()
    for package, patterns in data.items():
        home = next(name for name in homes if f"{package}.".startswith(f"{name}."))
        below = package.removeprefix(home).strip(".").replace(".", "/")
        for pattern in patterns:
            shipped |= set((ROOT / homes[home] / below).glob(pattern))
    others = {
        path
        for folder in homes.values()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md")
    }
    assert others == shipped
