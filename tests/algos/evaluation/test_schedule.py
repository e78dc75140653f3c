"""Evaluations while a policy trains: when, how many, what is kept, and when it ends."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from tests.algos.evaluation.shared import make_record
from tests.algos.lm.generation.shared import config_for, family
from tests.algos.shared import same_weights, starts_with, weights_of
from textenv import TextGenerationEnv
from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, load_model
from textenv.algos.evaluation.results import Evaluation
from textenv.algos.evaluation.schedule import EvaluationSchedule, chosen_metric, held_out
from textenv.algos.storage.checkpoints.store import read_checkpoint, write_checkpoint
from textenv.errors import ConfigError, DataError


def numbers(count=100, **settings):
    return TextGenerationEnv(
        [f"{i}=" for i in range(count)],
        **{"reward_fn": "exact_match"} | settings,
        examples=[{"answer": str(i)} for i in range(count)],
    )


class Learner:
    """Is right on the first so many numbers; an answer takes a second of the clock's."""

    batched = True
    params = SimpleNamespace(seed=0)
    model = SimpleNamespace(args=None)  # it has no context that prompts could be longer than

    def __init__(self, clock=lambda seconds: None, knows=0, takes=1.0):
        self.knows, self._clock, self._takes = knows, clock, takes

    def with_params(self, seed, precision):
        assert precision == "float32"  # whatever rollouts are sampled in
        return self

    def __call__(self, observation, deterministic=False):
        self._clock(self._takes * len(observation))
        known = [int(text[:-1]) < self.knows for text in observation]
        return [text[:-1] if right else "x" for text, right in zip(observation, known)], {}


def make_schedule(policy, env=None, save=lambda folder: None, out=None, seen=None, **settings):
    settings = {"eval_steps": 10, "eval_examples": 100, "eval_share": 1.0} | settings
    config = GRPOConfig(**settings)
    return EvaluationSchedule(config, policy, env or numbers(), numbers(), save, out, seen)


def test_every_so_many_steps_and_at_the_end():
    schedule = make_schedule(Learner(knows=30))
    seen = [step for step in range(1, 26) if schedule.after_step(step, step / 25, 1.0)]
    assert seen == [10, 20, 25]
    # A rollout may have several optimizer steps.
    schedule = make_schedule(Learner())
    seen = [step for step in range(4, 64, 4) if schedule.after_step(step, step / 100, 1.0)]
    assert seen == [12, 20, 32, 40, 52, 60]
    schedule = make_schedule(Learner(), eval_steps=0)
    assert schedule.after_step(10, 1.0, 1.0) == {} and schedule.best is None
    assert schedule.describe() == "" and schedule.summary() == {}


def test_metrics_of_an_evaluation(clock):
    policy = Learner(clock, knows=30)
    found = make_schedule(policy).after_step(10, 0.5, 1.0)
    assert found["eval/accuracy"] == 0.3 and found["eval/examples"] == 100
    assert found["eval/best_step"] == 10 and found["time/evaluate"] == 100


@pytest.mark.parametrize(
    ("end", "examples"),
    [
        (40, 82),  # 4 evaluations share 10 s and the ninth part of 40 x 90 s: 102.5 s, with room
        (50, 81),  # 5 share 510 s
        (25, 69),  # 3 share 260 s
    ],
)
def test_evaluations_take_a_share_of_the_time(clock, end, examples):
    """A step takes 90 s and an example one: a tenth of the whole, 1 s to 9 s of training."""
    schedule = make_schedule(Learner(clock), eval_share=0.1)
    seen = [
        (step, found["eval/examples"])
        for step in range(1, end + 1)
        if (found := schedule.after_step(step, step / end, 90.0))
    ]
    expected = [*range(10, end, 10), end]
    assert seen == [(step, examples) for step in expected]
    assert examples * len(seen) <= 10 + 0.1 * (90 * end + examples * len(seen))


def test_an_evaluation_that_is_dearer_than_its_share_waits(clock):
    """The first batch takes 32 s; steps of 9 s leave a second each, and 10 s are free."""
    schedule = make_schedule(Learner(clock), eval_share=0.1)
    seen = [step for step in range(1, 101) if schedule.after_step(step, step / 120, 9.0)]
    assert seen == [10, 54, 86]
    assert schedule.after_step(120, 1.0, 9.0)["eval/examples"] == 32  # the end does not wait


def test_a_short_training_may_evaluate_all_the_same(clock):
    """Three evaluations of 3 s each, in a training of 3 s."""
    schedule = make_schedule(Learner(clock, takes=0.03), eval_share=0.1)
    seen = [schedule.after_step(step, step / 3, 1.0) for step in range(1, 4)]
    assert seen[:2] == [{}, {}] and seen[2]["eval/examples"] == 100
    schedule = make_schedule(Learner(clock, takes=0.02), eval_share=0.1, eval_steps=1)
    seen = [schedule.after_step(step, step / 3, 1.0) for step in range(1, 4)]
    assert [found["eval/examples"] for found in seen] == [100, 100, 100]


