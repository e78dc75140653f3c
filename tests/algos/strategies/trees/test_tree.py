"""Trees of one turn: what they share, what they cost, and that they are chains without branches."""

from __future__ import annotations

import copy
from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from tests.algos.shared import groups_of, make_policy
from tests.algos.strategies.trees.shared import SETTINGS, collect, digits, make_env
from textenv.algos import (
    GRPOConfig,
    GRPOTrainer,
    RolloutCoordinator,
    RolloutRunner,
    Trainer,
    create_policy,
    create_strategy,
    grpo,
    load_model,
    load_rollout,
)

PARTS = ["tree", "tree:chains=2,rounds=3,branches=1", "tree:chains=1,rounds=1,branches=7",
         "tree:branches=1,rounds=1,copies=3", "segment_tree:segment=3", "segment_tree:width=3",
         "segment_tree:segment=2,repetition=none"]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_leaves_are_whole_trajectories(tiny, plain_logprobs, part):
    """Shared to the token, scored as a plain forward does, rewarded by the environment."""
    rollout, policy, _ = collect(tiny, [part])
    assert len(rollout) == 24 and len({t.group_id for t in rollout}) == 3
    branches = 0
    for group in groups_of(rollout, 8):
        assert len({(t.prompt, t.seed, t.group_id) for t in group}) == 1
        for i, t in enumerate(group):
            assert 0 < len(t.token_ids) <= 12
            text = tiny[1].decode(t.token_ids if t.completion_truncated else t.token_ids[:-1])
            assert t.actions == [text] and t.rewards == [digits(t.prompt, text, {})]
            expected = plain_logprobs(tiny[0], t.prompt_ids, t.token_ids, 1.3)
            np.testing.assert_allclose(t.token_logprobs, expected, atol=2e-4)
            assert len(t.token_entropies) == len(t.token_mask) == len(t.token_ids)
            assert t.logprobs[0] == pytest.approx(sum(t.token_logprobs))
            assert (t.parent is None) == (t.branch_at is None)
            if t.parent is not None:
                branches += t.branch_at > 0
                assert 0 <= t.parent < i
                theirs = group[t.parent].token_ids
                assert t.branch_at < len(theirs)
                assert t.token_ids[: t.branch_at] == theirs[: t.branch_at]
    assert branches > 3
    assert len(policy._generator._kept) == 0


