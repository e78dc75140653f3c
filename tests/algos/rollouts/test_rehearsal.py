"""A part of a step is played and trained on, and scaled to a whole step."""

import pytest

from tests.algos.shared import SUMS, make_env, same_weights, weights_of
from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer
from textenv.algos.episodes.rollout import Rollout
from textenv.algos.rollouts.rehearsal import Rehearsal


def nothing(prompt, completion, example):
    return 0.0


def test_a_whole_step_is_in_proportion():
    part = Rehearsal(Rollout(), groups=2, of=8, generate=0.5, update=1.5)
    assert part.step == 8.0


def test_grpo_plays_the_groups_it_is_told_and_updates_although_no_reward_differs(fresh):
    config = GRPOConfig(num_prompts=5, num_generations=3, max_completion_length=4)
    trainer = GRPOTrainer(fresh[0], make_env(nothing, SUMS), config, tokenizer=fresh[1])
    before = weights_of(fresh[0])
    part = trainer.rehearse(2)
    assert (part.groups, part.of, len(part.rollout)) == (2, 5, 6)
    assert [t.total_reward for t in part.rollout] == [0.0] * 6  # as they were scored
    assert part.generate > 0 and part.update > 0
    assert not same_weights(before, weights_of(fresh[0]))
    assert trainer.history == [] and trainer.rehearse(9).groups == 5


def test_there_are_enough_completions_for_the_minibatches(fresh):
    config = GRPOConfig(
        num_prompts=4, num_generations=2, num_minibatches=5, max_completion_length=4
    )
    trainer = GRPOTrainer(fresh[0], make_env(nothing, SUMS), config, tokenizer=fresh[1])
    assert trainer.rehearse(1).groups == 3


def test_ppo_on_text(fresh):
    config = PPOConfig(n_steps=8, batch_size=4, n_epochs=1, max_completion_length=4)
    trainer = PPOTrainer(fresh[0], make_env(nothing, SUMS), config, tokenizer=fresh[1])
    before = weights_of(fresh[0])
    part = trainer.rehearse(3)
    assert (part.groups, part.of, len(part.rollout)) == (3, 8, 3)
    assert not same_weights(before, weights_of(fresh[0]))
    assert trainer.num_timesteps == 0


@pytest.mark.parametrize("loss_type", ["dapo", "gspo"])
def test_a_rehearsal_of_each_kind_of_ratio(fresh, loss_type):
    config = GRPOConfig(
        num_prompts=4, num_generations=2, max_completion_length=4, loss_type=loss_type
    )
    trainer = GRPOTrainer(fresh[0], make_env(nothing, SUMS), config, tokenizer=fresh[1])
    assert trainer.rehearse(1).step >= trainer.rehearse(1).update