def test_all_evaluations_are_on_the_same_examples(clock):
    policy = Learner(clock)
    schedule = make_schedule(policy, eval_share=0.1)
    ids = []
    for step in range(10, 60, 10):
        schedule.after_step(step, step / 50, 600.0)
        ids.append([record.example_id for record in schedule.last.records])
        policy._takes = 0.5  # it would have the time for more
    assert all(own == ids[0] for own in ids) and len(ids[0]) < 100


def test_the_best_is_kept_and_the_first_of_equals(tmp_path):
    saved = []
    policy = Learner()
    schedule = make_schedule(policy, save=saved.append, out=tmp_path)
    best = []
    for step, knows in [(10, 20), (20, 50), (30, 50), (40, 40), (50, 60)]:
        policy.knows = knows
        schedule.after_step(step, step / 100, 1.0)
        best.append((schedule.best.step, schedule.best.value))
    assert best == [(10, 0.2), (20, 0.5), (20, 0.5), (20, 0.5), (50, 0.6)]
    assert saved == [tmp_path / "best"] * 3
    assert schedule.best.evaluation.accuracy == 0.6 and schedule.best.folder == tmp_path / "best"
    assert schedule.describe() == (
        f"best evaluation: step 50, accuracy 0.600, its model is in {tmp_path / 'best'}"
    )
    told = schedule.summary()
    assert (told["step"], told["metric"], told["value"]) == (50, "accuracy", 0.6)
    assert told["evaluation"]["accuracy"] == 0.6 and told["stopped_early"] is False


def test_it_goes_on_from_a_checkpoint(tmp_path, clock):
    """The same metrics, the same best, and the same early end as one that never stopped."""
    policy = Learner(clock)
    settings = {"early_stopping_patience": 2, "eval_share": 0.5, "out": tmp_path}

    def play(schedule, course):
        found = []
        for step, knows in course:
            policy.knows = knows
            found.append((schedule.after_step(step, step / 100, 100.0), schedule.stopped))
        return found, schedule.summary(), schedule.describe()

    whole, first = make_schedule(policy, **settings), make_schedule(policy, **settings)
    early, late = [(10, 20), (20, 50), (30, 10)], [(40, 10), (50, 30)]
    (tmp_path / "best").mkdir()
    play(whole, early)
    play(first, early)
    path = write_checkpoint(tmp_path / "checkpoints", 30, first.state(), {})
    again = make_schedule(policy, **settings)
    again.load_state(read_checkpoint(path).state)
    assert again.last.records == first.last.records
    assert play(again, late) == play(whole, late)
    assert again.best == whole.best and again.best.step == 20


def test_a_schedule_without_evaluations_has_a_state_too():
    again = make_schedule(Learner())
    again.load_state(make_schedule(Learner()).state())
    assert again.best is None and again.last is None and not again.stopped


def test_without_a_folder_no_model_is_written():
    schedule = make_schedule(Learner(knows=9), save=lambda folder: pytest.fail("saved"))
    schedule.after_step(10, 0.1, 1.0)
    assert schedule.best.value == 0.09 and schedule.best.folder is None
    assert schedule.describe() == "best evaluation: step 10, accuracy 0.090"


def test_it_stops_after_evaluations_without_gain():
    policy = Learner()
    schedule = make_schedule(policy, early_stopping_patience=2)
    stopped = []
    for step, knows in [(10, 20), (20, 10), (30, 30), (40, 30), (50, 5)]:
        policy.knows = knows
        schedule.after_step(step, step / 100, 1.0)
        stopped.append(schedule.stopped)
    assert stopped == [False, False, False, False, True]
    assert schedule.describe().startswith("ended early, after 2 evaluation(s) without gain; best")
    schedule.begin()
    assert not schedule.stopped
    schedule.after_step(60, 0.6, 1.0)
    assert not schedule.stopped
    schedule.after_step(100, 1.0, 1.0)
    assert not schedule.stopped  # it had ended anyway


def shaped(prompt, completion, example):
    """Pays more for a long answer than for a right one, and says which is right."""
    return {"correct": float(completion == example["answer"]), "long": 5.0 * len(completion)}


def longer(prompt, completion, example):
    return {"long": float(len(completion)), "even": float(len(completion) % 2 == 0)}


