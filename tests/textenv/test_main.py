"""``python -m textenv`` is ``textenv``."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("arguments", [["--help"], [], ["nothing"], ["envs", "--help"]])
def test_both_forms_print_the_same_and_end_alike(arguments, tmp_path):
    by_module, by_script = (
        subprocess.run([*program, *arguments], cwd=tmp_path, capture_output=True, text=True)
        for program in (
            [sys.executable, "-m", "textenv"],
            [str(Path(sys.executable).with_name("textenv"))],
        )
    )
    assert by_module.stdout + by_module.stderr
    assert (by_module.stdout, by_module.stderr) == (by_script.stdout, by_script.stderr)
    assert by_module.returncode == by_script.returncode


def test_importing_the_file_runs_nothing(tmp_path):
    code = "import sys, textenv.__main__; sys.exit('textenv.algos' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
