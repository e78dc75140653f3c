"""Every way to run a model, on architectures of every kind, against each sequence alone.

The models are random, of two or so layers, saved and read as any other.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

from textenv.algos import Trainer, create_policy, grpo, load_model
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.scorer import Scorer
from textenv.algos.runtime import backend

backend.prepare()

import mlx.core as mx  # noqa: E402
from mlx_lm.models import base  # noqa: E402
from mlx_lm.models.cache import make_prompt_cache  # noqa: E402

PROMPTS = [p for p in ("12+30=", "a", "the longest of these = ", "=1-2+3") for _ in range(3)]

# What they have in common; each takes what it knows.
BASE = {
    **{"vocab_size": 42, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rope_theta": 1e4},
    **{"rms_norm_eps": 1e-5, "layer_norm_eps": 1e-5, "layer_norm_epsilon": 1e-5, "norm_eps": 1e-5},
    **{
        "max_position_embeddings": 128,
        "attention_bias": False,
        "mlp_bias": False,
        "use_bias": False,
    },
    **{"use_conv_bias": True, "tie_word_embeddings": True, "sliding_window": 5},
    # experts
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 16, "n_shared_experts": 1, "first_k_dense_replace": 1},
    **{"shared_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_group": 1},
    **{"topk_group": 1, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    **{"moe_layer_freq": 1, "routed_scaling_factor": 1.0},
    # keys and values of low rank
    **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
    **{"v_head_dim": 8, "dim_model_base": 16, "scale_depth": 1.4, "scale_emb": 2.0},
    # recurrent states
    **{"mamba_d_conv": 4, "mamba_d_state": 8, "mamba_expand": 2, "mamba_n_heads": 4},
    **{"mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_ssm": 32, "mamba_chunk_size": 8},
    **{"mamba_conv_bias": True, "mamba_proj_bias": False, "mamba_num_heads": 4},
    **{"mamba_head_dim": 8, "ssm_state_size": 8, "state_size": 8, "conv_kernel": 4, "n_groups": 1},
    **{"time_step_rank": 4, "time_step_limit": (0.0, float("inf"))},
    **{"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8},
    **{"linear_value_head_dim": 8, "linear_conv_kernel_dim": 4, "full_attention_interval": 2},
    **{"partial_rotary_factor": 0.5},
}
SLIDING = ["sliding_attention", "full_attention"]
YARN = {
    **{"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64, "beta_fast": 32},
    **{"beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
}
LLAMA_4 = {
    **{"attention_chunk_size": 8, "interleave_moe_layer_step": 2, "num_hidden_layers": 4},
    **{"num_experts_per_tok": 1, "rope_scaling": None, "use_qk_norm": True},
    **{"intermediate_size_mlp": 64, "model_type": "llama4_text"},
}
GEMMA_3N = {
    **{"hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": [64] * 4, "head_dim": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "num_kv_shared_layers": 2},
    **{"vocab_size": 42, "vocab_size_per_layer_input": 42, "sliding_window": 5, "rope_theta": 1e4},
    **{"max_position_embeddings": 128, "rope_local_base_freq": 1e4, "rms_norm_eps": 1e-6},
    **{"final_logit_softcapping": 30.0, "layer_types": SLIDING * 2, "laurel_rank": 4},
    **{"activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "hidden_size_per_layer_input": 8},
    **{"altup_num_inputs": 2, "altup_coef_clip": 120.0, "altup_correct_scale": True},
    **{"altup_active_idx": 0, "model_type": "gemma3n_text"},
}
SHARED = {
    "llama": {"layer_types": SLIDING},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {},
    "mixtral": {},
    "gemma": {},
    "gemma3_text": {"sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    "phi3": {},
    "gpt2": {"n_ctx": 128, "n_positions": 128, "n_embd": 32, "n_head": 4, "n_layer": 2},
    "gpt_neox": {"rotary_emb_base": 1e4, "rotary_pct": 0.25, "num_key_value_heads": None},
    "olmo2": {},
    "starcoder2": {},
    "cohere2": {"sliding_window_pattern": 2, "logit_scale": 0.3},
    "deepseek_v2": {"rope_scaling": YARN},
    "minicpm3": {
        "rope_scaling": {
            **{"type": "longrope", "long_factor": [1.0] * 4, "short_factor": [1.0] * 4},
            "original_max_position_embeddings": 64,
        }
    },
}
COPIED = {
    "gemma2": {"num_key_value_heads": 4},
    "gpt_oss": {"layer_types": SLIDING},
    "deepseek_v3": {},
}
PLAIN = {
    "mamba": {},
    "mamba2": {"num_heads": 8},
    "rwkv7": {
        **{"decay_low_rank_dim": 8, "gate_low_rank_dim": 8, "a_low_rank_dim": 8},
        **{"v_low_rank_dim": 8, "num_heads": 4},
    },
    "recurrent_gemma": {
        **{"block_types": ["recurrent", "attention"], "lru_width": 32, "conv1d_width": 4},
        **{"attention_window_size": 5, "logits_soft_cap": 30.0, "num_key_value_heads": 1},
        **{"embeddings_scale_by_sqrt_dim": True},
    },
    "jamba": {
        **{"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1},
        "expert_layer_period": 2,
    },
    "falcon_h1": {},
    "granitemoehybrid": {
        **{"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "logits_scaling": 2.0},
        **{"attention_multiplier": 0.35, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    },
    "nemotron_h": {"hybrid_override_pattern": "M*-E", "num_hidden_layers": 4},
    "lfm2": {
        **{"full_attn_idxs": [1], "conv_bias": False, "conv_L_cache": 3, "block_dim": 32},
        **{"block_ff_dim": 64, "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.0},
        "block_auto_adjust_ff_dim": False,
    },
    "qwen3_next": {},
    "kimi_linear": {
        **{"moe_intermediate_size": 16, "model_max_length": 128},
        "linear_attn_config": {
            **{"full_attn_layers": [2], "kda_layers": [1], "num_heads": 4, "head_dim": 8},
            "short_conv_kernel_size": 4,
        },
    },
    "deepseek_v32": {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 4},
    "gpt_bigcode": {
        **{"n_embd": 32, "n_layer": 2, "n_inner": 64, "n_head": 4, "n_positions": 128},
        "num_key_value_heads": None,
    },
    "mistral3": {
        "text_config": BASE
        | {
            **{"model_type": "ministral3", "layer_types": SLIDING},
            "rope_parameters": {
                **{"rope_theta": 1e4, "type": "default", "llama_4_scaling_beta": 0.1},
                "original_max_position_embeddings": 64,
            },
        }
    },
    "llama4": {"text_config": BASE | LLAMA_4},
    "gemma3n": {"text_config": GEMMA_3N},
}
WAYS = {
    name: (way, BASE | settings | {"model_type": name})
    for way, group in (("shared", SHARED), ("copied", COPIED), ("plain", PLAIN))
    for name, settings in group.items()
}


@pytest.fixture
def read(random_model, tiny, tmp_path):
    """``read(name)``: (model, tokenizer) of an architecture, by way of a folder."""

    def read(name):
        config = WAYS[name][1]
        import mlx_lm.utils

        folder = tmp_path / name
        mlx_lm.utils.save_model(folder, random_model(**config))
        mlx_lm.utils.save_config(dict(config) | {"eos_token_id": 1}, folder / "config.json")
        tiny[1].save_pretrained(folder)
        return load_model(folder)

    return read


@contextmanager
def attention_of_mlx_lm():
    """The function that `use_shared_attention` replaces, for the time of a block."""
    name = "scaled_dot_product_attention"
    models = [m for n, m in sys.modules.items() if n.startswith("mlx_lm.models.")]
    ours = [(m, getattr(m, name)) for m in models if hasattr(m, name) and m is not base]
    try:
        for module, _ in ours:
            setattr(module, name, getattr(base, name))
        yield
    finally:
        for module, function in ours:
            setattr(module, name, function)


def alone(model, ids):
    """Logits (L, V) of one sequence, on mlx-lm alone."""
    with attention_of_mlx_lm():
        logits = model(mx.array([ids]), cache=make_prompt_cache(model))[0]
        mx.eval(logits)
    return logits


def plain_policy(model, tokenizer, **settings):
    """A policy, made without the warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return create_policy(model, tokenizer, {"max_tokens": 10, "seed": 1, **settings})


