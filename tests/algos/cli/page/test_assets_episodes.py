"""Lists, groups and episodes in Chromium: filters, trees, conversations, and those of control."""

import re

import gymnasium as gym
import pytest

from tests.algos.cli.page.conftest import episode, make_run, rollouts
from tests.algos.cli.page.test_frames import ID, Walk, played, rollout
from textenv.algos import Trajectory

TIMES = """
const times = [];
const timed = (act) => {
  const before = performance.now(); act(); document.body.offsetHeight;
  times.push(performance.now() - before);
};
for (const chip of document.querySelectorAll(".chip")) timed(() => chip.click());
document.querySelector(".chip").click();
const field = document.querySelector("#search");
for (const text of ["1", "12", "12+"])
  timed(() => { field.value = text; field.dispatchEvent(new Event("input")); });
return times
"""


def test_filters_find_what_a_search_by_hand_finds(page, trained):
    shown = page(trained).open("#/episodes")
    all_ = [t for saved in rollouts(trained) for t in saved]
    groups = {}
    for number, saved in enumerate(rollouts(trained)):
        for t in saved:
            groups.setdefault((number, t.group_id), []).append(t)
    flat = [
        t for group in groups.values() if len({t.total_reward for t in group}) == 1 for t in group
    ]
    expected = {
        "all": len(all_),
        "solved": sum(t.is_correct for t in all_),
        "unsolved": sum(not t.is_correct for t in all_),
        "cut off": sum(t.completion_truncated for t in all_),
        "without signal": len(flat),
    }
    assert 0 < expected["solved"] < len(all_)
    for chip, many in expected.items():
        shown.click(".chip", chip)
        assert shown.all("[role=status]")[0].startswith(f"{many} episode"), chip
    shown.click(".chip", "all")
    text = all_[0].actions[0]
    found = sum(text in t.actions[0] or text in t.prompt for t in all_)
    shown.js("document.querySelector('#search').focus()")
    shown.keys(text)
    assert shown.all("[role=status]")[0].startswith(f"{found} episode")
    again = page(trained).open(shown.place())  # the link shows the same
    assert again.all("[role=status]")[0].startswith(f"{found} episode")
    assert again.js("return document.querySelector('#search').value") == text