@pytest.mark.parametrize(
    ("reward", "settings", "metric", "value"),
    [
        (shaped, {}, "accuracy", 0.2),
        (shaped, {"metric_for_best_model": "reward"}, "reward", 0.2 + 5 * (10 + 20 + 80) / 100),
        (shaped, {"metric_for_best_model": "rewards/correct/mean"}, "rewards/correct/mean", 0.2),
        (longer, {}, "reward", (10 * 1 + 10 * 3 + 80 * 1) / 100),
    ],
)
def test_the_best_is_chosen_by_the_metric(reward, settings, metric, value):
    """Of 100 numbers it knows 20, ten of which have two digits."""
    schedule = make_schedule(Learner(knows=20), numbers(reward_fn=reward), **settings)
    schedule.after_step(10, 0.5, 1.0)
    assert schedule.summary()["metric"] == metric and schedule.best.value == pytest.approx(value)


def test_a_component_that_there_is_not_is_named():
    found = Evaluation.of([make_record(0, [1])])
    assert chosen_metric(found, "rewards/right/mean") == "rewards/right/mean"
    with pytest.raises(ConfigError) as caught:
        chosen_metric(found, "rewards/wrong/mean")
    assert "expected accuracy, reward, rewards/right/mean" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"eval_steps": -1}, "eval_steps must be an integer >= 0, got -1"),
        ({"eval_samples": -1}, "eval_samples"),
        ({"eval_share": 0.0}, "eval_share must be above 0"),
        ({"eval_share": 1.5}, "eval_share must be at least 0 and at most 1, got 1.5"),
        ({"eval_steps": 5, "eval_examples": 0}, "eval_steps needs eval_examples"),
        ({"early_stopping_patience": 2}, "set eval_steps"),
        ({"metric_for_best_model": "loss"}, "accuracy or reward, or rewards/NAME/mean"),
    ],
)
@pytest.mark.parametrize("config", [GRPOConfig, PPOConfig])
def test_settings_that_do_not_go(config, settings, says):
    with pytest.raises(ConfigError, match=says):
        config(**settings)


def test_held_out_examples_are_the_test_split():
    env = gym.make("textenv:TextGen-v0", task="arithmetic", task_kwargs={"digits": 3})
    test = held_out(env)
    assert test.unwrapped.task.split == "test" and test.unwrapped.task.digits == 3
    rows = [{"answer": str(i)} for i in range(60)]
    prompts = [f"{i}=" for i in range(60)]
    given = {"prompts": prompts, "examples": rows, "reward_fn": "exact_match"}
    env = gym.make("textenv:TextGen-v0", **given, split="train")
    both = {*env.unwrapped.task.ids}, {*held_out(env).unwrapped.task.ids}
    assert both[0] | both[1] == {*range(60)} and not both[0] & both[1]
    with pytest.raises(ConfigError, match=r"all rows of its .* are trained on.*eval_env="):
        held_out(gym.make("textenv:TextGen-v0", **given))


def test_there_must_be_something_to_evaluate_on(fresh):
    model, tokenizer = fresh
    config = GRPOConfig(eval_steps=1, num_prompts=2, num_generations=2)
    with pytest.raises(ConfigError, match="eval_env="):
        GRPOTrainer(model, numbers(), config, tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="eval_env must be a TextGen environment"):
        GRPOTrainer(model, numbers(), config, tokenizer=tokenizer, eval_env="CartPole-v1")
    with pytest.raises(ConfigError, match="are for text; on control"):
        PPOTrainer("mlp", "CartPole-v1", PPOConfig(eval_steps=1))
    trainer = PPOTrainer("mlp", "CartPole-v1", PPOConfig())
    with pytest.raises(ConfigError, match="are for text; on control"):
        trainer.evaluate()


@pytest.mark.parametrize("trainer", [GRPOTrainer, PPOTrainer])
def test_a_held_out_prompt_that_is_too_long_is_named_before_the_first_step(fresh, trainer):
    model, tokenizer = fresh
    held = TextGenerationEnv(["1=", "1" * 5000], "length")
    settings = GRPO if trainer is GRPOTrainer else PPO
    config = (GRPOConfig if trainer is GRPOTrainer else PPOConfig)(**settings, eval_steps=2)
    made = trainer(model, make_env(), config, tokenizer=tokenizer, eval_env=held)
    with pytest.raises(DataError, match=r"row 1: a prompt of \d+ tokens"):
        made.train()
    assert not made.history


PROMPTS = ["12+30=", "a", "hello there", "9-1="]
SMALL = {"max_completion_length": 6, "learning_rate": 3e-3}
GRPO = {**SMALL, "num_prompts": 4, "num_generations": 8, "warmup_steps": 0, "max_steps": 4}
PPO = {**SMALL, "total_timesteps": 64, "n_steps": 16, "batch_size": 16, "n_epochs": 1}


def make_env():
    """Pays for an "e" at the beginning, and says that this is right."""
    reward = starts_with("e")
    reward.verifies = True
    return TextGenerationEnv(PROMPTS, reward)


