"""Completions that a verifier of reasoning-gym would run as code."""

import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textenv import tasks
from textenv.tasks.libraries.unsafe_verifiers import is_safe


@given(st.text("xX2 +-*/().,=_'\"[]{}:;@sincoexp\u00b2\u0661", max_size=12))
@settings(max_examples=500)
def test_what_a_formula_may_hold(text):
    """A safe text has no names or attributes that SymPy's parser, which calls eval, could run."""
    if is_safe("simple_integration", text):
        assert set(text) <= set("0123456789 +-*/(),.=") | set("xXsincoexp")
        assert not re.search(r"\.\s*[A-Za-z]", text)  # an attribute
        known = {"sin", "cos", "sec", "csc", "exp", "pi", "oo"}  # of these letters
        assert {*re.findall("[A-Za-z]{2,}", text)} <= known


@pytest.mark.parametrize("name", ["binary_matrix", "n_queens", "spiral_matrix", "countdown"])
def test_no_verifier_runs_a_completion(name, code):
    pytest.importorskip("reasoning_gym")
    task = tasks.make(f"reasoning_gym:{name}")
    example = task.example(1)
    assert [task.score(example, text) < 1 for text in code] == [True] * len(code)
    assert "ran_a_completion" not in sys.modules


def test_formulas_are_read_and_code_is_not(code):
    for text in ("x**2/2 + C", "-3*X**3*sin(X) + 18*X*sin(X)", "(3+4)*2.5 - 1", "", "2*exp(-x)"):
        assert is_safe("simple_integration", text)
    for text in [*code, "x . real", "chr(1)", "a_b", "f(x).g", "lambda: 1", "sinx"]:
        assert not is_safe("simple_integration", text)
        assert is_safe("chain_sum", text)
