"""Make the pictures of the README and of the page about training from a real run.

    python examples/make_pictures.py             # trains twice, for two minutes
    python examples/make_pictures.py runs/mine   # the pictures of the page, of a run that is there

It needs Chromium and its driver (Debian: ``apt install chromium-driver``) and Selenium, which the
extra ``test`` brings.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver

from textenv.algos.cli.page import write_page

FOLDER = Path(__file__).resolve().parent
WIDTH, HEIGHT = 1200, 860
PLACES = {"page.png": "#/curves", "page_group.png": "#/episodes?step=0&sort=spread"}
"""For each picture the place in the page that it shows, or the list whose first group it shows."""
REWARD = "reward.png"  # which each run leaves
TREES = "--strategy tree --max-steps 60 --rollouts-every 20 --eval-steps 20"


def browser() -> webdriver.Chrome:
    """Chromium, or Google Chrome, of this machine."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if found is None or driver is None:
        sys.exit("Chromium and chromedriver are not installed: apt install chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def shoot(page: Path) -> None:
    """Write the pictures of a page."""
    driver = browser()
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    try:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for name, place in PLACES.items():
            driver.get("about:blank")
            driver.get(page.as_uri() + place)
            while not driver.execute_script("return document.body.dataset.ready"):
                time.sleep(0.05)
            driver.execute_script("document.querySelector('a.group')?.click()")
            time.sleep(0.5)  # the curves are drawn when they are seen
            driver.save_screenshot(str(FOLDER / name))
    finally:
        driver.quit()


def train(out: Path, *options: str) -> Path:
    """Train as a user does; returns the run's folder."""
    command = [sys.executable, "-m", "textenv", "train", *options, "--out", str(out)]
    subprocess.run(command, check=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="a run's folder; none: trains one")
    run = parser.parse_args().run
    with tempfile.TemporaryDirectory() as folder:
        if run is None:
            shutil.copy(train(Path(folder) / "main-job") / REWARD, FOLDER / REWARD)
            run = train(Path(folder) / "learning-to-add", *TREES.split())
        page = Path(folder) / "page.html"
        write_page([run], page)
        shoot(page)


if __name__ == "__main__":
    main()
