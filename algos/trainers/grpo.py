"""`GRPOTrainer`: samples rollouts from a text environment, and trains a language model on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from textenv.algos.episodes.environments import is_text, make_env, max_turns
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.episodes.scoring import kept_for_inspection
from textenv.algos.episodes.style import style_for
from textenv.algos.evaluation.evaluated import EvaluatedTrainer
from textenv.algos.evaluation.measure import OnProgress
from textenv.algos.evaluation.schedule import EvaluationSchedule
from textenv.algos.grpo_config import GRPOConfig, describe
from textenv.algos.rollouts.health.watch import HealthWatch
from textenv.algos.rollouts.metrics import GRPOMetrics, PhaseClock
from textenv.algos.rollouts.rehearsal import Rehearsal, rehearse
from textenv.algos.rollouts.runner import RolloutRunner
from textenv.algos.rollouts.worker_runner import WorkerRunner
from textenv.algos.runtime import backend
from textenv.algos.storage.checkpoints.schedule import CheckpointSchedule
from textenv.algos.storage.checkpoints.state import State
from textenv.algos.strategies.state_files import STRATEGY_FILE, go_on_from, write_state
from textenv.algos.strategies.strategy import create_strategy
from textenv.algos.trainers.callbacks import Callback
from textenv.algos.trainers.resuming import HasState, Resumable
from textenv.errors import ConfigError

backend.prepare()

from textenv.algos.grpo import compute_advantages  # noqa: E402
from textenv.algos.lm.generation.policy import create_policy  # noqa: E402
from textenv.algos.lm.memory.limits import free_memory  # noqa: E402
from textenv.algos.lm.memory.watch import MemoryWatch  # noqa: E402
from textenv.algos.lm.models.adapters import save_adapters  # noqa: E402
from textenv.algos.lm.models.loading import resolve_model  # noqa: E402
from textenv.algos.lm.models.lora import adapt  # noqa: E402
from textenv.algos.lm.models.properties import describe_trained  # noqa: E402
from textenv.algos.lm.models.saving import save_model  # noqa: E402
from textenv.algos.lm.scoring.scorer import frozen_scores  # noqa: E402
from textenv.algos.rollouts.prompts import check_prompts  # noqa: E402
from textenv.algos.rollouts.shared_gradient import SharedGradient  # noqa: E402
from textenv.algos.runtime.ranks import join  # noqa: E402
from textenv.algos.trainers.ahead import AheadRunner  # noqa: E402
from textenv.algos.trainers.cards import grpo_card  # noqa: E402
from textenv.algos.trainers.grpo_workers import (  # noqa: E402
    make_gradient,
    make_loss,
    make_optimizer,
    make_policy,
    sources,
)
from textenv.algos.trainers.ranks import RankGradient, RankRunner, agree  # noqa: E402
from textenv.algos.training.fitting import fit  # noqa: E402
from textenv.algos.training.gradient import GradientComputer  # noqa: E402
from textenv.algos.training.guard import SKIPPED, StepGuard  # noqa: E402
from textenv.algos.training.inspecting import TextExporter  # noqa: E402
from textenv.algos.training.last_good import LastGood  # noqa: E402
from textenv.algos.training.optimizer import default_learning_rate, restart_schedule  # noqa: E402
from textenv.algos.training.trainer import Trainer  # noqa: E402


class GRPOTrainer(Resumable, EvaluatedTrainer):
    """Trains a language model on a text environment by GRPO.

    Args:
        model: a name or folder for `load_model`, or an mlx-lm model (with ``tokenizer``).
        env: an environment id, an environment, or a function that makes one.
        config: settings; the defaults if None.
        env_kwargs: arguments of ``gym.make``, if ``env`` is an id. If they name no ``style``, it is
            ``"chat"`` for a task that has it and a tokenizer with a chat template.
        tokenizer: the tokenizer, if ``model`` is an mlx-lm model.
        adapters: a folder of adapters to go on from, if ``model`` is a name or folder.
        on_step: called after each optimizer step with the metrics and the rollout, which may be
            empty if a strategy kept nothing.
        export_to: a folder that rollouts are written to, as
            ``rollout_{index}_{YYYYMMDD_HHMMSS}.json``; None writes none.
        export_every: write only the first of every so many rollouts.
        eval_env: held-out examples for evaluations: an environment id, an environment, or a
            function that makes one. None takes the test split of ``env``, if it has one.
        out: a folder, in which ``best`` will be the best model by the evaluations of
            ``eval_steps``, ``checkpoints`` what `resume` goes on from, ``reward_error.json`` the
            completion whose reward ended the training; None keeps nothing.
        on_evaluate: called while such an evaluation goes on, with how many examples it has played,
            of how many.
        callbacks: called while the training goes on; see `Callback`.

    Attributes:
        policy: the policy that is trained; usable at any time.
        config: the settings, with those chosen that were left open.
        chosen: which settings were chosen, and why; empty if none were.
        history: the metrics of each step so far.
        evaluations: the evaluations of ``eval_steps``: the ``best``, the ``last``, and whether they
            ``stopped`` the training.
        checkpoints: writes the checkpoints of ``save_steps`` and ``save_minutes``, and one at the
            end, while the training goes on; the newest is its ``last``.
        stopped: why the training ended before its last step, if it did by ``stop_on_collapse``.
        health: looks for what keeps the model from learning; what it found is in `warnings`.
        exporter: writes the rollouts; its ``last`` is the file of the last one, if it was written.

    Raises:
        ConfigError: for an environment that is not text to text, a temperature of 0, or a part of
            the strategy that cannot be used here.
        OutOfMemoryError: if the training does not fit in memory.

    Example:
        >>> trainer = GRPOTrainer("tiny-lm", config=GRPOConfig(max_steps=2, num_prompts=4))
        >>> len(trainer.train())
        2
    """

    algorithm = "grpo"
    health: HealthWatch

    def __init__(
        self,
        model: Any,
        env: Any = "TextGen-v0",
        config: GRPOConfig | None = None,
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
        self.config = config = config or GRPOConfig()
        self._ranks = join()
        if config.temperature == 0:
            raise ConfigError(
                "temperature must be above 0 to train: greedy completions are all equal"
            )
        self.env = make_env(env, env_kwargs)
        if not is_text(self.env):
            raise ConfigError(
                f"GRPO trains on environments of text; the actions of {self.env} are not text"
            )
        named = isinstance(model, (str, Path))
        model, tokenizer = resolve_model(model, tokenizer, adapters)
        styled = style_for(env, env_kwargs, tokenizer, config.chat_template)
        if styled != (env_kwargs or {}):
            env_kwargs, self.env = styled, make_env(env, styled)
        if config.num_workers and not named:
            raise ConfigError("num_workers needs the model's name or folder: each worker reads it")
        self.model, self.tokenizer = model, tokenizer
        self.history: list[dict[str, float]] = []
        adapt(model, config)
        self.policy = create_policy(model, tokenizer, config.sampling)
        config, self.chosen = fit(config, model, self.env, self.policy)
        self._fitted = self.config.micro_batch_size is None
        self.config = config = agree(self._ranks, self.config, config, model)
        first = self._ranks.is_first
        out, export_to = (out, export_to) if first else (None, None)
        self.checkpoints = CheckpointSchedule(
            out, self._settings(), config.save_steps, config.save_minutes
        )
        self._memory = MemoryWatch(model, config, self.env, self.policy)
        judged = config if first else replace(config, eval_steps=0, early_stopping_patience=0)
        self.evaluations = EvaluationSchedule(
            judged, self.policy, eval_env, self.env, self.save, out, on_evaluate
        )
        strategy = create_strategy(
            "grpo", num_generations=config.num_generations, parts=config.strategy
        )
        size = config.completions * max_turns(self.env)
        self._runner = RolloutRunner(
            self.env, self.policy, strategy, size, config.seed, config.on_reward_error
        )
        self._workers: WorkerRunner | None = None
        if config.num_workers:
            self._workers = WorkerRunner(
                self._runner,
                partial(make_env, env, env_kwargs),
                partial(make_policy, *sources(model, adapters), config),
                config.num_workers,
                partial(make_gradient, config),
                config.worker_timeout,
                config.backend,
                config.ray_address,
            )
        self._trainer = self._make_trainer(self._share_work())
        self._steps, self._end, self.stopped = 0, config.max_steps, ""
        self._metrics = GRPOMetrics(strategy)
        sampled, precision = config.eval_samples > 0, self.policy.params.precision
        self.health = HealthWatch(self.env, strategy, model, precision, sampled)
        self._last_good = LastGood(model) if config.stop_on_collapse else None
        self.exporter = TextExporter(export_to, export_every, out, self.policy, self.env)
        self._out = out
        self._call(on_step, callbacks)

    def _share_work(self) -> GradientComputer | None:
        """Make what collects rollouts, and what computes gradients; None: this process."""
        workers, ranks = self._workers, self._ranks
        self._collector: Any = workers or self._runner
        if ranks.size > 1:
            self._collector = RankRunner(self._runner, ranks)
            return RankGradient(self.model, make_gradient(self.config, self.policy), ranks)
        if workers and self.config.rollouts_ahead:
            self._collector = AheadRunner(workers, self._goes_on)
            return None
        return SharedGradient(workers) if workers else None

    def _make_trainer(self, gradient: GradientComputer | None) -> Trainer:
        """Make what updates the model from a rollout."""
        config = self.config
        return Trainer(
            self.model,
            partial(compute_advantages, scale_rewards=config.scale_rewards),
            make_loss(config),
            make_optimizer(config, self.learning_rate),
            on_policy=False,  # the rollout is still measured and shown after the update
            num_iterations=config.num_iterations,
            num_minibatches=config.num_minibatches,
            micro_batch_size=config.micro_batch_size,
            gradient_checkpointing=config.gradient_checkpointing,
            max_grad_norm=config.max_grad_norm,
            mask_truncated_completions=config.mask_truncated_completions,
            reference=frozen_scores(self.model) if config.beta else None,
            credit_fn=self._runner.strategy.generation.credit,
            gradient=gradient,
            guard=StepGuard(),
            importance_cap=config.importance_cap if config.rollouts_ahead else None,
            seed=config.seed,
        )

    def describe(self) -> str:
        """The loss and the data in words, in one line."""
        trained, ranks = describe_trained(self.model), self._ranks.size
        among = f"; {ranks} ranks" if ranks > 1 else ""
        half = ", sampled in bfloat16" if self.policy.params.precision == "bfloat16" else ""
        return f"{describe(self.config)}{half}; {trained}, AdamW at {self.learning_rate:g}{among}"

    def train(self) -> list[dict[str, float]]:
        """Train for ``max_steps`` optimizer steps.

        A further call goes on counting. If a call was interrupted, the next one trains for the
        steps that are left; else it trains for ``max_steps`` more, with a new schedule of the
        learning rate.

        A step whose rollout has no signal counts, and leaves the weights as they are. So does one
        whose loss or gradient is not finite, which ``skipped_steps`` counts.

        With ``eval_steps`` the metrics of a step have those of its evaluation, if there was one.
        With ``early_stopping_patience`` the training may end before its last step.
        With ``stop_on_collapse`` it ends early if the rewards collapse; see `warnings`.
        If there is an ``out``, checkpoints are written.

        The phases of a step follow one another, except that ``time/score`` (environments and
        rewards, of all workers together) is a part of ``time/generate``. For reward functions that
        run elsewhere (async, or in a process of their own) it has only the time spent waiting.

        Returns:
            The metrics of each step, which are also in `history`.

        Raises:
            ConfigError: if ``out`` has checkpoints of another training.
            StorageError: if a checkpoint cannot be written.
            NotFiniteError: if five steps in a row had no finite loss or gradient; it has the batch.
        """
        check_prompts(self.policy, self.env)
        self.evaluations.check()
        self.checkpoints.begin()
        if self.has_ended:
            if self._steps == self._end:
                self._end += self.config.max_steps
                restart_schedule(self._trainer.optimizer)
            self.evaluations.begin()
            self.stopped = ""
        try:
            while not self._is_over():
                clock = PhaseClock()
                with self._memory.generating(), kept_for_inspection(self._out):
                    rollout = self._collector.collect()
                if self._last_good is not None:
                    self._last_good.offer(self._steps, rollout)
                clock.end("generate")
                self.exporter.write(rollout, self._runner)
                clock.end("export")
                update = {"updates": 0.0}
                if len(rollout):  # a strategy may have kept nothing
                    self._trainer.buffer = rollout
                    self.checkpoints.make_room(free_memory())
                    with self._memory.updating(rollout):
                        update = self._trainer.train(self._end - self._steps)
                clock.end("update")
                steps = max(1, int(update.pop("updates") + update.get(SKIPPED, 0)))
                self._steps += steps
                self._runner.policy_version += steps
                trained = self._trainer.trained if len(rollout) else None
                self.exporter.inspect(rollout, trained, self._steps, self.config.micro_batch_size)
                clock.end("export")
                metrics = self._metrics.step(rollout, update, clock, self._steps)
                metrics |= {} if self._workers is None else self._workers.metrics()
                self.history.append(metrics)
                left = (self._end - self._steps) / self.config.max_steps
                try:
                    metrics |= self.evaluations.after_step(self._steps, 1 - left, clock.total)
                finally:  # an evaluation may be interrupted after the step was taken
                    self.health.step(self._steps, metrics, rollout)
                    if self._on_step is not None:
                        self._on_step(metrics, rollout)
                    self._after_step(metrics, rollout)
                self._stop_at_collapse()
                self._save()
        finally:
            self._stop = False
        self._save(ends=True)
        return self._finish()

    @property
    def _taken(self) -> int:
        return self._steps

    def _is_over(self) -> bool:
        """Whether the training has ended or is to stop, on any rank."""
        ended, stops = self._ranks.any(self.has_ended, self._stop)
        if ended and not self.has_ended:  # by an evaluation, which only the first rank makes
            self.stopped = "the first rank ended the training"
        return ended or stops

    def _goes_on(self) -> bool:
        """Whether there is another rollout after the one that is trained on."""
        return self._steps + self.config.num_iterations * self.config.num_minibatches < self._end

    def _save(self, ends: bool = False) -> None:
        best = None if self.best is None else self.best.step
        self.checkpoints.after_step(self._steps, self.state, best, ends)
        self.checkpoints.hold(self._steps, self.state, best)
        self._after_checkpoint(self.checkpoints.last)

    @property
    def has_ended(self) -> bool:
        """Whether the training has made all its steps, or ended early; `train` begins another."""
        return self._steps == self._end or self.evaluations.stopped or bool(self.stopped)

    def _counts(self) -> dict[str, Any]:
        return {  # after the state of the parts, of which that of the collector waits for a rollout
            "steps": self._steps,
            "steps_left": self._end - self._steps,
            "max_steps": self.config.max_steps,
            "stopped": self.stopped,
            "history": list(self.history),
            "rollouts": self._runner.state(),
        }

    def _set_counts(self, state: State) -> None:
        self._runner.load_state(state.value("rollouts"))
        self._steps = state.value("steps")
        more = self.config.max_steps - state.value("max_steps")  # if that was allowed to change
        self._end = self._steps + max(0, state.value("steps_left") + more)
        self.stopped, self.history[:] = state.value("stopped"), state.value("history")

    def _parts(self) -> dict[str, HasState]:
        parts: dict[str, HasState] = {"update": self._trainer, "policy": self.policy}
        parts |= {"metrics": self._metrics, "health": self.health}
        if self._ranks.is_first:
            parts |= {"evaluations": self.evaluations, "exporter": self.exporter}
        if isinstance(self._collector, AheadRunner):
            parts["ahead"] = self._collector
        return parts | ({} if self._last_good is None else {"last_good": self._last_good})

    def _adopt(self, config: Mapping[str, Any]) -> None:
        if self._fitted:  # by the memory that there was then
            size = config.get("micro_batch_size")
            self.config = replace(self.config, micro_batch_size=size)
            self._trainer.micro_batch_size = size

    def rehearse(self, groups: int) -> Rehearsal:
        """Play some groups and train on them, to see how long it takes.

        It changes the weights and counts as no step: use a trainer that is then given up.
        """
        least = -(-self.config.num_minibatches // self._runner.strategy.num_generations)

        def update(rollout: Rollout) -> None:
            self._trainer.buffer = rollout
            with self._memory.updating(rollout):
                self._trainer.train()

        with self._memory.generating():
            return rehearse(self._runner, max(groups, least), update)

    @property
    def learning_rate(self) -> float:
        """The highest learning rate: that of the config, or else one by the size of the model."""
        rate = self.config.learning_rate
        return default_learning_rate(self.model) if rate is None else rate

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder that `mlx_lm.load` and `load_model` can read.

        Adapters are merged. A ``README.md`` says what was trained, unless the folder has one of
        your own. If the strategy has parts, what they remember is written to ``strategy.json``.
        """
        beside: dict[str, Callable[[Path], None]] = {}
        if self._runner.strategy.parts:
            beside[STRATEGY_FILE] = partial(write_state, state=self._runner.state())
        save_model(self.model, self.tokenizer, folder, beside, grpo_card(self, self._steps))
        self._after_save(folder)

    def save_adapters(self, folder: str | Path, peft: bool = False) -> None:
        """Write the adapters alone, for `load_model` and ``mlx_lm.load``, or for PEFT.

        Raises:
            ConfigError: if the model has no adapters, or PEFT has no form for them.
        """
        save_adapters(
            self.model, folder, peft, grpo_card(self, self._steps, "peft" if peft else "mlx")
        )

    def load_strategy(self, folder: str | Path) -> None:
        """Continue the strategy of an earlier training, whose folder `save` wrote.

        Raises:
            MissingFileError: if the folder has no ``strategy.json``.
            ConfigError: if that file is of a training with another strategy.
            DataError: if the file is broken.
        """
        go_on_from(Path(folder) / STRATEGY_FILE, self._runner.load_state)

    def close(self) -> None:
        """Close the environments, and end the workers if there are any."""
        self._collector.close()
        self.evaluations.close()
