"""Offline training of language models: what is chosen, what counts how much, and that it helps."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from textenv.algos import (
    Buffer,
    OfflineTextConfig,
    OfflineTextTrainer,
    RolloutRunner,
    Trajectory,
    create_policy,
    create_strategy,
    load_model,
)
from textenv.algos.episodes.trajectory import RolloutSource
from textenv.algos.evaluation.measure import evaluate
from textenv.algos.offline.text import supervised_loss, truncated_loss
from textenv.algos.offline.text_data import check_tokens, grouped, right_ones
from textenv.errors import ConfigError, ConfigTypeError, DataError


def written(prompt, completion, reward, group=None, correct=None, truncated=False, example=None):
    """A completion, one token a letter."""
    return Trajectory(
        observations=[prompt],
        actions=[completion],
        rewards=[float(reward)],
        infos=[{} if correct is None else {"is_correct": correct}],
        reset_info={} if example is None else {"task": "letters", "example_id": example},
        terminated=True,
        group_id=group,
        prompt=prompt,
        prompt_ids=[ord(c) for c in prompt],
        token_ids=[ord(c) for c in completion],
        token_mask=[1] * len(completion),
        token_logprobs=[-1.0] * len(completion),
        completion_truncated=truncated,
    )


def texts(trajectories):
    return [t.actions[0] for t in trajectories]


def test_right_is_what_the_verifier_says():
    rollout = Buffer(
        [
            written("a", "yes", 0.1, 0, correct=True),
            written("a", "no", 0.9, 0, correct=False),  # a shaped reward decides nothing
            written("a", "yes", 0.1, 0, correct=True),  # once is enough
            written("a", "cut", 0.1, 0, correct=True, truncated=True),
            written("b", "yes", 0.1, 1, correct=True),  # another prompt
        ]
    )
    chosen = right_ones(grouped([rollout]))
    assert [(t.prompt, *texts([t])) for t in chosen] == [("a", "yes"), ("b", "yes")]


def test_without_a_verifier_the_best_of_each_group():
    rollout = Buffer(
        [
            *(written("a", c, r, 0) for c, r in [("p", 1), ("q", 3), ("r", 3), ("s", 2)]),
            *(written("b", c, 5, 1) for c in "tu"),  # equal rewards: none is the best
            written("c", "alone", 9, 2),
            *(written("d", c, r, 3) for c, r in [("v", -2), ("w", -1)]),
        ]
    )
    assert texts(right_ones(grouped([rollout]))) == ["q", "r", "w"]
    with pytest.raises(DataError, match="none of the 2 completions is right"):
        right_ones(grouped([Buffer(rollout.trajectories[4:6])]))


def test_groups_are_numbered_anew():
    one = Buffer([written("a", "x", 0, 0, example=5), written("a", "y", 1, 1, example=6)])
    two = Buffer([written("a", "z", 1, 0, example=5), written("a", "w", 1, 0)])
    three = Buffer([written("a", "v", 1, 0), written("a", "u", 1), written("a", "t", 1)])
    # One example is one group in all rollouts; without one, only within a rollout.
    assert [t.group_id for t in grouped([one, two, three])] == [0, 1, 0, 2, 3, 4, 5]


def test_what_a_strategy_made_of_a_trajectory_stays_with_its_run():
    plain = [written("a", "x", 0, 0), written("a", "y", 1, 0)]
    made = [
        replace(plain[0], token_weights=[0.5], token_advantages=[3.0], shaping=-1.0),
        replace(plain[1], parent=0, branch_at=0, token_weights=[0.0]),
    ]
    assert grouped([Buffer(made)]) == grouped([Buffer(plain)]) == plain


def test_truncated_weights_by_hand():
    """Ratios .5, 1 and 4, bounded by 2: the gradient is -min(ratio, 2) * A over the tokens."""
    import mlx.core as mx

    old = mx.array([[-1.0, -2.0, -3.0, 9.0]])
    new = old + mx.log(mx.array([[0.5, 1.0, 4.0, 7.0]]))
    advantages = mx.array([[1.0, -2.0, 3.0, 100.0]])
    mask = mx.array([[1.0, 1.0, 1.0, 0.0]])

    def loss(new, **more):
        return truncated_loss(new, old, advantages, mask, **more)[0]

    gradient = np.array(mx.grad(loss)(new))
    np.testing.assert_allclose(gradient, [[-0.5 / 3, 2 / 3, -6 / 3, 0]], rtol=1e-5)
    value = -(0.5 * 1 * new[0, 0] + 1 * -2 * new[0, 1] + 2 * 3 * new[0, 2]).item() / 3
    assert loss(new).item() == pytest.approx(value, rel=1e-5)
    metrics = truncated_loss(new, old, advantages, mask)[1]
    assert metrics["importance/mean"].item() == pytest.approx(3.5 / 3)
    assert metrics["importance/truncated"].item() == pytest.approx(1 / 3)
    unbounded = np.array(mx.grad(lambda x: loss(x, max_importance=9.0))(new))
    np.testing.assert_allclose(unbounded, [[-0.5 / 3, 2 / 3, -12 / 3, 0]], rtol=1e-5)


def test_supervised_loss_by_hand():
    import mlx.core as mx

    logprobs = mx.array([[-1.0, -2.0], [-5.0, -mx.inf]])
    mask = mx.array([[1.0, 1.0], [1.0, 0.0]])
    loss, _ = supervised_loss(logprobs, None, mx.zeros(2), mask)
    assert loss.item() == pytest.approx(8 / 3)


# --- with models -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rollouts():
    """Two rollouts of sums by tiny-lm, 128 prompts of 8 completions each."""
    policy = create_policy(*load_model("tiny-lm"), {"max_tokens": 16, "seed": 1})
    env = gym.make("TextGen-v0", split="train")
    runner = RolloutRunner(env, policy, create_strategy("grpo"), max_steps=1024, seed=1)
    return [runner.collect() for _ in range(2)]


@pytest.mark.parametrize("method", ["rft", "grpo"])
def test_every_method_improves_on_its_data(rollouts, method, tmp_path):
    trainer = OfflineTextTrainer(rollouts, "tiny-lm", OfflineTextConfig(method))
    right = np.mean([t.infos[-1]["is_correct"] for r in rollouts for t in r])
    assert trainer.data_accuracy == pytest.approx(right) and 0.5 < right < 0.62
    history = trainer.train()
    trainer.save(tmp_path / "model")
    policy = create_policy(*load_model(tmp_path / "model"), {"max_tokens": 16, "seed": 5})
    test_env = gym.make("TextGen-v0", split="test")
    assert evaluate(policy, test_env, 200, deterministic=False).accuracy > right + 0.1
    assert evaluate(policy, test_env, 200).accuracy > right + 0.2
    steps = -(-len(trainer.trained_on) // 64)
    assert [m["step"] for m in history] == [steps, 2 * steps, 3 * steps]
    if method == "grpo":  # on what was just sampled, the weights of the first step are 1
        assert len(trainer.trained_on) == 2048
        assert history[0]["importance/mean"] == pytest.approx(1, abs=0.15)
        assert history[0]["importance/truncated"] < 0.1
    else:
        assert len(trainer.trained_on) < 600
        assert all(t.infos[-1]["is_correct"] for t in trainer.trained_on)


def test_it_goes_on_from_adapters(rollouts, tmp_path):
    from mlx.utils import tree_flatten

    config = OfflineTextConfig("rft", epochs=1, batch_size=512, lora_rank=2)
    first = OfflineTextTrainer(rollouts[:1], "tiny-lm", config)
    first.train()
    first.save_adapters(tmp_path / "adapters")
    second = OfflineTextTrainer(rollouts[:1], "tiny-lm", config, adapters=tmp_path / "adapters")
    trained = dict(tree_flatten(first.model.trainable_parameters()))
    assert any(name.endswith("lora_b") and value.any().item() for name, value in trained.items())
    for name, value in tree_flatten(second.model.trainable_parameters()):
        np.testing.assert_array_equal(value, trained[name])


def test_completions_of_one_reward_teach_grpo_nothing(rollouts):
    equal = [Buffer([replace(t, rewards=[1.0]) for t in rollout]) for rollout in rollouts]
    with pytest.raises(DataError, match="two with different rewards"):
        OfflineTextTrainer(equal, "tiny-lm", OfflineTextConfig("grpo"))


def test_tokens_of_another_tokenizer_are_refused(rollouts, tiny):
    with pytest.raises(DataError, match="another tokenizer"):
        OfflineTextTrainer(rollouts, tiny[0], tokenizer=tiny[1])
    policy = create_policy(*load_model("tiny-lm"))
    first = rollouts[0].trajectories[0]
    check_tokens([first], policy)
    size = 10**6
    for changed, message in (
        (
            {"token_ids": [size, *first.token_ids[1:]]},
            rf"token id {size}, and the model's vocabulary",
        ),
        ({"prompt_ids": first.prompt_ids[::-1]}, r"encodes it as .* another tokenizer"),
        ({"token_ids": [*first.token_ids[:-1], first.prompt_ids[0]]}, "an end of id .* ends with"),
    ):
        with pytest.raises(DataError, match=message):
            check_tokens([replace(first, **changed)], policy)
    # An id that the tokenizer does not have, below the size of the model's head.
    known = policy.model.known_ids.copy()
    policy.model.known_ids[first.token_ids[0]] = False
    with pytest.raises(DataError, match="no token of the model"):
        check_tokens([first], policy)
    policy.model.known_ids = known
    # A stop string is an end for a policy that has it.
    stopped = replace(first, token_ids=first.token_ids[:-1])
    last = policy.tokenizer.decode(stopped.token_ids[-1:])
    check_tokens([stopped], policy.with_params(stop=[last]))
    with pytest.raises(DataError, match="an end of id"):
        check_tokens([stopped], policy)
    # A completion that ran out of room has no end.
    cut = replace(first, token_ids=first.prompt_ids[:1], completion_truncated=True)
    check_tokens([cut], policy)


def test_rollouts_without_tokens_or_of_two_tasks_are_refused(rollouts):
    played = Buffer([Trajectory(["1+1="], ["2"], [1.0], [{}], prompt="1+1=", terminated=True)])
    with pytest.raises(DataError, match="trajectory 0 of rollout 0 has no token ids"):
        OfflineTextTrainer([played])
    sources = [RolloutSource("TextGen-v0", {"task": task}) for task in ("sort", "reverse")]
    two = [Buffer(r.trajectories, source) for r, source in zip(rollouts, sources)]
    with pytest.raises(DataError, match=r"env_kwargs.*sort.*reverse"):
        OfflineTextTrainer(two)
    with pytest.raises(ConfigTypeError, match="tokenizer="):
        OfflineTextTrainer(rollouts, load_model("tiny-lm")[0])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "awr"}, ConfigError, "unknown method 'awr'; known: rft, grpo"),
        ({"max_importance": 0.9}, ConfigError, "max_importance must be at least 1"),
        ({"batch_size": 0}, ConfigError, "batch_size"),
        ({"epochs": "3"}, ConfigTypeError, "epochs must be int"),
        ({"scale_rewards": "std"}, ConfigError, "scale_rewards"),
    ],
)
def test_a_config_checks_itself(settings, error, message):
    with pytest.raises(error, match=message):
        OfflineTextConfig(**settings)
