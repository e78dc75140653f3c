"""Which package may import which, what an import loads, and functions that no code may use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"textenv": "textenv", "wrappers": "textenv.wrappers", "algos": "textenv.algos"}
UPWARDS = {"textenv/__main__.py": "python -m textenv hands over to the command line"}
FOREIGN = """
MINE = "foreign"
def load_model(): return "foreign"
class DictStep: pass
"""


def python(code, cwd):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def sources(*folders):
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in found]


def imported(path, tree, nodes=None):
    """Absolute names of all modules that a file may import, and what it takes from them."""
    folder = path.relative_to(ROOT).parent
    package = ".".join([FOLDERS.get(folder.parts[0], folder.parts[0]), *folder.parts[1:]])
    for node in nodes or ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            yield from (a.value for a in node.args if isinstance(getattr(a, "value", 0), str))


def within(name, package):
    return f"{name}.".startswith(f"{package}.")


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [("textenv", ["textenv.wrappers", "textenv.algos"]), ("wrappers", ["textenv.algos"])],
)
def test_arrows_point_one_way(folder, forbidden):
    for path, tree in sources(folder):
        if str(path.relative_to(ROOT)) in UPWARDS:
            continue
        for name in imported(path, tree):
            assert not any(within(name, package) for package in forbidden), f"{path}: {name}"


@pytest.mark.parametrize("name", UPWARDS)
def test_an_exception_imports_upwards_where_it_is_called_and_only_there(name):
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    everywhere = {module for module in imported(ROOT / name, tree) if "algos" in module}
    assert everywhere and not everywhere & {*imported(ROOT / name, tree, tree.body)}


def test_the_scan_sees_every_way_to_import():
    code = """
import textenv.algos.grpo
from textenv import algos
from .algos import grpo
def later(): importlib.import_module("textenv.algos")
"""
    names = list(imported(ROOT / "textenv" / "x.py", ast.parse(code)))
    assert [within(name, "textenv.algos") for name in names] == [True] * 4
    nested = ast.parse("from ..algos import grpo")
    assert list(imported(ROOT / "textenv" / "tasks" / "x.py", nested)) == ["textenv.algos.grpo"]
    beside = ast.parse("from ..algos import grpo")
    assert list(imported(ROOT / "wrappers" / "x.py", beside)) == ["textenv.algos.grpo"]


def test_the_base_needs_gymnasium_and_numpy_alone():
    allowed = {*sys.stdlib_module_names, "gymnasium", "numpy", "textenv"}
    for path, tree in sources("textenv"):
        for name in imported(path, tree, tree.body):
            assert name.split(".")[0] in allowed, f"{path}: {name}"


def test_no_file_is_taken_for_a_folder_here():
    for path, tree in sources("textenv", "wrappers", "algos"):
        for name in imported(path, tree):
            assert name.split(".")[0] not in ("wrappers", "algos"), f"{path}: {name}"


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("textenv, textenv.wrappers", []),
        # Networks on control need MLX alone: mlx_lm and transformers take one to three seconds.
        ("textenv.algos.trainers.ppo, textenv.algos.offline.control", ["mlx"]),
    ],
)
def test_importing_brings_no_more_than_it_needs(modules, heavy, tmp_path):
    code = (
        f"import sys, {modules};"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        "& {'mlx', 'mlx_lm', 'torch', 'matplotlib', 'transformers', 'stable_baselines3'}))"
    )
    assert python(code, tmp_path) == str(heavy)


@pytest.mark.parametrize("ours_first", [True, False])
def test_foreign_files_of_the_same_names_keep_working(tmp_path, ours_first):
    for name in ("wrappers.py", "algos.py"):
        (tmp_path / name).write_text(FOREIGN)
    ours = "import textenv, textenv.wrappers\nfrom textenv.wrappers import DictStep\n"
    theirs = "import wrappers, algos\n"
    check = """
import importlib.util
import gymnasium as gym
assert wrappers.MINE == algos.MINE == algos.load_model() == "foreign"
assert wrappers is not textenv.wrappers and wrappers.DictStep is not DictStep
assert "info" in DictStep(gym.make("TextGen-v0")).reset(seed=0)
print(wrappers.__file__, algos.__file__, importlib.util.find_spec("textenv.algos").name)
"""
    code = (ours + theirs if ours_first else theirs + ours) + check
    expected = f"{tmp_path / 'wrappers.py'} {tmp_path / 'algos.py'} textenv.algos"
    assert python(code, tmp_path) == expected


def test_importing_leaves_global_random_states_alone(tmp_path):
    code = """
import random, numpy
random.seed(1), numpy.random.seed(1)
before = random.getstate(), repr(numpy.random.get_state())
import textenv, textenv.wrappers
assert before == (random.getstate(), repr(numpy.random.get_state()))
"""
    assert python(code, tmp_path) == ""


RUNS_CODE = {"eval", "exec", "compile", "__import__", "execfile"}
UNPICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def offences(path, tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in RUNS_CODE:
            yield f"{path}:{node.lineno}: {node.id}"
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("builtins."):
            yield f"{path}:{node.lineno}: {ast.unparse(node)}"
        if (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and ast.unparse(node.value) != "False"
        ):
            yield f"{path}:{node.lineno}: allow_pickle"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.save"):
            yield f"{path}:{node.lineno}: {ast.unparse(node.func)}"
    for name in imported(path, tree):
        if name.split(".")[0] in UNPICKLES:
            yield f"{path}: {name}"


def test_nothing_runs_text_and_nothing_is_pickled():
    found = sources("textenv", "wrappers", "algos", "examples")
    assert [offence for path, tree in found for offence in offences(path, tree)] == []


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("eval('1')", True),
        ("run = exec", True),
        ("import builtins; builtins.eval('1')", True),
        ("from pickle import loads", True),
        ("np.load(f, allow_pickle=True)", True),
        ("np.load(f, allow_pickle=False)", False),
        ("torch.load(f)", True),
        ("mx.eval(x); model.eval(); re.compile('a'); mx.compile(f)", False),
    ],
)
def test_the_scan_knows_what_is_bad(code, bad):
    assert bool(list(offences(ROOT / "textenv" / "x.py", ast.parse(code)))) == bad