@pytest.mark.parametrize(
    ("make", "config", "settings"), [(GRPOTrainer, GRPOConfig, GRPO), (PPOTrainer, PPOConfig, PPO)]
)
@pytest.mark.parametrize("samples", [0, 3])
def test_evaluating_does_not_change_what_is_learnt(tiny_folder, make, config, settings, samples):
    def train(**more):
        trainer = make(tiny_folder, make_env(), config(**settings, **more), eval_env=make_env())
        trainer.train()
        return trainer

    plain = train()
    judged = train(eval_steps=1, eval_samples=samples, eval_share=1.0)
    assert same_weights(weights_of(plain.policy.model), weights_of(judged.policy.model))
    assert [m["reward"] for m in plain.history] == [m["reward"] for m in judged.history]
    assert not any("eval/reward" in metrics for metrics in plain.history)
    evaluated = [m for m in judged.history if "eval/accuracy" in m]
    assert len(evaluated) == len(judged.history) == 4
    assert plain.best is None and judged.best.value == max(m["eval/accuracy"] for m in evaluated)


def test_the_best_model_is_in_its_folder_and_the_last_one_is_another(tiny_folder, tmp_path):
    """The weights as they were after the step whose evaluation was the best."""
    config = GRPOConfig(**GRPO | {"max_steps": 6}, eval_steps=2, eval_samples=8, eval_share=1.0)
    at = {}

    def on_step(metrics, rollout):
        at[int(metrics["step"])] = weights_of(trainer.model)

    trainer = GRPOTrainer(
        tiny_folder, make_env(), config, eval_env=make_env, out=tmp_path, on_step=on_step
    )
    history = trainer.train()
    accuracies = {int(m["step"]): m["eval/accuracy"] for m in history if "eval/accuracy" in m}
    assert [*accuracies] == [2, 4, 6]
    best = max(accuracies, key=accuracies.get)
    assert trainer.best.step == best and trainer.best.folder == tmp_path / "best"
    model, _ = load_model(tmp_path / "best")
    assert same_weights(weights_of(model), at[best])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "checkpoints"]


def test_a_trainer_evaluates_at_any_time(tiny_folder):
    trainer = GRPOTrainer(tiny_folder, make_env(), GRPOConfig(**GRPO), eval_env=make_env())
    before = trainer.evaluate()
    assert (before.examples, before.samples, trainer.best) == (4, 1, None)
    assert trainer.evaluate() == before and trainer.evaluate(2).examples == 2
    sampled = trainer.evaluate(samples=16)
    assert sampled.samples == 16 and sampled == trainer.evaluate(samples=16)
    answers = {text for record in sampled.records for text in record.completions}
    assert len(answers) > 8  # noise of their own


def test_training_ends_early_and_goes_on_when_it_is_told_to(tiny_folder):
    """With a learning rate of 0 there is never a gain."""
    config = GRPOConfig(
        **GRPO | {"learning_rate": 0.0, "max_steps": 9},
        **{"eval_steps": 1, "early_stopping_patience": 2, "eval_share": 1.0},
    )
    trainer = GRPOTrainer(tiny_folder, make_env(), config, eval_env=make_env())
    assert [m["step"] for m in trainer.train()] == [1, 2, 3]
    assert trainer.evaluations.stopped and trainer.best.step == 1
    assert [m["step"] for m in trainer.train()] == [1, 2, 3, 4, 5]


def test_a_step_whose_evaluation_is_interrupted_is_not_lost(tiny_folder):
    def interrupted(done, total):
        raise KeyboardInterrupt

    seen = []
    config = GRPOConfig(**GRPO, eval_steps=2)
    trainer = GRPOTrainer(
        *(tiny_folder, make_env(), config),
        eval_env=make_env(),
        on_evaluate=interrupted,
        on_step=lambda metrics, rollout: seen.append(metrics["step"]),
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert seen == [m["step"] for m in trainer.history] == [1, 2]
    trainer.evaluations._on_progress = None
    assert [m["step"] for m in trainer.train()] == [1, 2, 3, 4]
    assert np.isfinite(trainer.best.value)


def test_a_chat_model_is_asked_in_words_in_its_evaluations_too(random_model):
    """Whether the trainer makes the environment of the held-out examples, or is given an id."""
    tokenizer = family("chatml")
    model = random_model(**config_for(tokenizer))
    for env in (None, "textenv:TextGen-v0"):
        trainer = GRPOTrainer(
            *(model, "textenv:TextGen-v0", GRPOConfig(**GRPO)),
            tokenizer=tokenizer,
            eval_env=env,
        )
        record = trainer.evaluate(2).records[0]
        asked = trainer.env.unwrapped.task
        assert asked.style == "chat" and asked.split == "train"
        held = gym.make("textenv:TextGen-v0", style="chat", split="test" if env is None else None)
        assert record.prompt == held.unwrapped.task.example(record.example_id)["prompt"]