def test_components_and_sorting(page, tmp_path):
    rewards = [(0.25, "a"), (1.0, "b"), (0.0, "c")]
    trajectories = [
        episode(text, reward, group=group, prompt=f"prompt {text}")
        for group, (reward, text) in enumerate(rewards)
    ]
    trajectories[0].infos[0]["rewards"] = {"correct": 0.0, "format": 0.25}
    shown = page(make_run(tmp_path / "run", [trajectories])).open("#/episodes?sort=high")

    def prompts():
        return [text.removeprefix("prompt ") for text in shown.all(".prompt")]

    assert prompts() == ["b", "a", "c"]
    shown.open("#/episodes?sort=low")
    assert prompts() == ["c", "a", "b"]
    shown.open("#/episodes?part=format")
    assert prompts() == ["a"]
    shown.open("#/episodes?part=correct&is=zero")
    assert prompts() == ["a", "c"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_tree_has_its_branches_where_the_file_says(page, trained, number):
    """An episode has one number everywhere: its place in the rollout, not in its group."""
    shown = page(trained).open(f"#/group?step=0&g={number}")
    every = rollouts(trained)[0].trajectories
    wanted = list(dict.fromkeys(t.group_id for t in every))[number]
    group = [(i, t) for i, t in enumerate(every, 1) if t.group_id == wanted]
    branches = [(i, t) for i, t in group if t.parent is not None]
    assert len(shown.all(".leaf")) == len(group) and len(shown.all(".fork")) == len(branches) > 0
    said = shown.js("return [...document.querySelectorAll('.leaf')].map((o) => o.ariaLabel)")
    for i, t in group:
        line = f"Episode {i}: reward {t.total_reward:g}, {sum(t.token_mask)} tokens"
        if t.parent is not None:
            line += f", branches from episode {group[t.parent][0]} at token {t.branch_at}"
        assert line in said
    assert shown.all(".card .number") == [f"episode {i}" for i, _ in group]
    i, t = branches[-1]
    shown.go(f"#/episode?step=0&i={i - 1}")
    shown.until("return document.querySelector('.facts a')")
    origin = f"episode {group[t.parent][0]}"
    assert f"branches from\n{origin} at token {t.branch_at}" in shown.all(".facts")[0]
    shown.click(".facts a", origin)
    shown.until("return document.querySelector('h2').innerText.startsWith(arguments[0])",
                f"E{origin[1:]} of {len(every)}")  # fmt: skip


def test_a_conversation_with_a_tool(page, tmp_path):
    messages = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]},
        {"role": "tool", "name": "add", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    one = Trajectory(
        observations=["User: 1+1?", "..."], actions=["<call>", "It is 2."], rewards=[0.25, 1.0],
        infos=[{"messages": messages[:3]}, {"messages": messages}], final_observation="",
        terminated=True, prompt="User: 1+1?", reset_info={"messages": messages[:1]}, group_id=0,
    )  # fmt: skip
    shown = page(make_run(tmp_path / "run", [[one]])).open("#/episode?step=0&i=0")
    assert shown.all(".message h4") == [
        "user", "assistant reward 0.25", "tool add", "assistant reward 1",
    ]  # fmt: skip
    assert '"name": "add"' in shown.all(".calls")[0]


def test_an_episode_of_control(page, control):
    shown = page(control).open("#/episodes")
    first = rollouts(control)[0].trajectories[0]
    assert shown.all(".chip")[:2] == ["all", "ended by itself"]
    shown.click("a.group")
    labels = shown.until(
        "const all = [...document.querySelectorAll('.canvas')]; "
        "return all.length && all.map((o) => o.ariaLabel)"
    )
    values = [float(observation[2]) for observation in first.observations]
    told = re.search(r"o2: from (\S+) to (\S+),", labels[0])
    assert [float(told[1]), float(told[2])] == pytest.approx([values[0], values[-1]], rel=1e-3)
    assert [label.split(" over")[0] for label in labels[1:3]] == [
        "Curve of Action",
        "Curve of Reward",
    ]
    assert shown.errors() == []


def test_frames_of_control(page, tmp_path, monkeypatch):
    """The pictures are there, and the page's own policy lets them be seen."""
    monkeypatch.setitem(gym.registry, ID, gym.envs.registration.EnvSpec(ID, Walk))
    run = make_run(tmp_path / "run", [])
    rollout(played([1, 2, 3], 0, 1.0)).save(run / "rollouts")
    shown = page(run).open("#/episodes")
    assert "with frames" in shown.all("a.group")[0]
    shown.click("a.group")
    shown.until("return document.querySelectorAll('.frames img').length === 4")
    sizes = "return [...document.querySelectorAll('.frames img')].map((one) => one.naturalWidth)"
    shown.until(f"return (() => {{ {sizes} }})().every(Boolean)")
    assert shown.js(sizes) == [167] * 4  # 500 pixels, each third
    assert shown.errors() == [] and shown.requests() == []


def test_ten_thousand_trajectories(page, tmp_path):
    """The first view is there within 2 s, and a filter or a letter takes less than 0.2 s."""
    sums = [(a, b) for a in range(25) for b in range(25)]
    made = [
        episode(f"{a + b + (a * b + k) % 3}", float(not (a * b + k) % 3), group=group,
                prompt=f"{a}+{b}=", correct=not (a * b + k) % 3)
        for group, (a, b) in enumerate(sums) for k in range(16)
    ]  # fmt: skip
    metrics = [
        {"step": n, **{f"metric {k}": (n * k) % 7 for k in range(40)}} for n in range(1, 201)
    ]
    run = make_run(tmp_path / "run", [made[i::20] for i in range(20)], metrics)
    shown = page(run)
    shown.open()  # the browser itself is warm from here on

    def first():
        shown.open("#/episodes")
        return shown.js("return performance.now()") / 1000

    assert min(first() for _ in range(3)) < 2
    assert shown.all("[role=status]")[0].startswith("10,000 episodes of 10,000")
    took = shown.js(TIMES)  # of three tries, since other programs take their time too
    assert len(took) == 8 and max(map(min, zip(*[took, *(shown.js(TIMES) for _ in "ab")]))) < 200
    expected = sum("12+" in t.prompt for t in made)
    assert shown.all("[role=status]")[0].startswith(f"{expected} episodes of 10,000")