@pytest.mark.parametrize("name", WAYS)
def test_log_probabilities_are_those_of_each_sequence_alone(read, sample, name):
    """Ragged prompts, longer and shorter than a window of five, in groups of three."""
    way = WAYS[name][0]
    model, tokenizer = read(name)
    slower = {
        "shared": None,
        "copied": "prompts are copied for each completion",
        "plain": "run one prompt length at a time",
    }[way]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trajectories = sample(model, tokenizer, PROMPTS, temperature=0.8, top_p=0.95)
        batch = make_batch(trajectories)
        scores = np.array(Scorer(model)(batch)[0])
    said = [str(w.message) for w in caught if "models of type" in str(w.message)]
    assert len(said) == (slower is not None)
    if slower is not None:
        assert slower in said[0] and repr(model.model_type) in said[0]
    assert (model.runs_plainly, model.shares_prompts) == (way == "plain", way == "shared")
    for row, place in zip(scores, batch.order):
        t = trajectories[place]
        logits = alone(model, t.prompt_ids + t.token_ids)
        logits = np.array(logits, np.float64)[len(t.prompt_ids) - 1 : -1] / 0.8
        assert np.ptp(logits, axis=-1).min() > 0.01  # a distribution that can go wrong
        expected = [
            logit[token] - np.log(np.exp(logit[support]).sum())
            for logit, token, support in zip(logits, t.token_ids, t.support)
        ]
        np.testing.assert_allclose(t.token_logprobs, expected, atol=3e-4)
        np.testing.assert_allclose(row[: len(expected)], expected, atol=3e-4)


