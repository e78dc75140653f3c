"""The pictures of the pages, made from a small run: it takes a browser, and so some seconds."""

import shutil

import pytest
from PIL import Image

from textenv.algos.cli import main


def test_the_pictures_show_the_run(example, tmp_path, monkeypatch):
    pytest.importorskip("selenium", reason="selenium is not installed")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("Chromium is not installed: apt install chromium-driver")
    if shutil.which("chromedriver") is None:
        pytest.skip("chromedriver is not installed: apt install chromium-driver")
    run = tmp_path / "run"
    shape = "--num-prompts 4 --num-generations 4 --max-steps 1 --eval-examples 0"
    assert main(f"train --strategy tree {shape} --out {run}".split()) == 0
    script = example("make_pictures")
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["make_pictures.py", str(run)])
    script.main()
    looks = []
    for name in script.PLACES:
        picture = Image.open(tmp_path / name).convert("L")
        assert picture.size == (script.WIDTH, script.HEIGHT)
        looks.append(picture.histogram())
        assert sum(looks[-1][:128]) > 500  # ink, on a light page
    assert looks[0] != looks[1]
