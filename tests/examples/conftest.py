"""The scripts of examples/, as modules."""

import importlib.util
import sys
from pathlib import Path

import pytest

from textenv.algos.runtime import blas

blas.load()  # before any test imports mlx

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def example():
    """``example(name)``: the module of ``examples/{name}.py``; its main part does not run."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"examples.{name}", EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look for their module there
        spec.loader.exec_module(module)
        return module

    return load