@pytest.mark.parametrize("name", ["mamba", "falcon_h1", "recurrent_gemma", "deepseek_v32"])
def test_a_batch_is_like_one_at_a_time(read, name):
    """Rows end at different times, so that those that go on are gathered."""
    model, tokenizer = read(name)
    seeds = list(range(len(PROMPTS)))
    policy = plain_policy(model, tokenizer, max_tokens=24, temperature=1.5, top_p=0.9)
    texts, extras = policy(PROMPTS, seeds=seeds)
    lengths = [len(ids) for ids in extras["token_ids"]]
    assert min(lengths) < max(lengths) == 24
    for i, prompt in enumerate(PROMPTS):
        text, own = policy(prompt, seeds=i)
        assert (text, own["token_ids"]) == (texts[i], extras["token_ids"][i])
        assert own["truncated"] == extras["truncated"][i] == (own["token_ids"][-1] != 1)
        for name in ("token_logprobs", "token_entropies"):
            np.testing.assert_allclose(own[name], extras[name][i], atol=1e-4)
        for ours, theirs in zip(own["support"], extras["support"][i]):
            assert ours.tolist() == theirs.tolist()
    pieces = plain_policy(model, tokenizer, max_tokens=24, temperature=1.5, top_p=0.9, batch_size=4)
    assert pieces(PROMPTS, seeds=seeds)[1]["token_ids"] == extras["token_ids"]


