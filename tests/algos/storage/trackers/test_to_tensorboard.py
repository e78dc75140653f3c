"""Event files, read back by TensorBoard itself."""

import math
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("tensorboard", reason="TensorBoard is not installed: extra tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.text.text_plugin import text_array_to_html
from tensorboard.util import tensor_util

from textenv.algos.storage.trackers.to_tensorboard import TensorBoard
from textenv.algos.storage.trackers.tracker import Run


def read(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def html_of(events, tag):
    array = tensor_util.make_ndarray(events.Tensors(tag)[0].tensor_proto)
    return text_array_to_html(array.astype(str), True)


def test_scalars_are_read_back_with_their_steps(tmp_path):
    tracker = TensorBoard(Run(tmp_path, {}))
    tracker.log({"reward": 0.5, "rewards/correct/mean": math.nan}, 3)
    tracker.log({"reward": 0.75, "kl": -math.inf}, 1_000_000)
    tracker.close(False)
    events = read(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("reward")] == [(3, 0.5), (1_000_000, 0.75)]
    assert math.isnan(events.Scalars("rewards/correct/mean")[0].value)
    assert events.Scalars("kl")[0].value == -math.inf


def test_the_settings_are_a_text_and_hyperparameters(tmp_path):
    config = {"algo": "grpo", "grpo": {"beta": 0.5, "strategy": ["x"], "dora": False}}
    TensorBoard(Run(tmp_path, config)).close(False)
    events = read(tmp_path)
    assert "beta = 0.5" in html_of(events, "config")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for name in (b"grpo.beta", b"grpo.dora", b"grpo.strategy"):
        assert name in content


class Tags(HTMLParser):
    """The tags of a page, and the text of its cells."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    "text",
    [
        "</script><script>alert(1)</script>",
        "**bold** [link](http://example.com) `code` | # head",
        "&lt;b&gt; <img src=x onerror=alert(1)>",
        "line\n\n# second\n\tthird",
    ],
)
def test_a_completion_is_shown_as_it_is(tmp_path, text):
    tracker = TensorBoard(Run(tmp_path, {}))
    tracker.table("completions", [{"completion": text, "reward": 0.25}], 5)
    tracker.close(False)
    page = Tags(html_of(read(tmp_path), "completions"))
    assert set(page.tags) <= {"table", "tbody", "thead", "tr", "td", "th", "p", "pre", "code"}
    assert text.expandtabs(4) in page.text and "0.25" in page.text


def test_a_run_that_goes_on_forgets_the_steps_that_it_makes_again(tmp_path):
    first = TensorBoard(Run(tmp_path, {"a": 1}))
    for step in (1, 2, 3):
        first.log({"reward": step / 4}, step)
    first.close(False)
    second = TensorBoard(Run(tmp_path, {"a": 1}, resumed=True))
    for step in (2, 3, 4):
        second.log({"reward": step / 8}, step)
    second.close(False)
    found = [(e.step, e.value) for e in read(tmp_path).Scalars("reward")]
    assert found == [(1, 0.25), (2, 0.25), (3, 0.375), (4, 0.5)]


def test_a_step_is_in_the_file_at_once_and_a_folder_that_is_gone_is_an_error_of_its_call(tmp_path):
    tracker = TensorBoard(Run(tmp_path, {}))
    tracker.log({"x": 0.5}, 1)
    assert [e.value for e in read(tmp_path).Scalars("x")] == [0.5]
    tracker.close(False)
    with pytest.raises(OSError):
        TensorBoard(Run(tmp_path / "gone", {}))


def test_a_float_is_what_tensorboard_keeps_of_it(tmp_path):
    tracker = TensorBoard(Run(tmp_path, {}))
    tracker.log({"x": 1 / 3}, 1)
    tracker.close(False)
    assert read(tmp_path).Scalars("x")[0].value == float(np.float32(1 / 3))
