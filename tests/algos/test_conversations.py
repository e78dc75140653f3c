"""Training on conversations: chat template, system prompt, stop strings, a head too wide."""

from __future__ import annotations

import gymnasium as gym
import pytest

from tests.algos.lm.generation.shared import chat_tokenizer, config_for, family
from tests.algos.shared import make_env
from textenv.algos import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer
from textenv.wrappers import ChatHistory

ROOM, STOP = 5, ["a", "3"]


def own_turns(t):
    """The tokens of each turn of the policy."""
    turns, before = [], 0
    for token, own in zip(t.token_ids, t.token_mask):
        if own and not before:
            turns.append([])
        if own:
            turns[-1].append(token)
        before = own
    return turns


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_conversations_are_trained_on_as_they_were_played(random_model, algorithm):
    tokenizer = family("chatml", eos="<eos>")
    model = random_model(**config_for(tokenizer, vocab_size=160))  # of 100 tokens
    game = gym.make("TextGen-v0", task="guess_number", reward_fn="length")
    env = ChatHistory(game, tokenizer, system="Guess.")
    common = {"max_completion_length": ROOM, "stop": STOP, "seed": 1}
    seen = []

    def on_step(metrics, rollout):
        seen.append((metrics, rollout.trajectories))

    if algorithm == "grpo":
        config = GRPOConfig(num_prompts=2, num_generations=4, max_steps=2, **common)
        trainer = GRPOTrainer(model, env, config, tokenizer=tokenizer, on_step=on_step)
    else:
        config = PPOConfig(n_steps=8 * 10, total_timesteps=2 * 80, n_epochs=1, **common)
        trainer = PPOTrainer(model, env, config, tokenizer=tokenizer, on_step=on_step)
    trainer.train()
    ends = {tokenizer.eos_token_id, tokenizer.encode("<|im_end|>", add_special_tokens=False)[0]}
    kinds = set()
    for metrics, trajectories in seen:
        cut_shares = []
        for t in trajectories:
            assert max(t.token_ids) < 100
            text = tokenizer.decode(t.prompt_ids)
            assert text.startswith("<|im_start|>system\nGuess.<|im_end|>\n<|im_start|>user\n")
            cut = False
            for turn, action in zip(own_turns(t), t.actions):
                said = tokenizer.decode(turn)
                stopped = any(s in said for s in STOP)
                kinds.add("stop" if stopped else "end" if turn[-1] in ends else "cut")
                cut = cut or not (stopped or turn[-1] in ends)
                assert len(turn) <= ROOM and not any(s in action for s in STOP)
                assert not any(s in tokenizer.decode(turn[:-1]) for s in STOP)
            cut_shares.append(cut)
        assert metrics["completions/clipped_ratio"] == sum(cut_shares) / len(cut_shares)
        if algorithm == "grpo":
            assert metrics["sampling/logprob_difference/max"] < 1e-4
    assert kinds == {"stop", "end", "cut"}
    assert len(seen) >= 2


@pytest.mark.parametrize("part", ["tree", "segment_tree:segment=4"])
def test_branches_of_a_tree_end_at_stop_strings(fresh, part):
    """Though a string may begin in the tokens that a branch takes over."""
    model, tokenizer = fresh
    config = GRPOConfig(
        **{"num_prompts": 4, "num_generations": 8, "max_completion_length": 16},
        strategy=(part,),
        stop=["a", "7", "bc"],
    )
    trainer = GRPOTrainer(model, make_env(), config, tokenizer=tokenizer)
    kinds = set()
    for t in trainer._runner.collect().played:
        said = [tokenizer.decode(t.token_ids[:-1]), tokenizer.decode(t.token_ids)]
        before, stopped = (any(s in text for s in config.stop) for text in said)
        assert not before
        by_itself = stopped or t.token_ids[-1] == tokenizer.eos_token_id
        assert t.completion_truncated == (not by_itself)
        kinds.add("stop" if stopped else "other")
    assert kinds == {"stop", "other"}


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_trainers_ask_chat_models_in_words(random_model, algorithm):
    prompts = {}
    for name, chat_template in (("chatml", None), ("chatml", False), (None, None)):
        tokenizer = chat_tokenizer(None, eos="<eos>") if name is None else family(name)
        model = random_model(**config_for(tokenizer))
        kwargs = {"env": "TextGen-v0", "env_kwargs": {"task": "sort"}, "tokenizer": tokenizer}
        if algorithm == "grpo":
            trainer = GRPOTrainer(model, config=GRPOConfig(chat_template=chat_template), **kwargs)
        else:
            config = PPOConfig(n_steps=8, chat_template=chat_template)
            trainer = PPOTrainer(model, config=config, **kwargs)
        prompts[name, chat_template] = trainer.env.reset(seed=0)[0]
        trainer.close()
    assert prompts["chatml", None].startswith("Sort these numbers in ascending order: ")
    assert prompts["chatml", False] == prompts[None, None]
    assert prompts[None, None].startswith("sort ")
