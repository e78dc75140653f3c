"""Episodes of many turns that go on from the keys of the turn before, against prefilling anew."""

from __future__ import annotations

import weakref
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest

from tests.algos.lm.architectures import config_of
from textenv.algos import RolloutRunner, create_policy, create_strategy
from textenv.algos.lm.generation.generator import Generator
from textenv.algos.lm.generation.sampling import SamplingParams
from textenv.spaces import UnicodeText

EOS = (1, 7, 20, 31)  # so that rows end at very different times
PARAMS = SamplingParams(temperature=1.5)
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same, whichever others run."""
    global rng
    rng = np.random.default_rng(0)


def random_tokens(shortest, longest):
    return rng.integers(2, 42, rng.integers(shortest, longest + 1)).tolist()


def play(generator, prompts, turns, max_tokens=8, anew=None, drop=0.25, between=lambda turn: None):
    """Play turns; every completion against a generator that prefills all of it anew.

    Returns what was said, of all turns: (prompts, completions).
    """
    said = []
    for turn in range(turns):
        uniforms = rng.random((len(prompts), max_tokens), dtype=np.float32)
        completions = generator.generate(
            prompts, max_tokens, PARAMS, uniforms, continues=turn + 1 < turns
        )
        if anew is not None:
            expected = anew.generate(prompts, max_tokens, PARAMS, uniforms)
            for ours, plain in zip(completions, expected):
                assert ours.token_ids == plain.token_ids
                np.testing.assert_allclose(ours.token_logprobs, plain.token_logprobs, atol=1e-4)
                np.testing.assert_allclose(ours.token_entropies, plain.token_entropies, atol=1e-4)
        said.append((prompts, completions))
        going = [i for i in range(len(prompts)) if rng.random() >= drop]  # others have ended
        prompts = [prompts[i] + completions[i].token_ids + random_tokens(1, 9) for i in going]
        between(turn)
    return said


@pytest.mark.parametrize("sync_every", [1, 3])
@pytest.mark.parametrize(
    "counts", [[1] * 12, [6, 6], [1, 5, 2, 4]], ids=["alone", "even", "uneven"]
)
def test_turns_are_as_prefilled_anew(tiny, counts, sync_every):
    """Ragged turns, rows that ended before others, episodes that end: nothing computed twice."""
    prompts = [p for n in counts for p in [random_tokens(1, 20)] * n]
    generator = Generator(tiny[0], EOS, sync_every=sync_every)
    said = play(generator, prompts, 4, anew=Generator(tiny[0], EOS))
    assert len({len(c.token_ids) for _, completions in said for c in completions}) > 4
    sampled = sum(len(c.token_ids) for _, completions in said for c in completions)
    assert generator.tokens_decoded == sampled
    # Prefilled are the distinct prompts, and then what the environment said. The last token of a
    # completion may not have gone through the model while it was sampled.
    before = sum(map(len, {tuple(prompt) for prompt in said[0][0]}))
    added = spare = 0
    for (old, completions), (new, _) in pairwise(said):
        told = {(*p, *c.token_ids) for p, c in zip(old, completions)}
        for prompt in new:
            known = max(n for n in range(len(prompt)) if tuple(prompt[:n]) in told)
            added += len(prompt) - known
            spare += 1
    assert before + added <= generator.tokens_prefilled <= before + added + spare


def test_rows_beyond_the_batch_are_prefilled(tiny):
    """More rows than are decoded at once: as many are kept, and others join as places are free."""
    prompts = [p for _ in range(6) for p in [random_tokens(1, 20)] * 4]
    generator = Generator(tiny[0], EOS, batch_size=10)
    said = play(generator, prompts, 3, anew=Generator(tiny[0], EOS), drop=0.1)
    whole = sum(map(len, {tuple(p) for p in said[0][0]}))
    whole += sum(len(prompt) for turn, _ in said[1:] for prompt in turn)
    assert generator.tokens_prefilled < 0.85 * whole
    assert len(generator._kept) == 0


@pytest.mark.filterwarnings("ignore:models of type")
@pytest.mark.parametrize("counts", [[1] * 6, [3, 3]], ids=["alone", "groups"])
@pytest.mark.parametrize("name", ["gemma3_text", "gpt2", "gemma2"])  # the last copies prompts
def test_other_architectures(random_model, name, counts):
    model = random_model(**config_of(name))
    prompts = [p for n in counts for p in [random_tokens(1, 12)] * n]
    generator = Generator(model, EOS)
    play(generator, prompts, 3, anew=Generator(model, EOS))
    assert len(generator._kept) == 0


def replace_weight(model):
    norm = model.model.norm
    norm.weight = norm.weight * 1.5


def write_into_a_weight(model):
    model.model.layers[1].mlp.up_proj.weight[3, 5] += 2.0  # the array stays the same object


def update_by_the_optimizer(model):
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx.utils import tree_map

    optimizer = optim.SGD(learning_rate=0.1)
    optimizer.update(model, tree_map(mx.ones_like, model.trainable_parameters()))


@pytest.mark.parametrize("change", [replace_weight, write_into_a_weight, update_by_the_optimizer])
def test_no_key_outlives_the_weights(fresh, change):
    model = fresh[0]
    prompts = [random_tokens(3, 20) for _ in range(4)]
    generator = Generator(model, EOS)
    play(generator, prompts, 3, anew=Generator(model, EOS), drop=0, between=lambda _: change(model))
    assert generator.tokens_prefilled > sum(map(len, prompts)) * 3  # all of it, every turn


def test_equal_episodes_and_other_orders(tiny):
    """Rows are found by their tokens: doubles, another order, a prompt that only looks alike."""
    prompt = random_tokens(5, 9)
    generator, anew = Generator(tiny[0], EOS), Generator(tiny[0], EOS)
    uniforms = np.repeat(rng.random((2, 8), dtype=np.float32), 2, axis=0)
    first = generator.generate([prompt] * 4, 8, PARAMS, uniforms, continues=True)
    a, b = prompt + first[0].token_ids, prompt + first[2].token_ids
    assert first[0].token_ids == first[1].token_ids != first[2].token_ids
    assert len(generator._kept) == 4
    turns = [[*b, 5], [*a, 6, 7], [*a, 8], [*a, 9, 2], b, [*a[:-1], 3], [4, 4]]
    before = generator.tokens_prefilled
    uniforms = rng.random((len(turns), 8), dtype=np.float32)
    for ours, plain in zip(
        generator.generate(turns, 8, PARAMS, uniforms), anew.generate(turns, 8, PARAMS, uniforms)
    ):
        assert ours.token_ids == plain.token_ids
        np.testing.assert_allclose(ours.token_logprobs, plain.token_logprobs, atol=1e-4)
    fed = generator.tokens_prefilled - before
    anew_tokens = sum(map(len, turns[3:]))  # two of three with a; b itself has nothing new
    assert 4 + anew_tokens <= fed <= 7 + anew_tokens
    assert len(generator._kept) == 0


# --- through policies and rollouts ----------------------------------------------------------------


class Talk(gym.Env):
    """Three turns at most; an answer with a 7 in it ends the episode."""

    def __init__(self):
        self.observation_space = self.action_space = UnicodeText(1000)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.transcript = str(self.np_random.integers(10 ** int(self.np_random.integers(1, 9))))
        return self.transcript, {}

    def step(self, action):
        turn = "+" * (1 + len(action) % 4) + "="
        self.transcript += action + turn
        return self.transcript, 1.0, "7" in action, False, {"turn": turn}


@pytest.fixture(scope="module", autouse=True)
def talk():
    gym.register("Talk-v1", entry_point=Talk, max_episode_steps=3)
    yield
    del gym.registry["Talk-v1"]


def collect(policy, groups=4):
    strategy = create_strategy("grpo", num_generations=4)
    runner = RolloutRunner(gym.make("Talk-v1"), policy, strategy, max_steps=groups * 12)
    return runner.collect()


def test_rollouts_of_many_turns(tiny, plain_logprobs):
    model, tokenizer = tiny
    policy = create_policy(model, tokenizer, {"max_tokens": 8, "temperature": 1.5})
    rollout = collect(policy)
    assert {len(t) for t in rollout} == {1, 2, 3}
    for t in rollout:
        expected = plain_logprobs(model, t.prompt_ids, t.token_ids, 1.5)
        mask = np.array(t.token_mask, bool)
        np.testing.assert_allclose(np.array(t.token_logprobs)[mask], expected[mask], atol=1e-4)
    generator = policy._generator
    assert generator.tokens_decoded == sum(sum(t.token_mask) for t in rollout)
    prompts = {tuple(t.prompt_ids) for t in rollout}
    told = sum(len(t.token_mask) - sum(t.token_mask) for t in rollout)
    turns = sum(len(t) - 1 for t in rollout)
    assert generator.tokens_prefilled <= sum(map(len, prompts)) + told + turns
    assert len(generator._kept) == 0


def test_a_plain_loop_goes_on_from_its_second_turn(tiny, plain_logprobs):
    model, tokenizer = tiny
    policy = create_policy(model, tokenizer, {"max_tokens": 8, "temperature": 1.5})
    fed, transcript = [], "12+30="
    for _ in range(3):
        before = policy._generator.tokens_prefilled
        action, extras = policy(transcript)
        fed.append(policy._generator.tokens_prefilled - before)
        expected = plain_logprobs(model, extras["prompt_ids"], extras["token_ids"], 1.5)
        np.testing.assert_allclose(extras["token_logprobs"], expected, atol=1e-4)
        transcript += action + "+1="
    assert fed[1] > fed[0] == 6  # nothing tells in the first turn that there will be others
    assert fed[2] in (3, 4)
    policy.forget()
    assert len(policy._generator._kept) == 0


@pytest.mark.parametrize("turns", ["one", "many"])
def test_memory_is_let_go(tiny, turns, monkeypatch):
    """Of one turn nothing is kept at all, and of many nothing after the last."""
    from textenv.algos.lm.cache.forking import held_arrays
    from textenv.algos.lm.generation import kept_rows

    kept, add = [], kept_rows.KeptRows.add

    def spy(self, batch, *args):
        kept.extend(weakref.ref(array) for array in held_arrays(batch.caches))
        add(self, batch, *args)

    monkeypatch.setattr(kept_rows.KeptRows, "add", spy)
    policy = create_policy(*tiny, {"max_tokens": 6})
    if turns == "many":
        collect(policy)
        assert kept and not any(ref() is not None for ref in kept)
    else:
        env = gym.make("textenv:TextGen-v0", prompts=["1+1=", "2="], reward_fn=lambda *_: 0.0)
        RolloutRunner(env, policy, create_strategy("grpo"), max_steps=16).collect()
        policy(["1+1="] * 4)
        assert not kept and len(policy._generator._kept) == 0
