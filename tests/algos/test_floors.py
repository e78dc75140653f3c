"""The rooms of ``algos/`` and their floors: imports go downwards, or stay in a room; no loops."""

import ast
from pathlib import Path

import pytest

ALGOS = Path(__file__).resolve().parents[2] / "algos"
PACKAGE = "textenv.algos"

# Every room and its floor; algos/README.md says what is in them. The modules at the top are a room.
FLOORS = {
    "runtime": 0,
    "episodes": 0,
    "config": 0,
    "storage": 1,
    "lm.kernels": 1,
    "lm.memory": 1,
    "lm.cache": 2,
    "control": 2,
    "lm.models": 3,
    "lm.generation": 4,
    "lm.scoring": 4,
    "training": 5,
    "strategies": 6,
    "rollouts": 7,
    "evaluation": 8,
    "top": 9,
    "trainers": 10,
    "offline": 11,
    "compare": 11,
    "bench": 11,
    "cli": 12,
}
TOP = {"grpo", "grpo_config", "gspo", "ppo", "ppo_config"}

# Imports that go upwards or close a loop, each within a function, and the reason for each.
EXCEPTIONS = {
    ("episodes.trajectory", "storage.files"): "Buffer.save writes what a buffer holds",
    (
        "trainers.ppo",
        "trainers.ppo_control",
    ): "PPOTrainer makes the updater that fits its environment",
    ("trainers.ppo", "trainers.ppo_text"): "PPOTrainer makes the updater that fits its environment",
}


def module_name(path):
    """The name of a file's module below textenv.algos; "" for the package itself."""
    parts = path.relative_to(ALGOS).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(ALGOS.rglob("*.py"))}


def room(module):
    """The room that a module is in."""
    if module in TOP:
        return "top"
    known = [name for name in FLOORS if f"{module}.".startswith(f"{name}.")]
    assert known, f"{module} is in no room: add it to FLOORS"
    return known[0]


def resolve(name):
    """The module of ours that an imported name stands for: itself, or what it is taken from."""
    while name.startswith(f"{PACKAGE}."):
        below = name.removeprefix(f"{PACKAGE}.")
        if below in MODULES:
            return below
        name = name.rpartition(".")[0]
    return None


def imports(code, module):
    """Modules of ours that some code imports, in functions and for types too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = f"{PACKAGE}.{module}".split(".")
            above = ".".join(package[: len(package) - node.level]) if node.level else ""
            base = ".".join(filter(None, [above, node.module]))
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            below = node.value.removeprefix(f"{PACKAGE}.")  # of import_module, say
            names = [node.value] if below != node.value and below in MODULES else []
        else:
            continue
        yield from filter(None, map(resolve, names))


def arrows():
    """Every (importing module, imported module), but for the package's own list of names."""
    found = set()
    for module, path in MODULES.items():
        if module:
            code = path.read_text(encoding="utf-8")
            found |= {(module, other) for other in imports(code, module) if other != module}
    return found


ARROWS = arrows()


def loops(edges):
    """Modules that import themselves by way of others."""
    after = {}
    for one, other in edges:
        after.setdefault(one, set()).add(other)
    changed = True
    while changed:
        changed = False
        for reached in after.values():
            more = set().union(*(after.get(each, set()) for each in reached)) - reached
            reached |= more
            changed = changed or bool(more)
    return sorted(module for module, reached in after.items() if module in reached)


def test_every_module_is_in_a_room():
    assert all(room(module) for module in MODULES if module and module != "lm")


def test_imports_go_to_the_same_room_or_downwards():
    upwards = {
        (one, other)
        for one, other in ARROWS
        if room(one) != room(other) and FLOORS[room(other)] >= FLOORS[room(one)]
    }
    assert upwards - EXCEPTIONS.keys() == set()


def test_there_is_no_loop():
    assert loops(ARROWS - EXCEPTIONS.keys()) == []


def test_every_exception_is_needed_and_lazy():
    assert EXCEPTIONS.keys() <= ARROWS
    for one, other in EXCEPTIONS:
        top = ast.Module(ast.parse(MODULES[one].read_text(encoding="utf-8")).body, [])
        eager = ast.Module([n for n in top.body if isinstance(n, (ast.Import, ast.ImportFrom))], [])
        assert other not in set(imports(ast.unparse(eager), one))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from textenv.algos.runtime import backend", "runtime.backend"),
        ("import textenv.algos.grpo", "grpo"),
        ("def later():\n    from textenv.algos.grpo import policy_loss", "grpo"),
        ("if TYPE_CHECKING:\n    from textenv.algos.rollouts.runner import X", "rollouts.runner"),
        ("import_module('textenv.algos.cli.train')", "cli.train"),
        ("from ..grpo import policy_loss", "grpo"),
    ],
)
def test_the_scan_sees_every_way_to_import(code, found):
    assert found in set(imports(code, "storage.files"))


def test_the_scan_finds_loops():
    assert loops({("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")}) == ["a", "b", "c"]
    assert loops({("a", "b"), ("a", "c"), ("b", "c")}) == []


def test_the_top_shows_few_files_and_rooms():
    shown = [path for path in ALGOS.iterdir() if not path.name.startswith((".", "__pycache__"))]
    files = [path.name for path in shown if path.is_file()]
    folders = [path.name for path in shown if path.is_dir()]
    assert len(files) <= 12, files
    assert len(folders) <= 14, folders


@pytest.mark.parametrize("top", ["algos", "textenv", "wrappers"])
def test_every_folder_has_few_modules(top):
    for folder in {path.parent for path in (ALGOS.parent / top).rglob("*.py")}:
        modules = [path for path in folder.glob("*.py") if not path.name.startswith("__")]
        assert len(modules) <= 12, f"{folder} has {len(modules)} modules"


def lengths(tree):
    """(name, lines) of each function, its docstring not counted."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            text = ast.get_docstring(node, clean=False) is not None
            spent = first.end_lineno - first.lineno + 1 if text else 0
            yield node.name, node.end_lineno - node.lineno + 1 - spent


def test_files_and_functions_are_short():
    root = ALGOS.parent
    for folder in ("textenv", "wrappers", "algos", "examples"):
        for path in sorted((root / folder).rglob("*.py")):
            code = path.read_text(encoding="utf-8")
            assert code.count("\n") <= 450, path
            for name, count in lengths(ast.parse(code)):
                assert count <= 80, f"{path}: {name} has {count} lines"


def test_docstrings_do_not_count():
    tree = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n')
    assert list(lengths(tree)) == [("f", 2)]