@pytest.mark.parametrize("part", PARTS)
def test_nothing_of_a_prefix_is_computed_again(tiny, part):
    """By the generator's own counters: each node once, and the last token before a branch."""
    rollout, policy, _ = collect(tiny, [part])
    generator, counts = policy._generator, rollout.counts
    own = sum(len(t.token_ids) - (t.branch_at or 0) for t in rollout)
    prompts = sum(len(group[0].prompt_ids) for group in groups_of(rollout, 8))
    assert generator.tokens_decoded == own == counts.tokens_generated
    branches = len({(t.group_id, t.parent, t.branch_at) for t in rollout if t.branch_at})
    assert counts.tokens_computed == prompts + own + branches
    if part.startswith("tree"):
        assert generator.tokens_prefilled == prompts + branches
    else:  # what a path goes on from at the end of a segment had not gone through before
        segments = sum((len(t.token_ids) - 1) // 2 for t in rollout)
        assert generator.tokens_prefilled <= prompts + branches + segments


@pytest.mark.parametrize(
    "part, task",
    [
        ("segment_tree:segment=3", "sort"),
        ("segment_tree:segment=4", "sort"),
        ("tree:earliest=0.6", "arithmetic"),
        ("tree:earliest=0.6", "countdown"),
        ("tree:earliest=0.6", "sort"),
    ],
)
def test_leaves_cost_less_than_chains(part, task):
    """On tiny-lm: at most .6 of the tokens of chains, prompts included."""
    model, computed = load_model("tiny-lm"), []
    for parts in ([], [part]):
        policy = create_policy(*model, {"max_tokens": 32})
        strategy = create_strategy("grpo", num_generations=16, parts=parts)
        env = gym.make("textenv:TextGen-v0", task=task)
        rollout = RolloutRunner(env, policy, strategy, 256, seed=0).collect()
        assert len(rollout) == 256
        generator = policy._generator
        computed.append(generator.tokens_prefilled + generator.tokens_decoded)
    assert computed[1] <= 0.6 * computed[0]


def places(chain, score):
    """The three best places of a chain by hand."""
    values = chain.token_entropies if score == "entropy" else [-x for x in chain.token_logprobs]
    order = sorted(range(1, len(values)), key=lambda i: -values[i])
    return sorted(order[:3])


@pytest.mark.parametrize(
    ("score", "other"), [("entropy", "surprise"), ("surprise", "entropy")], ids=lambda score: score
)
def test_branches_at_the_most_uncertain_tokens(tiny, score, other):
    """Of the chains that are long enough to choose; some would branch elsewhere by `other`."""
    rollout, _, _ = collect(tiny, [f"tree:score={score}"])
    checked = told_apart = 0
    for group in groups_of(rollout, 8):
        for chain in (0, 1):
            found = sorted(t.branch_at for t in group if t.parent == chain)
            assert len(found) == 3
            if len(group[chain].token_ids) > 3:
                assert found == places(group[chain], score)
                checked += 1
                told_apart += found != places(group[chain], other)
    assert checked >= 3 and told_apart >= 1


@pytest.mark.parametrize("earliest", [0.5, 1.0])
def test_branches_share_so_much_at_least(tiny, earliest):
    """The best places among those that are left, by hand; the last token is always one."""
    part = f"tree:rounds=2,branches=1,chains=2,copies=2,earliest={earliest}"
    rollout, _, _ = collect(tiny, [part], size=10)
    checked = 0
    for group in groups_of(rollout, 10):
        for t in group:
            if t.parent is None:
                continue
            length = len(group[t.parent].token_ids)
            assert t.branch_at >= min(earliest * length, length - 1)
        for chain in (0, 1):
            values, first = group[chain].token_entropies, group[2 + 2 * chain]
            length = len(values)
            if length < 2:
                continue
            left = range(max(1, min(int(np.ceil(earliest * length)), length - 1)), length)
            assert (first.parent, first.branch_at) == (chain, max(left, key=lambda i: values[i]))
            checked += 1
    assert checked >= 4
    plain, _, _ = collect(tiny, ["tree:rounds=2,branches=1,chains=2,copies=2"], size=10)
    none, _, _ = collect(tiny, [part.replace(str(earliest), "0")], size=10)
    assert none == plain != rollout


def test_rounds_branch_anew(tiny):
    """In later rounds branches branch too, and no place is taken twice while there are others."""
    rollout, _, _ = collect(tiny, ["tree:chains=1,rounds=7,branches=1"])
    deep = 0
    for group in groups_of(rollout, 8):
        taken = [(t.parent, t.branch_at) for t in group[1:]]
        deep += sum(parent > 0 for parent, _ in taken)
        if sum(len(t.token_ids) - (t.branch_at or 0) for t in group) > 20:
            assert len(set(taken)) == len(taken)
    assert deep > 3


@pytest.mark.parametrize("parts", [["tree:chains=8,rounds=0"], ["tree:rounds=0"]])
def test_a_tree_without_branches_is_chains(tiny, parts):
    """Token for token, gradient for gradient."""
    rollout, _, _ = collect(tiny, parts, rollouts=2)
    plain, _, _ = collect(tiny, [], rollouts=2)
    assert rollout.trajectories == plain.trajectories
    moved = []
    for buffer in (rollout, plain):
        model = copy.deepcopy(tiny[0])
        metrics = Trainer(model, grpo.compute_advantages, grpo.policy_loss, buffer=buffer).train()
        moved.append((metrics, create_policy(model, tiny[1]).tensors()))
    assert moved[0][0] == moved[1][0]
    for name, weights in moved[1][1].items():
        np.testing.assert_array_equal(moved[0][1][name], weights)


def test_chains_of_a_tree_are_those_without(tiny):
    """Leaf i has the i-th noise of its group."""
    plain, _, _ = collect(tiny, [])
    rollout, _, _ = collect(tiny, ["tree"])
    for group, chains in zip(groups_of(rollout, 8), groups_of(plain, 8)):
        assert [t.token_ids for t in group[:2]] == [t.token_ids for t in chains[:2]]


@pytest.mark.parametrize("part", ["tree", "segment_tree:segment=3"])
def test_batches_make_no_difference(tiny, part):
    """Not the size of a batch, nor which groups are played together."""
    whole, _, runner = collect(tiny, [part])
    small, _, _ = collect(tiny, [part], batch_size=5)
    assert [t.token_ids for t in small] == [t.token_ids for t in whole]
    policy = create_policy(*tiny, SETTINGS)
    strategy = create_strategy("grpo", num_generations=8, parts=[part])
    runner = RolloutRunner(make_env(), policy, strategy, 24, seed=5)
    starts = runner.plan()
    alone = [t for i in (16, 8, 0) for t in runner.play_starts(starts[i : i + 8])]
    again = [t for i in (16, 8, 0) for t in whole.trajectories[i : i + 8]]
    assert [t.token_ids for t in alone] == [t.token_ids for t in again]
    assert [t.branch_at for t in alone] == [t.branch_at for t in again]


@pytest.mark.parametrize("part", ["tree", "segment_tree:segment=3"])
def test_workers_make_the_same_tree(tiny_folder, part):
    rollouts = []
    for workers in (0, 2):
        coordinator = RolloutCoordinator(
            make_env,
            partial(make_policy, tiny_folder, **SETTINGS),
            create_strategy("grpo", num_generations=8, parts=[part]),
            num_workers=workers,
            max_steps=24,
            seed=5,
        )
        rollouts.append(coordinator.collect())
        coordinator.close()
    tree = [[(t.token_ids, t.parent, t.branch_at, t.rewards) for t in r] for r in rollouts]
    assert tree[0] == tree[1] and any(t.parent is not None for t in rollouts[0])


@pytest.mark.parametrize("suffix", [".json", ".jsonl.gz"])
def test_files_keep_the_tree(tiny, tmp_path, suffix):
    rollout, _, _ = collect(tiny, ["tree"])
    path = rollout.save(tmp_path / f"tree{suffix}")
    assert load_rollout(path) == rollout


COMBINED = [
    ("tree",),
    ("segment_tree:segment=3", "pods:keep=5"),
    ("tree", "drop:truncated=false,longest=11", "top_entropy"),
]


@pytest.mark.parametrize("parts", COMBINED)
@pytest.mark.parametrize("settings", [{}, {"num_minibatches": 2}, {"micro_batch_size": 5}])
def test_training_on_trees(tiny_folder, parts, settings):
    """With other parts, in minibatches and in parts: every step has a signal and is finite."""
    config = GRPOConfig(
        max_steps=2, num_prompts=3, num_generations=8, max_completion_length=12, strategy=parts,
        beta=0.1, **settings,
    )  # fmt: skip
    trainer = GRPOTrainer(str(tiny_folder), make_env(), config)
    history = trainer.train()
    for step in history:
        assert np.isfinite(step["loss"]) and step["grad_norm"] > 0
        assert step["sampling/logprob_difference/max"] < 1e-3
        assert step["strategy/tokens_generated"] < 8 * 3 * 12
    trainer.close()
