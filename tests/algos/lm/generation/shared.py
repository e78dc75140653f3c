"""Chat templates of five families, each in words of our own, and tokenizers that have them."""

from __future__ import annotations

import string

from tests.algos.conftest import CONFIG

CHATML = (
    "{% for m in messages %}"
    "{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a test.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
THINKING = (  # earlier answers lose their thinking, and the last one always has some
    "{% set asked = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set asked.last = loop.index0 %}{% endif %}"
    "{% endfor %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}{% set parts = m.content.split('</think>') %}"
    "{% if loop.index0 > asked.last %}"
    "{{ '<think>\\n' + parts[:-1] | join + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ parts[-1].lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
HEADERS = (
    "{{ '<|begin|>' }}{% for m in messages %}"
    "{{ '<|head|>' + m.role + '<|/head|>\\n\\n' + m.content | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{{ '<bos>' }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('there is no system role') }}{% endif %}"
    "{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim }}"
    "{{ '<end>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}"
)
INSTRUCTIONS = (
    "{{ '<s>' }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('the roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
)
# family -> (template, its special tokens; the first ends an answer, the last is a BOS if any)
FAMILIES = {
    "chatml": (CHATML, ["<|im_end|>", "<|im_start|>"], None),
    "thinking": (THINKING, ["<|im_end|>", "<|im_start|>"], None),
    "headers": (HEADERS, ["<|eot|>", "<|head|>", "<|/head|>", "<|begin|>"], "<|begin|>"),
    "no system": (NO_SYSTEM, ["<end>", "<turn>", "<bos>"], "<bos>"),
    "instructions": (INSTRUCTIONS, ["</s>", "[INST]", "[/INST]", "<s>"], "<s>"),
}
_CHARACTERS = [*string.ascii_letters, *string.digits, *string.punctuation, " ", "\n"]


def chat_tokenizer(template, special=(), bos=None, eos=None, before=(), after=()):
    """mlx-lm's wrapper of a tokenizer of one token a character and some special tokens.

    Args:
        template: the chat template, or None.
        special: the special tokens of the template.
        bos: a special token; None for none.
        eos: the token that the config calls EOS; None: the first of ``special``.
        before: special tokens that it puts before a text.
        after: special tokens that it puts after a text.
    """
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", *_CHARACTERS, *special]
    ids = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    around = [*before, *after]
    if around:
        text = " ".join([*before, "$A", *after])
        pairs = [(token, ids[token]) for token in dict.fromkeys(around)]
        backend.post_processor = processors.TemplateProcessing(single=text, special_tokens=pairs)
    return TokenizerWrapper(
        PreTrainedTokenizerFast(
            tokenizer_object=backend,
            eos_token=eos or next(iter(special), "<eos>"),
            bos_token=bos,
            pad_token="<pad>",
            unk_token="<pad>",
            additional_special_tokens=list(special),
            chat_template=template,
        )
    )


def family(name, **changes):
    """The tokenizer of a family."""
    template, special, bos = FAMILIES[name]
    return chat_tokenizer(template, special, bos, **changes)


def config_for(tokenizer, **changes):
    """The config of a small random model for a tokenizer."""
    return {**CONFIG, "vocab_size": len(tokenizer.get_vocab()), **changes,
            "max_position_embeddings": 1024}  # fmt: skip


CORPUS = (
    "the quick brown fox jumps over the lazy dog and then the other dogs answer the question: "
    "what is twelve plus thirty? it is forty two, or 42, because ten and thirty are forty. "
    "who said that there would be more of them? they think that the thing is there. "
) * 4


def byte_pair_tokenizer(template=CHATML):
    """mlx-lm's wrapper of a byte-level BPE tokenizer, trained here, with a chat template."""
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|im_end|>", "<|im_start|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<pad>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([CORPUS], trainer)
    return TokenizerWrapper(
        PreTrainedTokenizerFast(
            tokenizer_object=backend,
            eos_token=special[0],
            pad_token="<pad>",
            additional_special_tokens=special,
            chat_template=template,
        )
    )


def llama_config(tokenizer, **changes):
    """The config of a small Llama for a tokenizer."""
    return {
        "model_type": "llama",
        "vocab_size": len(tokenizer.get_vocab()),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 1024,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
        **changes,
    }
