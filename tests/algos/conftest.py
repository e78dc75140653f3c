"""A tiny random language model, and a slow plain scorer to compare with."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import numpy as np
import pytest

from textenv.algos.runtime import blas

blas.load()  # before any test imports mlx

CHARACTERS = ["<pad>", "<eos>", *"0123456789+-= abcdefghijklmnopqrstuvwxyz"]
CONFIG = {
    "model_type": "qwen3",
    "vocab_size": len(CHARACTERS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
}
SAMPLING = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "hot": {"temperature": 1.5},
    "top_p": {"top_p": 0.9},
    "top_k": {"top_k": 5},
    "min_p": {"min_p": 0.1},
    "all": {"temperature": 0.8, "top_p": 0.9, "top_k": 8, "min_p": 0.05},
}


def make_tokenizer(chat_template: str | None = None):
    """One token a character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {character: i for i, character in enumerate(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<pad>",
        chat_template=chat_template,
    )


@pytest.fixture(scope="session")
def random_model() -> Callable:
    """``random_model(**config)``: an mlx-lm model at random, far from uniform."""
    from textenv.algos.runtime import backend

    backend.prepare()
    import mlx.core as mx
    import mlx_lm.utils
    from mlx.utils import tree_flatten, tree_unflatten

    def make(**config):
        model_class, args_class = mlx_lm.utils._get_classes(config)
        mx.random.seed(3)  # for biases, which stay near what they begin as
        model = model_class(args_class.from_dict(config))
        key = mx.random.key(3)
        weights = []
        for name, value in tree_flatten(model.parameters()):
            key, own = mx.random.split(key)
            noise = mx.random.normal(value.shape, key=own)
            if value.ndim == 1:  # norms (and sinks, biases): around what they are
                weights.append((name, value + 0.3 * noise))
            else:
                weights.append((name, 2.5 * noise * value.shape[-1] ** -0.5))
        model.update(tree_unflatten(weights))
        model.eval()
        mx.eval(model.parameters())
        return model

    return make


@pytest.fixture
def tiny_config() -> dict:
    """The config of `tiny`."""
    return dict(CONFIG)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, random_model):
    """A folder with a random Qwen3 of two layers, as `load_model` reads it."""
    import mlx_lm.utils

    folder = tmp_path_factory.mktemp("models") / "tiny"
    mlx_lm.utils.save_model(folder, random_model(**CONFIG))
    mlx_lm.utils.save_config(dict(CONFIG), folder / "config.json")
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """(model, tokenizer); not to be trained: see `fresh`."""
    from textenv.algos import load_model

    return load_model(tiny_folder)


@pytest.fixture
def fresh(tiny):
    """A copy of (model, tokenizer) that a test may train."""
    return copy.deepcopy(tiny[0]), tiny[1]


@pytest.fixture(scope="session")
def plain_logprobs() -> Callable:
    """Log-probabilities of a completion by one plain forward: no batch, no cache, no padding."""
    import mlx.core as mx

    def score(model, prompt_ids, token_ids, temperature=1.0, support=None):
        logits = model(mx.array([list(prompt_ids) + list(token_ids)]))[0]
        logits = np.array(logits, np.float64)[len(prompt_ids) - 1 : -1] / temperature
        out = []
        for t, token in enumerate(token_ids):
            row = logits[t]
            kept = row if support is None else row[np.asarray(support[t])]
            top = kept.max()
            out.append(row[token] - top - np.log(np.exp(kept - top).sum()))
        return np.array(out)

    return score


@pytest.fixture(scope="session")
def sample() -> Callable:
    """``sample(model, tokenizer, prompts)``: a trajectory for each prompt, rewards 0, 1, 2, 0..."""
    from textenv.algos import Trajectory, create_policy

    def sample(model, tokenizer, prompts, **settings):
        policy = create_policy(model, tokenizer, {"max_tokens": 9, "seed": 1, **settings})
        _, extras = policy(prompts)
        groups = list(dict.fromkeys(prompts))
        return [
            Trajectory(
                rewards=[float(i % 3)],
                group_id=groups.index(prompt),
                prompt_ids=extras["prompt_ids"][i],
                token_ids=extras["token_ids"][i],
                token_mask=[1] * len(extras["token_ids"][i]),
                token_logprobs=extras["token_logprobs"][i],
                token_entropies=extras["token_entropies"][i],
                support=extras["support"][i],
                temperature=extras["temperature"][i],
                completion_truncated=extras["truncated"][i],
            )
            for i, prompt in enumerate(prompts)
        ]

    return sample


