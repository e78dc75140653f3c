"""`PPOTrainer`: trains a policy by PPO, small networks on control or a language model on text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from textenv.algos.episodes.environments import is_text, make_training_env
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.scoring import kept_for_inspection
from textenv.algos.episodes.style import style_for
from textenv.algos.episodes.trajectory import Buffer
from textenv.algos.evaluation.evaluated import EvaluatedTrainer
from textenv.algos.evaluation.measure import OnProgress
from textenv.algos.evaluation.schedule import EvaluationSchedule
from textenv.algos.ppo_config import PPOConfig, preset
from textenv.algos.rollouts.health.watch import HealthWatch
from textenv.algos.rollouts.metrics import PhaseClock, PPOMetrics
from textenv.algos.rollouts.prompts import check_prompts
from textenv.algos.rollouts.rehearsal import Rehearsal, rehearse
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.runtime import backend
from textenv.algos.storage.checkpoints.schedule import CheckpointSchedule
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.storage.source import Exporter
from textenv.algos.strategies.strategy import Strategy
from textenv.algos.trainers.callbacks import Callback
from textenv.algos.trainers.resuming import HasState, Resumable
from textenv.errors import ConfigError

backend.prepare()


from textenv.algos.lm.memory.limits import free_memory  # noqa: E402
from textenv.algos.lm.memory.pressure import out_of_memory  # noqa: E402
from textenv.algos.training.guard import StepGuard  # noqa: E402
from textenv.algos.training.last_good import LastGood  # noqa: E402


class Updater(HasState, Protocol):
    """What `PPOTrainer` needs to train a network: its policy, and an update from a rollout."""

    config: PPOConfig
    policy: Any
    strategy: Strategy
    guard: StepGuard | None
    """Lets a training go on after a step without a finite gradient; None ends it there."""
    trained: Any
    """What the last update was made of, for the inspection of a rollout of text; else None."""

    def update(
        self, rollout: Buffer, remaining: float, max_updates: int | None
    ) -> dict[str, float]:
        """Improve the policy on its rollout; returns metrics, with ``train/n_updates``."""
        ...

    def describe(self) -> str:
        """What is trained, in one line."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write the trained policy."""
        ...

    def save_adapters(self, folder: str | Path, peft: bool) -> None:
        """Write the adapters alone."""
        ...


