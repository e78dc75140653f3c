"""Checkpoints that a training may not go on from, and what is said of them."""

import warnings

import pytest

from textenv.algos.storage.checkpoints.resuming import (
    changes,
    check_unchanged,
    loading,
    warn_of_other_machine,
)
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.checkpoints.store import read_checkpoint, write_checkpoint
from textenv.errors import ConfigError, DataError

CONFIG = {"beta": 0.1, "stop": [], "grpo": {"seed": 1, "lr": 1e-3}, "save_steps": 10}


@pytest.fixture
def checkpoint(tmp_path):
    return read_checkpoint(write_checkpoint(tmp_path, 5, State(), CONFIG))


def test_changes_name_what_differs_as_it_was_and_as_it_is():
    now = {"beta": 0.2, "stop": (), "grpo": {"seed": 2}, "top_k": 3, "save_steps": 10}
    assert changes(CONFIG, now) == {
        "beta": (0.1, 0.2),
        "grpo.seed": (1, 2),
        "grpo.lr": (1e-3, None),
        "top_k": (None, 3),
    }
    assert changes(CONFIG, CONFIG) == {}


def test_other_settings_are_refused_and_named(checkpoint):
    now = {**CONFIG, "beta": 0.2, "stop": ["a"]}
    with pytest.raises(ConfigError) as caught:
        check_unchanged(checkpoint, now)
    assert str(caught.value) == (
        f"the settings are not those of {checkpoint.path}: beta was 0.1 and is 0.2; stop was [] "
        "and is ['a']. Set them as they were, or allow the change of beta, stop"
    )
    with pytest.raises(ConfigError, match=r": stop was"):
        check_unchanged(checkpoint, now, ["beta"])
    check_unchanged(checkpoint, now, ["beta", "stop"])


def test_settings_that_change_no_result_may_differ(checkpoint):
    check_unchanged(checkpoint, {**CONFIG, "save_steps": 3, "save_minutes": 1.5})


def test_the_same_machine_is_not_warned_of(checkpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_machine(checkpoint)


def test_other_versions_and_another_blas_are_warned_of(checkpoint):
    manifest = checkpoint.manifest
    other = manifest._replace(
        versions={**manifest.versions, "numpy": "1.0"}, blas={"name": "slow", "detail": "one"}
    )
    with pytest.warns(UserWarning, match=r"numpy '1\.0', now '.*; BLAS 'slow, one', now "):
        warn_of_other_machine(checkpoint._replace(manifest=other))


def test_errors_of_loading_name_the_checkpoint(checkpoint):
    with pytest.raises(ConfigError, match=r"step-00000005: a reason"), loading(checkpoint):
        raise ConfigError("a reason")
    with pytest.raises(DataError, match=r"step-00000005 is not the state"), loading(checkpoint):
        int("x")


@pytest.mark.parametrize("error", [ZeroDivisionError, RecursionError, IndexError, MemoryError])
def test_whatever_a_state_of_another_form_leads_to_is_an_error_of_the_checkpoint(checkpoint, error):
    with pytest.raises(DataError, match=r"step-00000005 is not the state"), loading(checkpoint):
        raise error
