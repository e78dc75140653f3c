"""Small models of several architectures of mlx-lm, as configs."""

from __future__ import annotations

BASE = {
    **{"hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 64, "vocab_size": 42},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6},
    **{"rope_theta": 1e4, "max_position_embeddings": 128, "tie_word_embeddings": True},
}


LAYERS = ["sliding_attention", "full_attention"] * 2


ARCHITECTURES = {
    "gemma3_text": {"sliding_window": 5, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    "llama": {"sliding_window": 5, "layer_types": LAYERS},
    "gpt_oss": {"sliding_window": 5, "layer_types": LAYERS, "num_local_experts": 4},
    "cohere2": {"sliding_window": 5, "sliding_window_pattern": 2, "logit_scale": 0.3},
    "gemma2": {"num_key_value_heads": 4, "final_logit_softcapping": 2.0},
    "cohere": {"num_key_value_heads": 4, "logit_scale": 0.3},
    "gpt2": {  # its positions are absolute
        **{"n_ctx": 128, "n_positions": 128, "n_embd": 32, "n_head": 4, "n_layer": 2},
        "layer_norm_epsilon": 1e-5,
    },
    "phi": {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5},
}


def config_of(name):
    """The config of a small model of this type."""
    return BASE | ARCHITECTURES[name] | {"model_type": name}
