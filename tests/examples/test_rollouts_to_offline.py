"""The two examples of offline training, from the files of one to the policies of both."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """What the first example prints, and its folder."""
    folder = tmp_path_factory.mktemp("walk")
    argv = [str(EXAMPLES / "rollouts_to_offline.py"), "--out", str(folder), "--epochs", "10"]
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=True)
    return done.stdout, folder


def returns(printed):
    """Mean return of the data, and of what was trained from it."""
    data = re.search(r"mean return of the data +(-?[\d.]+)", printed)
    trained = re.search(r"trained from it, greedy +(-?[\d.]+)", printed)
    return float(data[1]), float(trained[1])


def test_five_rollouts_of_eight_agents_to_a_better_policy(walk):
    printed, folder = walk
    data, trained = returns(printed)
    assert 20 < data < 60 and trained > 3 * data
    assert "(10240 in all)" in printed
    files = sorted((folder / "rollouts").iterdir())
    assert [re.sub(r"_\d{8}_\d{6}", "", f.name) for f in files] == [
        f"rollout_{i}.json" for i in range(5)
    ]
    for file in files:
        layout = json.loads(file.read_text())["layout"]
        assert (layout["num_envs"], layout["num_transitions"]) == (8, 2048)


def test_pytorch_trains_without_textenv(walk, tmp_path):
    pytest.importorskip("torch")
    _, folder = walk
    weights, script = tmp_path / "weights.json", str(EXAMPLES / "train_in_pytorch.py")
    blocked = (
        "import runpy, sys\n"
        "sys.modules['textenv'] = None\n"  # an import of it fails
        f"sys.argv = ['x', {str(folder / 'rollouts')!r}, '--weights', {str(weights)!r}]\n"
        f"runpy.run_path({script!r}, run_name='__main__')\n"
    )
    subprocess.run([sys.executable, "-c", blocked], capture_output=True, check=True)
    argv = [script, "--score", "--weights", str(weights), "--episodes", "10"]
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=True)
    data, trained = returns(done.stdout)
    assert trained > 3 * data
