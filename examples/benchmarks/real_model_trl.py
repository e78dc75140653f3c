"""TRL's GRPO on the task of ``examples/real_model.py``: the same model, prompts, reward and time.

    python examples/make_smollm2.py smollm2
    python examples/benchmarks/real_model_trl.py smollm2 --out runs/trl

It needs the extra ``trl``. Prompts and rewards are those of this package's environment. The
settings are those of ``examples/real_model.py`` as far as TRL has them; it has no dynamic sampling.
The model is saved every so many steps, and ``textenv eval`` judges what was saved at the end, as it
judges the models of this package. The clock counts the steps alone: loading, saving and judging
cost TRL nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

TASK = {"task": "arithmetic", "style": "chat"}


class Sums:
    """The environment's prompts as rows, and its reward as a reward function of TRL."""

    __name__ = "sums"

    def __init__(self, count, seed):
        self.env = gym.make("textenv:TextGen-v0", **TASK)
        starts = [self.env.reset(seed=None if i else seed) for i in range(count)]
        self.rows = [
            {"prompt": [{"role": "user", "content": asked}], "example_id": info["example_id"]}
            for asked, info in starts
        ]

    def __call__(self, completions, example_id, **_):
        """The reward of each completion."""
        rewards = []
        for completion, number in zip(completions, example_id):
            self.env.reset(options={"example_id": number})
            rewards.append(float(self.env.step(completion[0]["content"])[1]))
        return rewards


class Clock(TrainerCallback):
    """Times the steps, saves the model now and then, and ends the training in time."""

    def __init__(self, out, limit, save_steps):
        self.out, self.limit, self.save_steps = out, limit, save_steps
        self.seconds, self.log, self.saved = 0.0, [], {}
        self.trainer = None

    def on_step_begin(self, *_, **__):
        """Start the clock."""
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        """Stop the clock; end if there is no time for another such step."""
        took = time.perf_counter() - self.started
        self.seconds += took
        control.should_training_stop |= self.seconds + took > self.limit
        last = control.should_training_stop or state.global_step == state.max_steps
        if last or state.global_step % self.save_steps == 0:
            folder = self.out / f"step-{state.global_step}"
            self.trainer.save_model(str(folder))
            self.saved[state.global_step] = folder

    def on_log(self, args, state, control, logs=None, **_):
        """Keep the reward of a step."""
        if logs and "reward" in logs:
            row = {"step": state.global_step, "seconds": round(self.seconds, 1)}
            self.log.append({**row, "reward": logs["reward"]})
            print(self.log[-1], flush=True)


def accuracy(model, examples, longest):
    """The accuracy of greedy answers by ``textenv eval``."""
    result = Path(model) / "accuracy.json"
    command = [sys.executable, "-m", "textenv", "eval", "--model", str(model)]
    command += ["--task", TASK["task"], "--style", TASK["style"], "--samples", "0"]
    command += ["--examples", str(examples), "--max-completion-length", str(longest)]
    subprocess.run([*command, "--out", str(result)], check=True, stdout=subprocess.DEVNULL)
    return json.loads(result.read_text())["models"][0]["greedy"]["accuracy"]


def parse():
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="the model's folder")
    parser.add_argument("--out", type=Path, default=Path("runs/real-model-trl"))
    parser.add_argument("--seconds", type=float, default=900, help="of all steps")
    parser.add_argument("--max-steps", type=int, default=142)
    parser.add_argument("--save-steps", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--num-prompts", type=int, default=16)
    parser.add_argument("--num-generations", type=int, default=16)
    parser.add_argument("--max-completion-length", type=int, default=14)
    parser.add_argument("--eval-examples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    """Train, then judge what was saved."""
    args = parse()
    torch.set_num_threads(os.cpu_count() or 1)
    clock = Clock(args.out, args.seconds, args.save_steps)
    sums = Sums(args.num_prompts * args.max_steps, args.seed)
    trainer = clock.trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(args.model, padding_side="left"),
        reward_funcs=sums,
        train_dataset=Dataset.from_list(sums.rows),
        args=GRPOConfig(
            output_dir=str(args.out),
            per_device_train_batch_size=64,
            gradient_accumulation_steps=args.num_prompts * args.num_generations // 64,
            gradient_checkpointing=False,  # TRL's default is slower
            num_generations=args.num_generations,
            max_completion_length=args.max_completion_length,
            max_steps=args.max_steps,
            learning_rate=args.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=3,
            adam_beta2=0.95,
            temperature=1.0,
            top_k=0,
            loss_type="dapo",
            scale_rewards="group",
            mask_truncated_completions=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            bf16=False,
            use_cpu=True,
            disable_tqdm=True,
            seed=args.seed,
        ),
        callbacks=[clock],
    )
    trainer.train()
    found = {
        step: accuracy(folder, args.eval_examples, args.max_completion_length)
        for step, folder in clock.saved.items()
    }
    for row in clock.log:
        if row["step"] in found:
            row["accuracy"] = found[row["step"]]
            print(row, flush=True)
    (args.out / "log.json").write_text(json.dumps(clock.log, indent=1) + "\n")


if __name__ == "__main__":
    main()
