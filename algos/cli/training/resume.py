"""textenv train --resume: goes on with a run from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textenv.algos.cli.shared.run_folder import CONFIG, RunFolder
from textenv.algos.cli.shared.stopping import StopSignals
from textenv.algos.config import to_table
from textenv.algos.runtime.ranks import join
from textenv.algos.storage.checkpoints.resuming import FREE, changes
from textenv.algos.trainers.grpo import GRPOTrainer
from textenv.errors import ConfigError, unknown

_NOT_SETTINGS = ("config", "out", "going_on")


@dataclass
class GoingOn:
    """The options of a run that goes on."""

    resume: Path | None = None
    """The folder of a run that was interrupted, or one of its checkpoints: go on from there, in the
    same folder and with the same settings."""
    allow_changed: tuple[str, ...] = ()
    """Settings that may be others than those of the run that goes on, such as max-steps."""

    @property
    def run(self) -> Path | None:
        """The folder of the run; None if a new run begins."""
        return None if self.resume is None else run_of(self.resume)

    def folder(self, out: Path | None, name: str) -> RunFolder:
        """The folder to train in.

        Args:
            out: the folder that the user named.
            name: what a new folder is called after, if the user named none.
        """
        if self.run is None:
            return RunFolder.named(out, name)
        return RunFolder(self.run, resumed=True)

    def load(self, trainer: Any, folder: RunFolder) -> None:
        """Give a trainer the state of the checkpoint, if a run goes on.

        Raises:
            DataError: if the checkpoint or the metrics of the run are broken.
            MissingFileError: if there is no checkpoint.
            ConfigError: if it is of other settings, and they may not differ; if the run finished.
        """
        ranks = join()
        ranks.from_first(self.resume is not None)
        if self.resume is None:
            return
        trainer.resume(self.resume, _names(self.allow_changed))
        ranks.from_first(trainer.has_ended)
        if trainer.has_ended and folder.read_summary().get("state") == "finished":
            raise ConfigError(
                f"the run in {folder.path} has finished, after {len(trainer.history)} steps: more "
                "of them, as by --max-steps with --allow-changed max-steps, let it go on"
            )
        folder.keep_metrics(trainer.history)
        exporter = getattr(trainer, "exporter", None)
        if exporter is not None:
            folder.keep_rollouts(exporter.written)


def follow(trainer: GRPOTrainer, going_on: GoingOn, stops: StopSignals) -> None:
    """Train as another rank than the first: it begins and ends as the first does.

    Args:
        trainer: has the settings of the first rank.
        going_on: only what may have changed is looked at; the first rank knows what goes on.
        stops: the first signal ends the training after its step, on all ranks.
    """
    ranks = join()
    if ranks.from_first():
        trainer.resume(Path(), _names(going_on.allow_changed))
        if ranks.from_first():
            return
    with stops.deferring(trainer.stop, "the step is finished"):
        trainer.train()


def run_of(path: Path) -> Path:
    """The folder of a run, by itself or by one of its checkpoints."""
    if not (path / CONFIG).exists() and (path.parent.parent / CONFIG).exists():
        return path.parent.parent
    return path


def settings_of(args: Any) -> dict[str, Any]:
    """The settings of a run, for its ``config.toml``."""
    settings = {k: value for k, value in to_table(args).items() if k not in _NOT_SETTINGS}
    told = settings.pop("reporting", {})
    # What is printed is not remembered.
    return settings | ({"reporting": {"log_to": told["log_to"]}} if "log_to" in told else {})


def config_of(path: str, config: Any, out: Any) -> Path:
    """The settings of the run that goes on.

    Args:
        path: what ``--resume`` names.
        config: what ``--config`` names, which it must not.
        out: what ``--out`` names, which it must not.

    Raises:
        ConfigError: if it is not the folder of a run, or beside those options.
    """
    for option, given in (("--config", config), ("--out", out)):
        if given is not None:
            raise ConfigError(
                f"{option} is for a new run: one that goes on has the settings and the folder of "
                f"--resume {path}"
            )
    run = run_of(Path(path))
    if not (run / CONFIG).is_file():
        raise ConfigError(f"--resume {path}: it is not the folder of a run, which has {CONFIG}")
    return run / CONFIG


def check_changes(before: Any, now: Any) -> None:
    """Refuse settings that differ from those of the run that goes on, unless they may.

    Args:
        before: the arguments, with the settings of the run.
        now: the arguments with what the command line changed; a new run may change everything.

    Raises:
        ConfigError: for those that differ and may not, with both values; for an allowed name that
            is no setting.
    """
    run, allowed = now.going_on.run, now.going_on.allow_changed
    if run is None:
        if allowed:
            raise ConfigError("--allow-changed goes with --resume")
        return
    names = _names(allowed)
    known = _fields(now)
    for name in sorted(names - known):
        raise ConfigError(f"--allow-changed: {unknown('setting', name, sorted(known))}")
    found = changes(settings_of(before), settings_of(now))
    free = names | {*FREE}
    refused = {name: pair for name, pair in found.items() if not free & {*name.split(".")}}
    if refused:
        shown = "; ".join(
            f"{name} was {old!r} and is {new!r}" for name, (old, new) in refused.items()
        )
        # Those of a group of settings are named by themselves, what is in one of them by it.
        options = " ".join(name.split(".")[:2][-1].replace("_", "-") for name in refused)
        raise ConfigError(
            f"the settings are not those of {run}: {shown}. Leave them as they were, or add "
            f"--allow-changed {options}"
        )


def _names(allowed: Collection[str]) -> set[str]:
    """Settings as fields are called, as the command line or a message may call them."""
    return {name.removeprefix("--").replace("-", "_").rpartition(".")[2] for name in allowed}


def _fields(args: Any) -> set[str]:
    """The names of all settings, those that are unset too."""
    names: set[str] = set()
    for name, field in vars(args).items():
        names |= _fields(field) if hasattr(field, "__dataclass_fields__") else {name}
    return names