# MLX computes products of experts and convolutions in float32 alone, and a gated delta rule of
# random weights magnifies its rounding. minicpm3 has its angles in float32. Rounding depends on
# the processor: between two of them the gradients below differ by up to 2e-5 and 1.2e-4 of the
# largest entry.
@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        ("rwkv7", mx.float64, 1e-9),
        ("qwen3_next", mx.float32, 3e-4),
        ("granitemoehybrid", mx.float32, 1e-4),
        ("deepseek_v3", mx.float32, 5e-4),
        ("minicpm3", mx.float64, 1e-6),
    ],
)
def test_gradients_are_those_of_each_sequence_alone(read, sample, name, dtype, tolerance):
    """Recurrent, hybrid (two kinds of state), and keys of low rank."""
    import mlx.nn as nn
    from mlx.utils import tree_flatten, tree_map

    model, tokenizer = read(name)
    plain_policy(model, tokenizer)  # so that it has warned
    batch = make_batch(sample(model, tokenizer, PROMPTS))
    model.update(tree_map(lambda w: w.astype(dtype), model.parameters()))
    weights = np.random.default_rng(0).normal(0, 1, batch.mask.shape) * batch.mask
    scorer = Scorer(model)

    def ours(*_):
        return (mx.array(weights.astype(np.float32)) * scorer(batch)[0]).sum()

    def plain(*_):
        total = mx.zeros((), dtype)
        for i, row in enumerate(weights):
            prompt, count = batch.prompts[batch.prompt_index[i]], int(batch.mask[i].sum())
            ids = batch.token_ids[i, :count].tolist()
            logits = model(mx.array([prompt + ids]))[0, len(prompt) - 1 : -1]
            logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            chosen = mx.take_along_axis(logprobs, mx.array(ids)[:, None], axis=-1)[:, 0]
            total = total + (mx.array(row[:count].astype(np.float32)) * chosen).sum()
        return total

    value, gradient = nn.value_and_grad(model, ours)()
    with attention_of_mlx_lm():
        expected_value, expected = nn.value_and_grad(model, plain)()
        mx.eval(expected)
    terms = float(np.abs(weights).sum())  # which the sum may be small beside
    assert value.item() == pytest.approx(expected_value.item(), abs=tolerance * terms)
    gradient, expected = dict(tree_flatten(gradient)), dict(tree_flatten(expected))
    assert gradient.keys() == expected.keys()
    moved = 0
    for key, wanted in expected.items():
        most = float(mx.abs(wanted).max())
        moved += most > 0
        np.testing.assert_allclose(gradient[key], wanted, atol=tolerance * most, err_msg=key)
    assert moved > 0.8 * len(expected)


def test_a_model_whose_class_is_half_made_can_be_trained(read):
    """mlx-lm's recurrent_gemma does not call the constructor of its base class."""
    from textenv.algos.lm.models.properties import count_parameters

    model, _ = read("recurrent_gemma")
    assert count_parameters(model, trainable=True) == count_parameters(model)
    model.freeze()
    assert count_parameters(model, trainable=True) == 0


def test_a_hybrid_model_is_trained(read, sample):
    """The reward is for one token; after some updates it is more probable."""
    model, tokenizer = read("lfm2")
    policy = plain_policy(model, tokenizer, max_tokens=4)
    trainer = Trainer(model, grpo.compute_advantages, grpo.policy_loss)
    wanted = tokenizer.encode("7")[0]

    def round_(seed):
        trajectories = sample(model, tokenizer, PROMPTS * 2, max_tokens=4, seed=seed)
        for t in trajectories:
            t.rewards = [float(t.token_ids.count(wanted))]
            trainer.buffer.add(t)
        return trainer.train()

    first = policy(PROMPTS * 8)[1]["token_ids"]
    for seed in range(30):
        metrics = round_(seed)
        assert metrics.get("sampling/logprob_difference/max", 0.0) < 1e-4
    last = policy(PROMPTS * 8)[1]["token_ids"]
    counts = [sum(ids.count(wanted) for ids in rows) for rows in (first, last)]
    assert counts[1] > 3 * counts[0] + 10


def test_layers_are_told_whether_they_are_trained(read, sample):
    """qwen3_next and others run kernels without a gradient where they are not."""
    model, tokenizer = read("qwen3_next")
    plain_policy(model, tokenizer)
    told = []

    class Telling(type(model.layers[0])):
        def __call__(self, *args, **kwargs):
            told.append(self.training)
            return super().__call__(*args, **kwargs)

    model.layers[0].__class__ = Telling
    batch = make_batch(sample(model, tokenizer, PROMPTS))
    assert told and not any(told)
    told.clear()
    Scorer(model)(batch)
    assert told[-1] and not model.training and not model.layers[0].training


def test_an_architecture_that_looks_ahead_is_refused(read):
    model, tokenizer = read("mamba")

    class Looking(type(model)):
        def __call__(self, inputs, cache=None):
            out = super().__call__(inputs, cache)
            return out + out.mean(axis=1, keepdims=True)

    model.__class__ = Looking
    with pytest.raises(ValueError, match="'mamba' compute another answer for sequences that are p"):
        create_policy(model, tokenizer)
