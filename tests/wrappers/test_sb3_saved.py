"""Saved agents of Stable-Baselines3 are loaded, or refused with the reason."""

import zipfile

import numpy as np
import pytest

from tests.wrappers.sb3_agents import AGENTS, agent
from textenv.errors import ConfigError, DataError, MissingFileError
from textenv.wrappers.sb3 import SB3Policy, load_sb3

sb3 = pytest.importorskip("stable_baselines3")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", AGENTS)
def test_a_saved_agent_is_found_out_and_acts_alike(name, tmp_path):
    model = agent(name)
    model.save(tmp_path / "agent.zip")
    loaded = load_sb3(tmp_path / "agent", trust=True, device="cpu")  # .zip left out
    assert type(loaded) is type(model)
    batch = np.random.default_rng(0).normal(size=(6, *model.observation_space.shape))
    expected, _ = model.predict(batch, deterministic=True)
    np.testing.assert_array_equal(SB3Policy(loaded)(batch, deterministic=True)[0], expected)


class OwnPolicy(sb3.common.policies.ActorCriticPolicy):
    pass


def test_a_policy_of_ones_own_needs_the_algorithm_named(tmp_path):
    path = tmp_path / "own.zip"
    agent("PPO", policy=OwnPolicy).save(path)
    with pytest.raises(ConfigError, match=r"own\.zip does not say.*algorithm="):
        load_sb3(path, trust=True)
    for algorithm in ("PPO", sb3.PPO):
        assert type(load_sb3(path, True, algorithm)) is sb3.PPO
    with pytest.raises(ConfigError, match="did you mean 'PPO'"):
        load_sb3(path, trust=True, algorithm="PPOO")
    with pytest.raises(DataError, match=r"own\.zip cannot be loaded as DQN"):
        load_sb3(path, trust=True, algorithm="DQN")


def test_code_is_not_run_without_trust(tmp_path, monkeypatch):
    path = tmp_path / "agent.zip"
    agent("PPO").save(path)
    monkeypatch.setattr(sb3.PPO, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    for trust in (False, None, "no"):
        with pytest.raises(ConfigError, match=r"agent\.zip.*only for a file that you trust"):
            load_sb3(path, trust)


def test_files_that_are_no_agents_are_named(tmp_path):
    path = tmp_path / "agent.zip"
    with pytest.raises(MissingFileError, match=r"agent\.zip"):
        load_sb3(path, trust=True)
    agent("PPO").save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    no_agent = "not an agent"
    for content, reason in [(b"text", no_agent), (whole[:900], no_agent), (flipped, "damaged")]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"agent\.zip is {reason}"):
            load_sb3(path, trust=True)
    for name, content in [("x", "{}"), ("data", "["), ("data", "[1]")]:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(DataError, match=r"agent\.zip"):
            load_sb3(path, trust=True)


def test_settings_that_do_not_end_are_not_unpacked(tmp_path):
    path = tmp_path / "agent.zip"
    for text, said in (("[" * 5000 + "]" * 5000, "recursion"), (" " * (2**26 + 1), "unpack to")):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data", text)
        with pytest.raises(DataError, match=rf"agent\.zip is not an agent.*{said}"):
            load_sb3(path, trust=True)
    assert path.stat().st_size < 100_000


def test_a_locked_file_is_no_agent(tmp_path):
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
    data = bytearray(path.read_bytes())
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):
        data[data.index(mark) + (6 if mark == b"PK\x03\x04" else 8)] |= 1  # the flag of a password
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"agent\.zip is not an agent.*password"):
        load_sb3(path, trust=True)
