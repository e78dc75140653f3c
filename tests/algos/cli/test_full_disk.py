"""A disk that becomes full while a training runs: what was saved before stays whole."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from textenv.algos import load_policy
from textenv.algos.cli import main
from textenv.algos.cli.shared.run_folder import RunFolder
from textenv.algos.storage.checkpoints.store import newest, read_checkpoint, step_of

STEPS = 40
RUN = ["train", "--algo", "ppo", "--env", "CartPole-v1", "--total-timesteps", str(STEPS * 64)]
RUN += ["--n-steps", "64", "--batch-size", "64", "--n-epochs", "1", "--eval-episodes", "0"]
RUN += ["--save-steps", "1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run whose disk has room."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main([*RUN, "--out", str(out)]) == 0
    return load_policy(out / "model").fingerprint()


def check(run, whole):
    """The newest checkpoint is whole, and the run goes on from it to its end."""
    checkpoint = read_checkpoint(newest(run))
    assert 0 < step_of(checkpoint.path) < STEPS
    assert main(["train", "--resume", str(run)]) == 0
    assert load_policy(run / "model").fingerprint() == whole
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["time/iterations"] for line in lines] == list(range(1, STEPS + 1))


def test_no_file_can_grow_any_more(tmp_path, monkeypatch, capsys, whole):
    """Not on other disks either: nothing else can be saved, and nothing half saved is left."""
    run = tmp_path / "run"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    add = RunFolder.add_metrics

    def full(self, metrics):
        add(self, metrics)
        if metrics["time/iterations"] == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    try:
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "add_metrics", full)
            assert main([*RUN, "--out", str(run)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert "cannot be written to" in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not [path for path in run.rglob("*") if path.name.startswith(".")]
    check(run, whole)


SCRIPT = """
mount -t tmpfs -o size=700k none {place} || exit 77
{python} -m textenv {argv} --out {place}/run
code=$?
cp -a {place}/run {copy}
exit $code
"""


def test_a_small_disk_becomes_full(tmp_path, whole):
    """The rollouts that the run exports fill a disk of its own; that of the home has room."""
    place, copy, home = tmp_path / "small", tmp_path / "copy", tmp_path / "home"
    place.mkdir()
    home.mkdir()
    script = SCRIPT.format(place=place, copy=copy, python=sys.executable, argv=" ".join(RUN))
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    environment = os.environ | {"HOME": str(home)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    if ended.returncode == 77 or "unshare:" in ended.stderr:
        pytest.skip(f"this test may not mount a disk: {ended.stderr.strip()[:200]}")
    assert ended.returncode == 2, ended.stderr
    assert "No space left on device" in ended.stderr and "Traceback" not in ended.stderr
    rescued = home / "run-rescued"
    assert f"the run is in {rescued}" in " ".join(ended.stdout.split())
    lost = json.loads((rescued / "summary.json").read_text())
    assert lost["state"] == "failed" and "No space left on device" in lost["reason"]
    assert step_of(newest(rescued)) >= step_of(newest(copy))
    for run in (copy, rescued):
        check(run, whole)
