"""Chromium, and runs to look at in it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from textenv.algos import Buffer, Trajectory, load_rollout
from textenv.algos.cli import main
from textenv.algos.cli.page import write_page
from textenv.algos.episodes.trajectory import RolloutSource

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Page:
    """A page that is open in Chromium."""

    driver: object
    file: Path

    def open(self, place="", width=1600, dark=False):
        """Open the page anew at a place, as a link from elsewhere does."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(f"{self.file.as_uri()}{place}")
        self.until("return document.body.dataset.ready")
        return self

    def go(self, place):
        """Go to a place of the open page, as a click on a link does."""
        self.js("location.hash = arguments[0]", place)
        view = place.removeprefix("#/").partition("?")[0]
        self.until("return document.body.dataset.view === arguments[0]", view)

    def js(self, script, *given):
        return self.driver.execute_script(script, *given)

    def until(self, script, *given):
        """Wait until a script gives something true, and return that."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 20, 0.02).until(lambda _: self.js(script, *given))

    def all(self, css):
        """The texts of the elements of a kind, as a person reads them."""
        return self.js(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)", css
        )

    def click(self, css, text=None):
        """Click the first element of a kind, or the one with this text."""
        assert self.js(
            "const all = [...document.querySelectorAll(arguments[0])];"
            "const one = all.find((each) => [null, each.innerText?.trim()].includes(arguments[1]));"
            "one?.dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}));"
            "return Boolean(one)",
            css,
            text,
        ), (css, text)

    def keys(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def place(self):
        return self.js("return location.hash")

    def errors(self):
        """What the browser complained of since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """What the browser asked for beside the page itself, since it was opened."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        urls = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        own = self.file.as_uri()
        return [url for url in urls if url.split("#")[0] != own and not url.startswith("data:")]


@pytest.fixture(scope="session")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None or shutil.which("chromedriver") is None:
        pytest.skip("Chromium and chromedriver are not installed: apt install chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, tmp_path):
    """``page(*runs)``: the page of these runs, to be opened."""

    def page(*runs):
        file = tmp_path / "page.html"
        write_page(runs, file)
        return Page(browser, file)

    return page


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A real run: six steps of trees on sums, each second rollout saved, and two evaluations."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    shape = "--num-prompts 4 --num-generations 8 --max-steps 6 --eval-steps 3 --eval-examples 12"
    command = f"train --strategy tree {shape} --rollouts-every 2 --out {folder}"
    assert main(command.split()) == 0
    return folder


@pytest.fixture(scope="session")
def control(tmp_path_factory):
    """A real run on CartPole: two rollouts."""
    folder = tmp_path_factory.mktemp("runs") / "control"
    shape = "--total-timesteps 512 --n-steps 256 --batch-size 64 --n-epochs 1 --eval-episodes 0"
    assert main(f"train --algo ppo --env CartPole-v1 {shape} --out {folder}".split()) == 0
    return folder


def episode(completion, reward=1.0, *, group=0, prompt="1+1=", correct=None, cut=False, **more):
    """An episode of one turn; ``more`` are further fields of the trajectory."""
    info = {"completion": completion, "rewards": {"correct": reward}}
    if "token_ids" in more:
        more = {"prompt_ids": [1], "token_entropies": [0.0] * len(more["token_ids"]), **more}
    return Trajectory(**{
        "observations": [prompt], "actions": [completion], "rewards": [reward],
        "infos": [info if correct is None else info | {"is_correct": correct}],
        "final_observation": prompt + completion, "terminated": True, "prompt": prompt,
        "reset_info": {"example_id": group, "prompt": prompt}, "group_id": group,
        "completion_truncated": cut, **more,
    })  # fmt: skip


def make_run(folder, rollouts, metrics=(), config='algo = "grpo"\n', **files):
    """The folder of a run, written by hand; ``files`` are JSON files of these names."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(config)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    for version, trajectories in enumerate(rollouts):
        source = RolloutSource(env_id="TextGen-v0", policy_version=version)
        load_rollout(Buffer(trajectories, source).save(folder / "rollouts"))  # it can be read
    return folder


def rollouts(run):
    """The saved rollouts of a run, the first first."""
    return [load_rollout(path) for path in sorted((run / "rollouts").iterdir())]