@pytest.fixture(scope="session")
def slow_restrict() -> Callable:
    """What `textenv.algos.lm.generation.sampling.restrict` should keep, by sorting."""

    def slow_restrict(logits, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0):
        """One row in float64, by sorting: (kept ids, probabilities), and how close a tie it was.

        The margin is the least distance of any decision from going the other way.
        """
        scaled = np.asarray(logits, np.float64) / (temperature or 1.0)
        order = sorted(range(len(scaled)), key=lambda i: -scaled[i])
        margins = [math.inf]
        if temperature == 0:
            order = order[:1]
        elif 0 < top_k < len(order):
            margins.append(scaled[order[top_k - 1]] - scaled[order[top_k]])
            order = order[:top_k]

        def probabilities(ids):
            weights = np.exp(scaled[ids] - scaled[ids[0]])
            return weights / weights.sum()

        if top_p < 1:
            probs, mass, count = probabilities(order), 0.0, 0
            while count < len(order) and mass < top_p:
                mass += probs[count]
                count += 1
                margins.append(abs(mass - top_p))
            if count < len(order):  # equal probabilities stay together
                margins.append(probs[count - 1] - probs[count])
            order = order[:count]
        if min_p > 0:
            probs = probabilities(order)
            margins += np.abs(probs / probs[0] - min_p)[1:].tolist()
            order = [i for i, p in zip(order, probs) if p >= min_p * probs[0]]
        return np.array(order), probabilities(order), min(margins)

    return slow_restrict


@pytest.fixture(params=SAMPLING.values(), ids=SAMPLING.keys())
def sampling(request) -> dict:
    """Each of the sampling settings that can be trained under."""
    return request.param


@pytest.fixture
def clock(monkeypatch):
    """``clock(seconds)`` moves Python's performance counter, which stands still otherwise."""
    now = 1000.0

    def advance(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    return advance


@pytest.fixture
def one_thread():
    """Torch on one thread, so that its sums are the same in every process."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def exact(monkeypatch):
    """MLX in float64 with float64's precision.

    On the CPU, MLX 0.32 computes exp, and all that is made of it, as well as rms_norm and rope,
    to the precision of float32, whatever the type; `power`, `tanh` and `rsqrt` are exact.
    """
    import mlx.core as mx
    from mlx_lm.models import qwen3

    def exp(x):
        return mx.power(mx.array(math.e, x.dtype), x)

    def softmax(x, axis=-1, **_):
        weights = exp(x - mx.stop_gradient(x.max(axis, keepdims=True)))
        return weights / weights.sum(axis, keepdims=True)

    def logsumexp(x, axis=-1, keepdims=False):
        top = mx.stop_gradient(x.max(axis, keepdims=True))
        total = mx.log(exp(x - top).sum(axis, keepdims=True)) + top
        return total if keepdims else total.squeeze(axis)

    def rms_norm(x, weight, eps):
        return x * mx.rsqrt((x * x).mean(-1, keepdims=True) + mx.array(eps, x.dtype)) * weight

    def rope(x, dims, *, base, offset, **_):
        half = dims // 2
        first = np.array(offset, np.float64).reshape(-1, 1, 1, 1)
        angles = (np.arange(x.shape[2])[:, None] + first) * base ** (-np.arange(half) / half)
        cos, sin = (mx.array(f(angles), dtype=x.dtype) for f in (np.cos, np.sin))
        a, b = x[..., :half], x[..., half:]
        return mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    def attention(queries, keys, values, *, scale, mask, **_):
        repeats = queries.shape[1] // keys.shape[1]
        keys, values = (mx.repeat(x, repeats, axis=1) for x in (keys, values))
        scores = scale * (queries @ keys.swapaxes(-1, -2))
        if isinstance(mask, str):  # "causal"
            mask = mx.tri(scores.shape[-1], dtype=mx.bool_)
        return softmax(mx.where(mask, scores, mx.array(-1e30, scores.dtype))) @ values

    monkeypatch.setattr(mx, "exp", exp)
    monkeypatch.setattr(mx, "logsumexp", logsumexp)
    monkeypatch.setattr(mx.fast, "rms_norm", rms_norm)
    monkeypatch.setattr(mx.fast, "rope", rope)
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", attention)
    silu = lambda x: x * 0.5 * (1 + mx.tanh(x / 2))  # noqa: E731
    monkeypatch.setattr(qwen3, "swiglu", lambda gate, x: silu(gate) * x)
    with mx.stream(mx.cpu):
        yield mx


def _large_rows(size: int):
    """Logits over a large vocabulary; adding one by one loses the tails of the first three."""
    rng = np.random.default_rng(size)
    yield "tail at -12", np.r_[0, np.full(size - 1, -12.0)]
    yield "tail at -17", np.r_[0, np.full(size - 1, -17.0)]
    yield "normal", rng.normal(0, 3, size)
    yield "Zipf", rng.permutation(-1.1 * np.log(np.arange(1, size + 1)))


@pytest.fixture(params=[49_152, 151_936])
def large_vocabulary(request):
    """Logits (4, V) of a large vocabulary, and their log-probabilities in float64."""
    rows = np.stack([row for _, row in _large_rows(request.param)]).astype(np.float32)
    exact = rows.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return rows, exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))
