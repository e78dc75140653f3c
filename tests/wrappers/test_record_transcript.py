"""Episodes as lines of a JSON Lines file."""

import json
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest

from tests.algos.control_envs import Steps
from textenv.wrappers import ChoiceAction, HashedBagOfWords, RecordTranscript
from textenv.wrappers.record_transcript import HEADER


def read(path):
    header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert header == HEADER
    return rows


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def arithmetic():
    return gym.make("TextGen-v0")


def test_a_line_is_an_episode(tmp_path):
    env = RecordTranscript(gym.make("TextGen-v0", task="guess_number"), tmp_path / "new")
    prompt, start = env.reset(seed=3)
    steps = [env.step(guess) for guess in ("0", "é\n")]
    answer = env.unwrapped.example["answer"]
    steps.append(env.step(answer))
    env.close()
    [row] = read(tmp_path / "new" / "transcript_0.jsonl")
    assert row == {
        "observations": [prompt, steps[0][0], steps[1][0]],
        "actions": ["0", "é\n", answer],
        "rewards": [0.0, 0.0, 1.0],
        "infos": [step[4] for step in steps],
        "final_observation": steps[2][0],
        "terminated": True,
        "truncated": False,
        "reset_info": start,
        "seed": 3,
        "prompt": prompt,
    }


def test_nothing_shows_before_close_and_all_is_there_after(tmp_path):
    env = RecordTranscript(arithmetic(), tmp_path)
    prompts = []
    for _ in range(5):
        prompts.append(env.reset()[0])
        env.step("1")
    assert list(tmp_path.glob("*.jsonl")) == []
    assert env.path is None
    env.close()
    assert env.path == tmp_path / "transcript_0.jsonl"
    rows = read(env.path)
    assert [row["prompt"] for row in rows] == prompts
    assert "seed" not in rows[0]
    env.close()  # a second time changes nothing
    assert names(tmp_path) == ["transcript_0.jsonl"]


def test_names_never_collide(tmp_path):
    envs = [RecordTranscript(arithmetic(), tmp_path) for _ in range(12)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
        env.step("1")
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda env: env.close(), envs))
    assert names(tmp_path) == sorted(f"transcript_{i}.jsonl" for i in range(12))
    assert sorted(read(path)[0]["seed"] for path in tmp_path.iterdir()) == list(range(12))


def test_an_episode_left_in_the_middle_has_neither_flag(tmp_path):
    env = RecordTranscript(gym.make("TextGen-v0", task="guess_number"), tmp_path)
    for _ in range(2):
        env.reset(seed=0)
        env.step("0")
    env.reset()  # no action was taken, so there is no line
    env.close()
    rows = read(env.path)
    assert [(row["terminated"], row["truncated"], len(row["actions"])) for row in rows] == [
        (False, False, 1)
    ] * 2


def test_no_episode_no_file(tmp_path):
    env = RecordTranscript(arithmetic(), tmp_path / "never")
    env.close()
    assert not (tmp_path / "never").exists()


def test_arrays_come_back(tmp_path):
    env = ChoiceAction(HashedBagOfWords(arithmetic(), 4), ["1", "2"])
    env = RecordTranscript(env, tmp_path)
    observation, _ = env.reset(seed=0)
    observation += 100  # the caller may change its array
    env.step(np.int64(1))
    env.close()
    [row] = read(env.path)
    first = row["observations"][0]
    assert first["dtype"] == "float32"
    assert np.array_equal(np.array(first["data"], first["dtype"]), observation - 100)
    assert row["actions"] == [1]
    assert "prompt" not in row


def test_it_records_what_passes_where_it_stands(tmp_path):
    inner = RecordTranscript(arithmetic(), tmp_path)
    env = ChoiceAction(inner, ["7", "8"])
    env.reset(seed=0)
    env.step(1)
    env.close()
    assert read(inner.path)[0]["actions"] == ["8"]


class Odd(gym.Wrapper):
    """Puts something odd into observations, or into infos."""

    def __init__(self, env, **odd):
        super().__init__(env)
        self.odd = odd

    def step(self, action):
        observation, *values, info = self.env.step(action)
        odd = self.odd
        return odd.get("observation", observation), *values, {**info, **odd.get("info", {})}


@pytest.mark.parametrize("bad", [float("nan"), object(), {1, 2}])
def test_what_json_cannot_hold_is_named(tmp_path, bad):
    env = RecordTranscript(Odd(arithmetic(), observation=bad), tmp_path)
    env.reset()
    with pytest.raises(ValueError, match="episode 0 cannot be written as JSON"):
        env.step("1")
    env.close()
    assert names(tmp_path) == []


def test_in_infos_it_is_written_as_text(tmp_path):
    from textenv.algos import load_rollout

    info = {"inf": float("inf"), "set": {1, 2}, (3, 4): np.float32("nan"), "plain": np.float32(1)}
    env = RecordTranscript(Odd(arithmetic(), info=info), tmp_path)
    env.reset()
    env.step("1")
    env.close()
    [trajectory] = load_rollout(env.path)
    written = {"inf": "<inf>", "set": "<{1, 2}>", "<(3, 4)>": "<nan>", "plain": 1.0}
    assert trajectory.infos[0].items() >= written.items()


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        RecordTranscript(arithmetic(), tmp_path / "file")


def test_it_is_a_rollout_as_json_lines(tmp_path):
    from textenv.algos import load_rollout

    env = RecordTranscript(gym.make("TextGen-v0", task="guess_number"), tmp_path)
    prompt, start = env.reset(seed=3)
    after, *_, info = env.step("0")
    env.close()
    [trajectory] = load_rollout(env.path)
    assert (trajectory.observations, trajectory.actions) == ([prompt], ["0"])
    assert (trajectory.final_observation, trajectory.infos) == (after, [info])
    assert (trajectory.reset_info, trajectory.seed, trajectory.prompt) == (start, 3, prompt)


def test_each_of_a_vector_writes_its_own(tmp_path):
    vector = gym.vector.SyncVectorEnv(
        [lambda: RecordTranscript(arithmetic(), tmp_path) for _ in range(3)]
    )
    prompts, _ = vector.reset(seed=0)
    vector.step(("1", "2", "3"))
    vector.close()
    rows = [read(path)[0] for path in sorted(tmp_path.iterdir())]
    assert sorted(row["prompt"] for row in rows) == sorted(prompts)


def test_what_is_recorded_does_not_change_afterwards(tmp_path):
    """The environment gives out one array and one dict, and changes the actions too."""
    env = RecordTranscript(Steps(3, own=True), tmp_path)
    env.reset()
    for _ in range(3):
        env.step(np.ones(2, np.int8))
    env.reset()
    env.close()
    [row] = read(tmp_path / "transcript_0.jsonl")
    seen = [o["data"] for o in [*row["observations"], row["final_observation"]]]
    assert seen == [[0.0], [1.0], [2.0], [3.0]]
    assert [a["data"] for a in row["actions"]] == [[1, 1]] * 3
    assert [i["nested"] for i in [row["reset_info"], *row["infos"]]] == [
        {"t": [t]} for t in range(4)
    ]