class PPOTrainer(Resumable, EvaluatedTrainer):
    """Trains by PPO: two small networks on control, or a language model on text.

    Args:
        model: on control ``"mlp"`` for new networks, or the folder of a saved policy, which is
            trained further (the optimizer starts anew); on text a name or folder for `load_model`,
            or an mlx-lm model (with ``tokenizer``).
        env: an environment id, an environment, or a function that makes one.
        config: settings; None takes the environment's preset (`textenv.algos.ppo_config`), or the
            defaults if it has none.
        env_kwargs: arguments of ``gym.make``, if ``env`` is an id. If they name no ``style``, it is
            ``"chat"`` for a task that has it and a tokenizer with a chat template.
        tokenizer: the tokenizer, if ``model`` is an mlx-lm model.
        adapters: on text, a folder of adapters to go on from, if ``model`` is a name or folder.
        on_step: called after each update with the metrics and the rollout.
        export_to: a folder that each rollout is written to, as
            ``rollout_{index}_{YYYYMMDD_HHMMSS}.json``; None writes none.
        export_every: write only the first of every so many rollouts.
        eval_env: on text, held-out examples for evaluations: an environment id, an environment, or
            a function that makes one. None takes the test split of ``env``, if it has one.
        out: a folder in which ``checkpoints`` will be what `resume` goes on from, and on text
            ``best`` the best model by the evaluations of ``eval_steps``; None keeps neither.
        on_evaluate: called while such an evaluation goes on, with how many examples it has played,
            of how many.
        callbacks: called while the training goes on; see `Callback`.

    Attributes:
        policy: the policy that is trained; usable at any time.
        chosen: on text, which settings were chosen, and why; empty if none were.
        history: the metrics of each update so far.
        evaluations: the evaluations of ``eval_steps``: the ``best``, the ``last``, and whether they
            ``stopped`` the training.
        checkpoints: writes the checkpoints of ``save_steps`` and ``save_minutes``, and one at the
            end, while the training goes on; the newest is its ``last``.
        stopped: why the training ended before its last update, if it did by ``stop_on_collapse``.
        health: on text, looks for what keeps the model from learning; it is found in `warnings`.
        num_timesteps: transitions collected so far.
        exporter: writes the rollouts; its ``last`` is the file of the last one, if it was written.

    Raises:
        ConfigError: for a model or a saved policy that does not fit the environment, spaces that
            the networks cannot take, or an ``n_steps`` that the number of environments does not
            divide.

    Example:
        >>> config = PPOConfig(total_timesteps=512, n_steps=256, n_epochs=1)
        >>> trainer = PPOTrainer("mlp", env="CartPole-v1", config=config)
        >>> len(trainer.train())
        2
    """

    algorithm = "ppo"

    def __init__(
        self,
        model: Any = "mlp",
        env: Any = "CartPole-v1",
        config: PPOConfig | None = None,
        *,
        env_kwargs: dict[str, Any] | None = None,
        tokenizer: Any = None,
        adapters: str | Path | None = None,
        on_step: Callable[[dict[str, float], Rollout], None] | None = None,
        export_to: str | Path | None = None,
        export_every: int = 1,
        eval_env: Any = None,
        out: str | Path | None = None,
        on_evaluate: OnProgress | None = None,
        callbacks: Sequence[Callback] | Callback = (),
    ):
        self.config = config = config or preset(env if isinstance(env, str) else None)
        self.env = make_training_env(env, env_kwargs, config.num_envs)
        self.chosen = self.stopped = ""
        self.health: HealthWatch | None = None
        self._last_good: LastGood | None = None
        self._updater = self._make_updater(model, tokenizer, adapters, env, env_kwargs)
        self._updater.guard = StepGuard()
        self._fitted = config.micro_batch_size is None
        self.policy = self._updater.policy
        self.checkpoints = CheckpointSchedule(
            out, self._settings(), config.save_steps, config.save_minutes
        )
        self.evaluations = EvaluationSchedule(
            self.config, self.policy, eval_env, self.env, self.save, out, on_evaluate
        )
        self._runner = RolloutRunner(
            self.env,
            self.policy,
            self._updater.strategy,
            config.n_steps,
            config.seed,
            config.on_reward_error,
            resumable=True,
        )
        self._out = out
        self._call(on_step, callbacks)
        self.exporter = self._make_exporter(export_to, export_every, out)
        self._metrics = PPOMetrics(self._runner.is_text)
        self.history: list[dict[str, float]] = []
        self.num_timesteps = 0
        self._updates = 0
        self._before = 0, 0  # transitions and optimizer steps before the present training
        self._best_update: int | None = None  # the update of the best evaluation

    def _make_updater(
        self, model: Any, tokenizer: Any, adapters: Any, env: Any, env_kwargs: Any
    ) -> Updater:
        if is_text(self.env):
            from textenv.algos.trainers.ppo_text import TextUpdater

            def styled(tokenizer: Any) -> Any:
                kwargs = style_for(env, env_kwargs, tokenizer, self.config.chat_template)
                if kwargs != (env_kwargs or {}):
                    self.env = make_training_env(env, kwargs, self.config.num_envs)
                return self.env

            updater = TextUpdater(model, tokenizer, self.env, self.config, adapters, styled)
            self.config, self.chosen = updater.config, updater.chosen
            self.health = HealthWatch(
                *(self.env, updater.strategy, updater.policy.model),
                sampled=self.config.eval_samples > 0,
            )
            self._last_good = LastGood(updater.network) if self.config.stop_on_collapse else None
            return updater
        from textenv.algos.control.mlp_policy import load_policy
        from textenv.algos.trainers.ppo_control import ControlUpdater

        policy = None
        if model != "mlp":
            if not isinstance(model, (str, Path)) or not Path(model).is_dir():
                raise ConfigError(
                    "model must be 'mlp' on an environment of control, or the folder of a policy "
                    f"that was saved, got {model!r:.80}"
                )
            policy = load_policy(model, self.config.seed)
        control = ControlUpdater(self.env, self.config, policy)
        self.config = control.config
        return control

    def _make_exporter(self, folder: str | Path | None, every: int, out: Any) -> Exporter:
        if not self._runner.is_text:
            return Exporter(folder, every)
        from textenv.algos.training.inspecting import TextExporter

        return TextExporter(folder, every, out, self.policy, self.env)

    def train(self) -> list[dict[str, float]]:
        """Collect rollouts and train on each, until ``total_timesteps`` are collected.

        A further call goes on counting. If a call was interrupted, the next one collects what is
        left; else it collects ``total_timesteps`` more, and what is annealed begins again.
        If there is an ``out``, checkpoints are written.

        Returns:
            The metrics of each update, which are also in `history`.

        Raises:
            DataError: if a prompt of a dataset does not fit the model's context, before the first
                update.
            NotFiniteError: if five steps in a row had no finite loss or gradient; it has the batch.
            ConfigError: if ``out`` has checkpoints of another training.
            StorageError: if a checkpoint cannot be written.
        """
        if self._runner.is_text:
            check_prompts(self.policy, self.env)
            self.evaluations.check()
        self.checkpoints.begin()
        if self.has_ended:
            if self._progress() >= 1:
                self._before = self.num_timesteps, self._updates
            self.evaluations.begin()
            self.stopped = ""
        try:
            while not (self.has_ended or self._stop):
                self._take_update()
                self._save()
        finally:
            self._stop = False
        self._save(ends=True)
        return self._finish()

    def _take_update(self) -> None:
        """Collect a rollout, train on it, measure it, and evaluate if it is time to."""
        config, clock = self.config, PhaseClock()
        remedy = "lower n_steps, or max_completion_length of text"
        with out_of_memory("collecting", remedy), kept_for_inspection(self._out):
            rollout = self._runner.collect()
        if self._last_good is not None:
            self._last_good.offer(self._updates, rollout)
        clock.end("rollout")
        self.num_timesteps += rollout.num_transitions
        self.exporter.write(rollout, self._runner, gamma=config.gamma, gae_lambda=config.gae_lambda)
        clock.end("export")
        timesteps, updates = self._since_start()
        remaining = max(0.0, 1 - timesteps / config.total_timesteps)
        left = None if config.max_steps is None else config.max_steps - updates
        if self._runner.is_text:
            self.checkpoints.make_room(free_memory())
        update = self._updater.update(rollout, remaining, left)
        clock.end("update")
        self._updates += int(update["train/n_updates"])
        rows = self.config.micro_batch_size or self.config.batch_size
        self.exporter.inspect(rollout, self._updater.trained, self._updates, rows)
        clock.end("export")
        self._runner.policy_version = self._updates
        metrics = self._metrics.step(rollout, update, clock, self._updates)
        self.history.append(metrics)
        best = self.best
        try:
            metrics |= self.evaluations.after_step(self._updates, self._progress(), clock.total)
        finally:  # an evaluation may be interrupted after the update was made
            if self.health is not None:
                self.health.step(self._updates, metrics, rollout)
            if self._on_step is not None:
                self._on_step(metrics, rollout)
            self._after_step(metrics, rollout)
        if self.best is not best:
            self._best_update = self._metrics.iterations
        self._stop_at_collapse()

    def _save(self, ends: bool = False) -> None:
        updates = self._metrics.iterations
        self.checkpoints.after_step(updates, self.state, self._best_update, ends)
        self.checkpoints.hold(updates, self.state, self._best_update)
        self._after_checkpoint(self.checkpoints.last)

    @property
    def has_ended(self) -> bool:
        """Whether the training has made all its updates, or ended early; `train` begins another."""
        return self._progress() >= 1 or self.evaluations.stopped or bool(self.stopped)

    def _parts(self) -> dict[str, HasState]:
        parts: dict[str, HasState | None] = {
            "episodes": None if self._runner.is_text else self._runner.episodes,
            "updater": self._updater,
            "metrics": self._metrics,
            "evaluations": self.evaluations,
            "exporter": self.exporter,
            "policy": self.policy if self._runner.is_text else None,
            "health": self.health,
            "last_good": self._last_good,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _counts(self) -> dict[str, Any]:
        return {
            "timesteps": self.num_timesteps,
            "updates": self._updates,
            "before": list(self._before),
            "best_update": self._best_update,
            "stopped": self.stopped,
            "history": list(self.history),
            "rollouts": self._runner.state() if self._runner.is_text else None,
        }

    def _set_counts(self, state: State) -> None:
        if self._runner.is_text:
            self._runner.load_state(state.value("rollouts"))
        self.num_timesteps, self._updates = state.value("timesteps"), state.value("updates")
        timesteps, updates = state.value("before")
        self._before = timesteps, updates
        self._best_update, self.stopped = state.value("best_update"), state.value("stopped")
        self.history[:] = state.value("history")
        self._runner.policy_version = self._updates

    def _adopt(self, config: Mapping[str, Any]) -> None:
        size = config.get("micro_batch_size")
        if self._fitted and isinstance(size, int):  # by the memory that there was then
            self.config = self._updater.config = replace(self.config, micro_batch_size=size)

    def rehearse(self, groups: int) -> Rehearsal:
        """On text, play some episodes and train on them, to see how long it takes.

        It changes the weights and counts as no update: use a trainer that is then given up.
        """
        return rehearse(
            self._runner, groups, lambda rollout: self._updater.update(rollout, 1.0, None)
        )

    def describe(self) -> str:
        """What is trained, and how, in one line."""
        return self._updater.describe()

    def save(self, folder: str | Path) -> None:
        """Write the trained policy to a folder.

        `load_policy` reads a policy of control; `load_model` and ``mlx_lm.load`` a language model.
        """
        self._updater.save(folder)
        self._after_save(folder)

    def save_adapters(self, folder: str | Path, peft: bool = False) -> None:
        """On text, write the adapters alone; see `GRPOTrainer.save_adapters`."""
        self._updater.save_adapters(folder, peft)

    def close(self) -> None:
        """Close the environments."""
        self._runner.close()
        self.evaluations.close()

    @property
    def _taken(self) -> int:
        return self._updates

    def _since_start(self) -> tuple[int, int]:
        """Transitions and optimizer steps since the present training began."""
        return self.num_timesteps - self._before[0], self._updates - self._before[1]

    def _progress(self) -> float:
        """The share of the present training that is done; 1 at its end."""
        timesteps, updates = self._since_start()
        by_steps = updates / self.config.max_steps if self.config.max_steps else 0.0
        return min(1.0, max(timesteps / self.config.total_timesteps, by_steps))
