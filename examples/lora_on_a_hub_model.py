"""Adapters for a chat model of the hub, on a Mac or any other machine.

    pip install -c constraints.txt -e ".[mlx]"     # on Apple Silicon; ".[cpu]" on Linux
    python examples/lora_on_a_hub_model.py --model mlx-community/Qwen3-0.6B-4bit --max-steps 60
    python examples/lora_on_a_hub_model.py         # tiny-lm, in seconds: no download

Only the adapters are trained, which are few beside the weights of a large model. So a quantized
model can learn too, and the optimizer needs little memory. A model that has a chat template is
asked through it, in words.
"""

import argparse
from pathlib import Path

from textenv.algos import GRPOConfig, GRPOTrainer


def main():
    """Train adapters, save them, and measure the model with those that were saved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny-lm", help="a folder, or a name on the hub")
    parser.add_argument("--max-steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("runs/lora"))
    args = parser.parse_args()
    config = GRPOConfig(
        max_steps=args.max_steps,
        lora_rank=8,
        lora_layers=-1,  # of all layers; 4 of the last four alone
        max_completion_length=32,
        chat_template_kwargs={} if args.model == "tiny-lm" else {"enable_thinking": False},
    )
    task = {"env_kwargs": {"task": "arithmetic"}}
    trainer = GRPOTrainer(args.model, "TextGen-v0", config, **task)
    print(trainer.describe())
    print(f"accuracy before: {trainer.evaluate(200).accuracy:.3f}")
    trainer.train()
    trainer.save_adapters(args.out / "adapters")  # mlx_lm.load(model, adapter_path=...) reads them
    print(f"accuracy after: {trainer.evaluate(200).accuracy:.3f}")

    again = GRPOTrainer(args.model, "TextGen-v0", config, **task, adapters=args.out / "adapters")
    print(f"accuracy with the adapters that were saved: {again.evaluate(200).accuracy:.3f}")


if __name__ == "__main__":
    main()
