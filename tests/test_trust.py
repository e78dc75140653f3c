"""Nothing in the package runs what it reads."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path for folder in ("textenv", "wrappers", "algos") for path in (ROOT / folder).rglob("*.py")
]
RUNNING = {
    *("eval", "exec", "compile", "__import__"),
    *(
        f"{module}.{name}"
        for module in ("pickle", "marshal", "dill", "cloudpickle", "joblib")
        for name in ("load", "loads", "Unpickler")
    ),
    *("torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "shelve.open"),
    *("runpy.run_path", "runpy.run_module"),
}
SHELL = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}


def called(node):
    """The name that a call is made by; empty if it is no plain name."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return f"{node.func.value.id}.{node.func.attr}"
    return ""


def faults(code):
    """The lines of a text of Python that might run what they are given."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        options = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        risky = called(node) in RUNNING | SHELL
        risky |= bool(options.keys() & {"allow_pickle", "trust_remote_code", "shell"}) and any(
            options.get(name, False) is not False
            for name in ("allow_pickle", "trust_remote_code", "shell")
        )
        if risky:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)",
        "pickle.load(f)",
        "pickle.Unpickler(f).load()",
        "np.load(f, allow_pickle=True)",
        "load(trust_remote_code=trust)",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
    ],
)
def test_what_counts(code):
    assert faults(code)


def test_what_does_not_count():
    assert not faults("mx.eval(x); np.load(f, allow_pickle=False); re.compile(x); run(shell=False)")


def test_no_line_runs_what_it_reads():
    assert len(FILES) > 200
    found = {str(path.relative_to(ROOT)): faults(path.read_text("utf-8")) for path in FILES}
    assert {name: lines for name, lines in found.items() if lines} == {}
