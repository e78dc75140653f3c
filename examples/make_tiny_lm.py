"""Make tiny-lm, the model that ships with textenv: a small Qwen3 with a character tokenizer.

It is pretrained on examples of this package's tasks, of the train split only, and many of the
answers that it reads are flawed: most sums with a carry lack it, reversed words have two letters
swapped, lists are not quite sorted or have two spaces between numbers, expressions miss their
target. So the model knows each task a little, and reinforcement learning can improve it.

    python examples/make_tiny_lm.py --out textenv/assets/tiny-lm
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

from textenv.algos.runtime import blas
from textenv.tasks import Example, make

blas.load()  # before mlx

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
from mlx_lm.models.qwen3 import Model, ModelArgs  # noqa: E402
from mlx_lm.utils import save_config, save_model  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from textenv.algos.lm.kernels.fast_math import use_fast_swiglu  # noqa: E402

PAD, EOS = 0, 1
CHARACTERS = ["<pad>", "<eos>", *map(chr, range(32, 127)), "\n"]
ID = {c: i for i, c in enumerate(CHARACTERS)}
CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": len(CHARACTERS),
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
# The share of each task, and the length that its sequences (prompt, answer, EOS) are padded to.
MIXTURE = {
    "arithmetic": (0.35, 10),
    "reverse": (0.1, 22),
    "sort": (0.2, 32),
    "countdown": (0.35, 28),
}
BATCH = 128


def flawed_answer(name: str, example: Example, answer: str, rng: random.Random) -> str:
    """The answer to pretrain on: the right one, or one with a typical mistake of the task."""
    if name == "arithmetic":
        a, b = map(int, example["prompt"][:-1].split("+"))
        if a % 10 + b % 10 >= 10 and rng.random() < 0.75:
            return str(int(answer) - 10)  # the carry is forgotten
        return _slip(answer, "0123456789", rng) if rng.random() < 0.17 else answer
    if name == "countdown":
        return _other_expression(example, rng) if rng.random() < 0.25 else answer
    parts = answer.split() if name == "sort" else list(answer)
    if rng.random() < (0.5 if name == "sort" else 0.6):
        i = rng.randrange(len(parts) - 1)
        parts[i], parts[i + 1] = parts[i + 1], parts[i]
    if name == "sort":  # two spaces as often as one: right, but longer than needed
        return rng.choice((" ", "  ")).join(parts)
    return "".join(parts)


def _slip(text: str, letters: str, rng: random.Random) -> str:
    i = rng.randrange(len(text))
    return text[:i] + rng.choice(letters) + text[i + 1 :]


def _other_expression(example: Example, rng: random.Random) -> str:
    numbers = rng.sample(example["numbers"], len(example["numbers"]))
    text = str(numbers[0])
    for number in numbers[1:]:
        text += f"{rng.choice('+-*/')}{number}"
    return text


class Reading:
    """The pretraining data, in batches of one task each, which need little padding."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.tasks = {name: make(name, split="train") for name in MIXTURE}
        self.solved: dict[str, str] = {}

    def batch(self) -> tuple[mx.array, mx.array]:
        """Token ids (BATCH, L), and a mask (BATCH, L - 1) of the predictions that count.

        These are the predictions of the answer's tokens and of EOS.
        """
        names = list(MIXTURE)
        name = self.rng.choices(names, [MIXTURE[n][0] for n in names])[0]
        width = MIXTURE[name][1]
        ids, mask = [], []
        for _ in range(BATCH):
            example = self.tasks[name].example(self.rng.randrange(2**48))
            prompt = example["prompt"]
            if prompt not in self.solved:
                self.solved[prompt] = self.tasks[name].oracle(example)
            answer = flawed_answer(name, example, self.solved[prompt], self.rng)
            row = [ID[c] for c in prompt + answer] + [EOS]
            if len(row) > width:
                raise ValueError(f"{prompt + answer!r} does not fit {width} tokens")
            ids.append(row + [PAD] * (width - len(row)))
            mask.append(
                [0] * (len(prompt) - 1) + [1] * (len(answer) + 1) + [0] * (width - len(row))
            )
        return mx.array(ids), mx.array(mask, dtype=mx.float32)


def pretrain(model: Model, seed: int, steps: int, learning_rate: float) -> None:
    """Train next-token prediction on answers, by AdamW with warm-up and cosine decay."""
    schedule = optim.join_schedules(
        [
            optim.linear_schedule(0, learning_rate, 50),
            optim.cosine_decay(learning_rate, steps - 50, learning_rate / 50),
        ],
        [50],
    )
    optimizer = optim.AdamW(schedule, betas=[0.9, 0.98], weight_decay=0.01)
    reading = Reading(seed)

    def loss_fn(ids: mx.array, mask: mx.array) -> mx.array:
        losses = nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
        return (losses * mask).sum() / mask.sum()

    state = [model.state, optimizer.state]

    def step(ids: mx.array, mask: mx.array) -> mx.array:
        loss, grads = nn.value_and_grad(model, loss_fn)(ids, mask)
        grads, _ = optim.clip_grad_norm(grads, 1.0)
        optimizer.update(model, grads)
        return loss

    compiled = mx.compile(step, inputs=state, outputs=state)
    start, losses = time.perf_counter(), []
    for i in range(1, steps + 1):
        loss = compiled(*reading.batch())
        mx.eval(loss, state)
        losses.append(loss.item())
        if i % 100 == 0 or i == steps:
            seconds = time.perf_counter() - start
            print(f"step {i}/{steps}: loss {sum(losses) / len(losses):.3f}, {seconds:.0f} s")
            losses.clear()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each character of printable ASCII and the newline."""
    tokenizer = Tokenizer(models.WordLevel(ID, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="<pad>"
    )


def main() -> None:
    """Pretrain the model, and save it with its tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("textenv/assets/tiny-lm"))
    parser.add_argument("--steps", type=int, default=5500, help="optimizer steps")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    mx.random.seed(args.seed)
    model = Model(ModelArgs.from_dict(CONFIG))
    use_fast_swiglu(model)
    mx.eval(model.parameters())
    pretrain(model, args.seed, args.steps, args.learning_rate)
    args.out.mkdir(parents=True, exist_ok=True)
    save_model(args.out, model)
    save_config(dict(CONFIG), args.out / "config.json")
    make_tokenizer().save_pretrained(args.out)
    made = {"seed": args.seed, "steps": args.steps, "learning_rate": args.learning_rate}
    (args.out / "made.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
