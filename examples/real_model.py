"""A real chat model learns to add, on two CPU cores: GRPO on SmolLM2-135M-Instruct.

    python examples/make_smollm2.py smollm2
    python examples/real_model.py smollm2 --out runs/real-model

The question is "What is 12+30? Reply with the number only." What counts is the last number of an
answer. At first a quarter of the greedy answers are right, and one in forty of those that are
sampled: most ramble until they are cut off. Those are left out of the loss, so that what is
rewarded is an answer that ends by itself. Sums that are answered always right or always wrong
teach nothing, and up to as many again are asked in their place. A model that has learnt answers
most sums alike each time: until two answers differ they are computed once, so that sixteen of them
cost little more than eight. The best model by the evaluations is in ``best``. With its checkpoints
a run takes 5 GB of disk.

``--lora-rank 16 --learning-rate 5e-4`` trains adapters. With ``--task sort`` it learns to put three
numbers in order, for which it has to write more than a number. ``--random-reward --eval-steps 5``
pays at random: nothing can be learnt from that, and it harms the model, so the training stops and
gives it back as it was. ``textenv train`` does the same with the options that the last lines of
``--help`` show.
"""

import argparse
import json
import random
import time
from pathlib import Path

from textenv.algos import GRPOConfig, GRPOTrainer

TASKS = {  # the options of the environment, and the longest answer, in tokens
    "arithmetic": ({}, 14),
    "sort": ({"task_kwargs": {"min_count": 3, "max_count": 3, "max_number": 20}}, 24),
}
COMMAND = """the same from the command line:
textenv train --model MODEL --task arithmetic --num-prompts 16 --num-generations 16
  --strategy dapo:cap=2,oversample=true --max-completion-length 14
  --mask-truncated-completions --warmup-steps 3 --max-steps 142 --learning-rate 5e-5
  --sampling-precision auto --eval-steps 142 --eval-examples 300 --stop-on-collapse"""


def at_random(prompt, completion, example):
    """A reward that knows nothing; equal for equal answers, so that a run can be repeated."""
    return float(random.Random(f"{prompt} {completion}").random() < 0.5)


def parse():
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=COMMAND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="the model's folder, or its name on the Hugging Face hub")
    parser.add_argument("--out", type=Path, default=Path("runs/real-model"), help="a new folder")
    parser.add_argument("--task", choices=TASKS, default="arithmetic")
    parser.add_argument("--max-steps", type=int, default=142)
    parser.add_argument("--num-prompts", type=int, default=16, help="of a step")
    parser.add_argument("--num-generations", type=int, default=16, help="answers to each prompt")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument(
        "--sampling-precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of products; auto: bfloat16 where the CPU has it",
    )
    parser.add_argument("--eval-steps", type=int, default=142)
    parser.add_argument("--eval-examples", type=int, default=300, help="0 never evaluates")
    parser.add_argument("--random-reward", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    """Evaluate, then train; the last step is evaluated too."""
    args = parse()
    options, longest = TASKS[args.task]
    started = time.perf_counter()
    log = []

    def tell(metrics):
        shown = ("step", "reward", "completions/mean_length", "completions/clipped_ratio")
        names = (*shown, *(name for name in metrics if name.startswith("eval/")))
        row = {name: round(metrics[name], 4) for name in names if name in metrics}
        log.append({"seconds": round(time.perf_counter() - started, 1), **row})
        print("  ".join(f"{name} {value:g}" for name, value in log[-1].items()), flush=True)

    trainer = GRPOTrainer(
        args.model,
        "TextGen-v0",
        GRPOConfig(
            num_prompts=args.num_prompts,
            num_generations=args.num_generations,
            strategy=("dapo:cap=2,oversample=true",),
            max_completion_length=longest,
            mask_truncated_completions=True,
            warmup_steps=3,
            max_steps=args.max_steps,
            learning_rate=args.learning_rate,
            lora_rank=args.lora_rank,
            sampling_precision=args.sampling_precision,
            eval_steps=args.eval_steps if args.eval_examples else 0,
            eval_examples=args.eval_examples,
            stop_on_collapse=True,
            seed=args.seed,
        ),
        env_kwargs={
            **{"task": args.task, "style": "chat", **options},
            **({"reward_fn": at_random} if args.random_reward else {}),
        },
        on_step=lambda metrics, rollout: tell(metrics),
        out=args.out,
    )
    print(trainer.describe())
    if args.eval_examples:
        tell({"step": 0, **trainer.evaluate(args.eval_examples).metrics()})
    history = trainer.train()
    if trainer.stopped:
        print(trainer.stopped)
        tell({"step": history[-1]["step"], **trainer.evaluate(args.eval_examples).metrics()})
    trainer.save(args.out / "model")
    (args.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")
    print(f"the run is in {args.out}")


if __name__ == "__main__":
    main()
