"""The metrics of updates of a language model, of evaluations and of time: rows of the table.

A row has the name, the meaning, the healthy range, and what to do outside it; see `metric_table`.
"""

from __future__ import annotations

from textenv.algos.rollouts.health.rules import CLIPPED, MISMATCH

Row = tuple[str, ...]
_COUNT = "a plain count"
_SETTING = "as it was set"
_TIME = "the smaller, the better"

UPDATES: dict[str, tuple[Row, ...]] = {
    "Updates of a language model": (
        ("step", "Optimizer steps since the start.", _COUNT),
        ("epoch", "Passes over the data since the start, for training from files.", _COUNT),
        (
            "loss",
            "The loss that the optimizer stepped on. GRPO's is near 0 on a first pass by nature: "
            "advantages of a group sum to 0. Only the loss on given data (`sft`, `rft`) says how "
            "well a model does.",
            "GRPO: around 0. Given answers: falls, and then levels off",
            "GRPO: look at `reward` instead. Given answers: if it rises, lower `learning_rate`.",
        ),
        (
            "grad_norm",
            "Norm of the whole gradient before it is clipped to `max_grad_norm`. It is absent if "
            "no step was taken.",
            "steady, within a factor of ten",
            "Spikes: lower `learning_rate` or `max_grad_norm`. Almost 0 for long: there is no "
            "signal, look at `frac_reward_zero_std`.",
        ),
        ("learning_rate", "The learning rate of the last optimizer step.", _SETTING),
        (
            "skipped_steps",
            "Optimizer steps of this update that were not taken, since the loss or the gradient "
            "was not finite; absent if all were taken.",
            "absent",
            "One is an accident, five in a row end the run. Lower `learning_rate`, load the model "
            "in float32, and look at `not_finite.json`.",
        ),
        (
            "clip_ratio/low_mean",
            "Share of tokens (of completions for `gspo`) that an update would make still less "
            "likely, and whose ratio the lower bound stopped. Tokens without signal do not count.",
            "below 0.2",
            "As for `clip_ratio/region_mean`.",
        ),
        (
            "clip_ratio/high_mean",
            "The same for tokens that would become still likelier, and the upper bound.",
            "below 0.2",
            "If entropy falls at the same time, set `epsilon_high=0.28`, which lets rare tokens "
            "rise. Else as for `clip_ratio/region_mean`.",
        ),
        (
            "clip_ratio/region_mean",
            "Share of tokens that either bound stopped. It is 0 on the first pass over a rollout.",
            f"below 0.3; a warning comes above {CLIPPED:g}",
            "Lower `learning_rate`, or make fewer passes (`num_iterations`, `num_minibatches`).",
        ),
        (
            "kl",
            "Estimate of the KL divergence between the policy and the first policy, a token "
            "(estimator k3); only with `beta` above 0.",
            "rises slowly, up to about 0.1",
            "Rising fast: raise `beta` or lower `learning_rate`. At 0 for long: `beta` is too high "
            "for anything to be learnt.",
        ),
        (
            "sampling/logprob_difference/max",
            "The largest difference of a token's log-probability between sampling and training, "
            "before an update.",
            f"below 0.001 in float32; a warning comes above {MISMATCH:g}; with "
            "`sampling_precision` bfloat16 below 1, without a warning",
            "Load the model in float32. If it is, please report the architecture.",
        ),
        (
            "sampling/importance_weight/mean",
            "Mean weight of tokens that weights one update older have sampled; only with "
            "`rollouts_ahead`.",
            "0.9 to 1.1",
            "Lower `learning_rate`, or set `rollouts_ahead=0`.",
        ),
        (
            "sampling/importance_weight/truncated",
            "Share of these tokens whose weight was cut to `importance_cap`.",
            "below 0.05",
            "As for the mean.",
        ),
        (
            "importance/mean",
            "Mean weight of tokens that another policy sampled; GRPO from files.",
            "0.5 to 1.5",
            "The policy has moved away from the data: fewer epochs, a lower `learning_rate`, or "
            "newer rollouts.",
        ),
        (
            "importance/truncated",
            "Share of these tokens whose weight is at `max_importance`.",
            "below 0.2",
            "As for `importance/mean`.",
        ),
        (
            "mean_token_accuracy",
            "Share of the given answers' tokens that the model finds most probable (`sft`).",
            "rises; 0.6 to 0.95 on text",
            "Flat: raise `learning_rate`. Near 1 on few rows: the model knows them by heart, so "
            "make fewer passes or take more rows.",
        ),
    ),
    "Evaluations": (
        (
            "eval/accuracy",
            "Share of right answers to held-out examples.",
            "rises with `accuracy`",
            "If `accuracy` rises and this does not, the model learns its training examples by "
            "heart: take more of them. If it falls, take the model of `best/`.",
        ),
        (
            "eval/accuracy_low",
            "Lower end of the accuracy's 95% interval.",
            "within 0.1 of the accuracy",
            "For a narrower interval, raise `eval_examples`.",
        ),
        ("eval/accuracy_high", "Upper end of the same interval.", "as above"),
        ("eval/reward", "Mean reward of held-out examples.", "rises", "As for `eval/accuracy`."),
        (
            "eval/rewards/{function}/mean",
            "Mean of one reward function or component on held-out examples.",
            "rises, or stays at its best",
            "As for `rewards/{function}/mean`.",
        ),
        ("eval/mean_length", "Mean tokens of held-out completions.", "well below the limit"),
        (
            "eval/clipped_ratio",
            "Share of held-out completions that ran out of tokens.",
            "below 0.1",
            "As for `completions/clipped_ratio`.",
        ),
        ("eval/examples", "How many examples were evaluated.", _COUNT),
        (
            "eval/best_step",
            "The optimizer step of the best evaluation so far.",
            "the latest or one shortly before it",
            "If it stays behind for long, the training can end: `best/` has that model.",
        ),
    ),
    "Time": (
        ("step_time", "Seconds of the whole step, without its evaluation.", _TIME),
        (
            "time/generate",
            "Seconds of the rollout on text: generation, and rewards that it waited for.",
            "half to nine tenths of `step_time`",
            "Lower `max_completion_length`, use `num_workers`, or a quantized model on a GPU.",
        ),
        (
            "time/rollout",
            "Seconds of the rollout of PPO: the policy and the environments.",
            "about half of `step_time`",
            "If `time/environment` is most of it, use more environments (`num_envs`).",
        ),
        (
            "time/score",
            "Seconds in environments and reward functions, of all workers together.",
            "below a tenth of `time/generate`",
            "Make reward functions async, or let them score a batch "
            "(`@textenv.reward(batch=True)`).",
        ),
        ("time/update", "Seconds of the update.", _TIME),
        (
            "time/export",
            "Seconds of writing the rollout and what a page shows of its tokens, which are scored "
            "once more for that.",
            "near 0 on text where no rollout is saved; below a tenth of the run in all",
            "Save fewer rollouts: raise `--rollouts-every`.",
        ),
        (
            "time/evaluate",
            "Seconds of the step's evaluation.",
            "below a tenth of the run in all",
            "Raise `eval_steps`, or lower `eval_examples`.",
        ),
        ("time/environment", "Seconds in environments, of all workers together.", _TIME),
        ("time/policy", "Seconds in which the policy chose actions.", _TIME),
        ("time/iterations", "Updates since the start.", _COUNT),
        ("time/total_timesteps", "Transitions since the start.", _COUNT),
        (
            "time/fps",
            "Transitions a second, of this rollout and its update.",
            "steady",
            "If it falls during a run, something else uses the machine, or episodes got slower.",
        ),
        ("time/time_elapsed", "Seconds since the start, evaluations too.", _COUNT),
        (
            "workers/restarts",
            "How often a worker process was started again; absent if none was.",
            "absent",
            "A reward function that hangs or ends its process, or too little memory: set "
            "`reward_process=True` and `reward_timeout`, or use fewer workers.",
        ),
    ),
}
