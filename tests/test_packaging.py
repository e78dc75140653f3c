"""What pyproject.toml says of the package."""

import ast
import importlib.metadata
import re
import subprocess
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
    "ray": "for several machines; 240 MB",
    "wandb": "a tracker; 60 MB, and of use with an account alone",
    "trackio": "a tracker; it brings a server",
    "mlflow": "a tracker; it brings a server and a database",
    "gem": "asks for an old reasoning-gym",
    "openenv": "90 packages, those of a server too",
    "verifiers": "asks for an old openai",
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
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("how_to_install"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))
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
        "print(how_to_install('nothing'))",
    ],
)
def test_the_scan_sees_every_way_to_name_an_extra(source):
    assert "nothing" in set(named_extras(source))


def test_nothing_says_to_install_textenv_from_the_index():
    """On PyPI the name is not this package's, so such a command would run somebody else's code."""
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*.t*ml"), *(ROOT / ".github").rglob("*")):
        assert "install textenv" not in (path.read_text("utf-8") if path.is_file() else ""), path
    for folder in ("textenv", "wrappers", "algos", "examples"):
        for path in (p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md")):
            found = re.search(r"install\b.*\btextenv(\[|['\"`\s]|$)", path.read_text("utf-8"))
            assert not found, f"{path}: {found and found[0]}"


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


def read_pins():
    """The names and versions of ``constraints.txt``."""
    return re.findall(r"^([\w-]+)==([\w.+]+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.M)


def test_the_pins_are_within_the_bounds():
    """Each package that is asked for by name has a pin, if any, that its lower bound allows."""
    version = pytest.importorskip("packaging.version").Version
    pins = {name.replace("_", "-"): version(pin) for name, pin in read_pins()}
    bounds = re.findall(
        r"^([\w-]+)(?:\[\w+\])?>=([\w.]+)",
        "\n".join(
            [*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]
        ),
        re.M,
    )
    assert {"mlx", "mlx-lm", "tyro", "gymnasium"} <= {name for name, _ in bounds} & pins.keys()
    for name, bound in bounds:
        assert name not in pins or pins[name] >= version(bound), name


def installed(name):
    """What an installed package says of itself; None if it is not installed."""
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def test_the_pins_are_for_every_promised_python():
    """By what those of them say that are installed here: four asked for more than was promised."""
    versions = pytest.importorskip("packaging.version")
    specifiers = pytest.importorskip("packaging.specifiers")
    promised = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    pins = read_pins()
    found = {name: found for name, _ in pins if (found := installed(name))}
    for name, pin in pins:
        if name in found and versions.Version(found[name].version).public == pin:
            says = specifiers.SpecifierSet(found[name].metadata["Requires-Python"] or "")
            for python in promised:
                assert says.contains(f"{python}.0"), f"{name}=={pin} needs Python {says}"
    assert {"numpy", "gymnasium", "pytest"} <= found.keys()


def test_the_pins_agree_with_each_other():
    """By what the installed ones require: MLflow 3.17 needed pyarrow below 26."""
    requirement = pytest.importorskip("packaging.requirements").Requirement
    pins = {name.replace("_", "-").lower(): pin for name, pin in read_pins()}
    seen = set()
    for name, pin in pins.items():
        here = installed(name)
        if here is None or here.version.split("+")[0] != pin:
            continue
        for needed in map(requirement, here.requires or []):
            other = needed.name.replace("_", "-").lower()
            if other in pins and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                assert needed.specifier.contains(pins[other]), f"{name}=={pin} needs {needed}"
                seen.add((name, other))
    assert ("mlx-lm", "transformers") in seen


def test_the_readmes_test_command_takes_no_torch():
    """On Linux, torch from PyPI brings CUDA: what the extras require, and what that requires."""
    requirement = pytest.importorskip("packaging.requirements").Requirement
    command = (ROOT / "README.md").read_text("utf-8").split("<!-- test -->")[1]
    asked = re.search(r'-e "\.\[([\w,]+)\]"', command)[1]
    wanted = [*PROJECT["dependencies"], f"textenv[{asked}]"]
    seen = set()
    while wanted:
        needed = requirement(wanted.pop())
        if needed.name == "textenv":
            wanted += [each for extra in needed.extras for each in EXTRAS[extra]]
        elif str(needed) not in seen and (here := installed(needed.name)):
            wanted += [
                each
                for each in here.requires or ()
                if not (marker := requirement(each).marker)
                or any(marker.evaluate({"extra": extra}) for extra in needed.extras or ("",))
            ]
        seen.add(str(needed))
    names = {requirement(each).name.lower() for each in seen}
    assert {"mlx", "numpy", "reasoning-gym", "pytest"} <= names
    assert not [name for name in names if name.startswith(("torch", "nvidia", "stable"))]


def archived(names):
    """Of these files those that MANIFEST.in puts into the source archive."""
    for line in (ROOT / "MANIFEST.in").read_text("utf-8").splitlines():
        match line.split():
            case ["include", *wanted]:
                yield from (name for name in names if name in wanted)
            case ["graft", folder]:
                yield from (name for name in names if name.startswith(f"{folder}/"))
            case ["recursive-include", folder, "*.md"]:
                yield from (n for n in names if n.startswith(f"{folder}/") and n.endswith(".md"))


def test_the_source_archive_has_all_that_a_clone_has():
    """What git tracks is named in MANIFEST.in, is in the wheel, or goes in by itself."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone")
    names = [name for name in listed.stdout.split("\0") if name]
    shipped = {*archived(names), "README.md", "LICENSE", "pyproject.toml", "MANIFEST.in"}
    assert {"tests/test_packaging.py", "CHANGELOG.md", "algos/README.md", ".ci/run"} <= shipped
    for name in map(Path, set(names) - shipped):
        assert name.parts[0] in HOMES.values(), name
        assert name.suffix == ".py" or ROOT / name in package_data(), name


def test_every_folder_of_modules_is_a_package_of_the_wheel():
    listed = TABLE["tool"]["setuptools"]["packages"]
    homes = {"textenv": "textenv", "wrappers": "textenv.wrappers", "algos": "textenv.algos"}
    found = []
    for folder, package in homes.items():
        for path in (ROOT / folder).rglob("*.py"):
            below = path.parent.relative_to(ROOT / folder).parts
            found.append(".".join([package, *below]))
    assert sorted(listed) == sorted(set(found))


HOMES = {"textenv.algos": "algos", "textenv.wrappers": "wrappers", "textenv": "textenv"}


def package_data():
    """The files that package-data names."""
    shipped = set()
    for package, patterns in TABLE["tool"]["setuptools"]["package-data"].items():
        home = next(name for name in HOMES if f"{package}.".startswith(f"{name}."))
        below = package.removeprefix(home).strip(".").replace(".", "/")
        for pattern in patterns:
            shipped |= set((ROOT / HOMES[home] / below).glob(pattern))
    return shipped


def test_files_that_are_no_modules_ship_too():
    # Otherwise setuptools warns of textenv/assets, which it takes for a package that is left out.
    assert TABLE["tool"]["setuptools"]["include-package-data"] is False
    others = {
        path
        for folder in HOMES.values()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md")
    }
    assert others == package_data()
