"""The metrics of rollouts of text: rows of the table of all metrics.

A row has the name, the meaning, the healthy range, and what to do outside it; see `metric_table`.
"""

from __future__ import annotations

from textenv.algos.rollouts.health.rules import CUT, ENTROPY, SOLVED, UNIFORM

Row = tuple[str, ...]
_COUNT = "a plain count"

TEXT: dict[str, tuple[Row, ...]] = {
    "Rewards": (
        (
            "reward",
            "Mean reward of all completions that were played. It is 0 if none was scored.",
            "rises over tens of steps; single steps go up and down",
            "Flat at 0: read completions, what was extracted of them, and the warning `no_reward`. "
            "Flat elsewhere: look at `frac_reward_zero_std`. Falling: lower `learning_rate`.",
        ),
        (
            "reward_std",
            "Standard deviation of the rewards of all completions.",
            "above 0 until the task is solved",
            "At 0 all completions earn the same, and nothing can be learnt: take a task in which "
            "some answers are right, or a reward that tells answers apart.",
        ),
        (
            "accuracy",
            "Share of completions that are right, if the task can tell. It is that of sampled "
            "answers, so greedy ones may do better.",
            "rises with `reward`",
            "If `reward` rises and `accuracy` does not, the model learns to please a part of the "
            "reward that is not the task: lower that part's weight.",
        ),
        (
            "rewards/{function}/mean",
            "Mean of one reward function or of one component, before weights, over the completions "
            "that it scored.",
            "each component rises, or stays at its best",
            "One that falls is traded for another: change the weights (`--reward a=1 b=0.2`).",
        ),
        (
            "rewards/{function}/std",
            "Standard deviation of one reward function or component.",
            "above 0 until that component is learnt",
            "At 0 this component teaches nothing.",
        ),
        (
            "frac_reward_zero_std",
            "Share of groups whose rewards are all equal. Such a group has no signal, and its "
            "generation was in vain.",
            f"below {UNIFORM:g} until most answers are right",
            "Raise `num_generations`, add the strategy `dapo`, or leave out examples that are too "
            "easy or too hard.",
        ),
        ("groups", "Groups that were played, each from one prompt.", _COUNT),
        (
            "reward_errors",
            "Completions whose reward function failed; absent if none did.",
            "absent",
            "Read `info['reward_error']` of the saved rollouts, and mend the function.",
        ),
        (
            "completions/unscored_ratio",
            "Share of completions that no reward function scored; absent if all were scored.",
            "absent, unless a function abstains on purpose",
            "Let the function return a number in place of None, or set `reward_may_abstain=False` "
            "to find out where it does not.",
        ),
    ),
    "Completions": (
        ("completions/count", "Completions that were played, those not trained on too.", _COUNT),
        (
            "completions/mean_length",
            "Mean number of tokens that the policy sampled, over all turns of an episode.",
            "well below `max_completion_length`",
            'Rising without a higher reward: use `loss_type="dr_grpo"` or the strategy part '
            "`overlong`. Falling to almost nothing: the reward pays for short answers.",
        ),
        ("completions/min_length", "Tokens of the shortest completion.", "above 1"),
        ("completions/max_length", "Tokens of the longest completion.", "the limit or less"),
        (
            "completions/clipped_ratio",
            "Share of completions that ran out of tokens, in any turn. A completion that is cut "
            "off rarely has its answer.",
            f"below 0.1; a warning comes at {CUT:g}",
            "Raise `max_completion_length`, ask for short answers in the prompt, or set `stop`. "
            "With `mask_truncated_completions` they are not trained on.",
        ),
        (
            "entropy",
            "Mean entropy of the sampled tokens' distributions, in nats. 0 means that the model "
            "always writes the same.",
            f"falls slowly; times the length it stays above {ENTROPY:g} until {SOLVED:g} of the "
            "answers are right",
            "Raise `temperature` or `epsilon_high` (0.28), lower `learning_rate`, or set a small "
            "`beta`. If it rises without an end, the model falls apart: lower `learning_rate`.",
        ),
        (
            "num_tokens",
            "Tokens that the policy sampled since the start; with given answers, tokens of prompts "
            "and answers that were trained on.",
            _COUNT,
        ),
    ),
    "Tools": (
        (
            "tools/call_frequency",
            "Calls of tools an episode.",
            "above 0 if the task needs its tools",
            "At 0: say in the system prompt when to call them, or begin with given answers that do "
            "(`--algo sft`).",
        ),
        (
            "tools/failure_frequency",
            "Share of the calls that failed: the tool raised an error, or took too long.",
            "below 0.1",
            "Read the tool messages of the saved rollouts: an error should say how to call it.",
        ),
        (
            "tools/malformed_frequency",
            "Share of the calls that could not be read.",
            "below 0.1",
            "Raise `max_tokens` if calls are cut off; else train on given answers with calls.",
        ),
    ),
    "Groups and tokens of a rollout": (
        ("strategy/rounds", "In how many rounds prompts were drawn for the rollout.", "1 to 3"),
        ("strategy/groups", "Groups that were played in all rounds.", _COUNT),
        (
            "strategy/groups_missing",
            "How many groups the rollout has fewer than it was to have.",
            "0",
            "The selection keeps too few: let it draw in more rounds, or take easier or harder "
            "examples.",
        ),
        ("strategy/groups_reused", "Groups of earlier rollouts that are trained on again.", _COUNT),
        ("strategy/prompts_skipped", "Prompts that the strategy passed over.", _COUNT),
        (
            "strategy/frac_groups_uniform",
            "Share of the played groups whose outcomes are all equal, before anything is dropped.",
            f"below {UNIFORM:g}",
            "As for `frac_reward_zero_std`.",
        ),
        (
            "strategy/tokens_generated",
            "Tokens that the policy sampled for this rollout; a shared beginning counts once.",
            _COUNT,
        ),
        (
            "strategy/tokens_computed",
            "Tokens that went through the model while sampling: prompts, completions, and the "
            "token before each branch of a tree.",
            _COUNT,
        ),
        (
            "strategy/tokens_discarded",
            "Tokens that were generated and are not trained on.",
            "less than half of `strategy/tokens_generated`",
            "The strategy throws most of the work away: use prompts nearer to the model's level.",
        ),
        ("strategy/tokens_trained", "Tokens with a weight in the loss, reused ones too.", _COUNT),
    ),
    "Parts of a strategy": (
        (
            "strategy/curriculum/level",
            "The level of difficulty that is played.",
            "rises",
            "Stuck: lower the part's `up`, or let it `start` at a lower level. At the highest for "
            "long: the task has no harder examples.",
        ),
        (
            "strategy/curriculum/pass_rate",
            "Share of right answers at this level, in the window so far.",
            "between `down` and `up`",
            "It moves the level by itself.",
        ),
        (
            "strategy/greso/exploration_right",
            "The base p of the probability p^n to play a prompt that was right throughout n times "
            "in a row.",
            "between the part's `least` and 1",
            "It moves by itself towards `target_right`.",
        ),
        (
            "strategy/greso/exploration_wrong",
            "The same for prompts that were wrong throughout.",
            "between the part's `least` and 1",
            "It moves by itself towards `target_wrong`.",
        ),
        ("strategy/greso/uniform_prompts", "Prompts whose latest group was uniform.", _COUNT),
        ("strategy/pools/easy", "Prompts of the easy pool in this rollout.", _COUNT),
        ("strategy/pools/normal", "Prompts of the normal pool in this rollout.", _COUNT),
        ("strategy/pools/hard", "Prompts of the hard pool in this rollout.", _COUNT),
        ("strategy/replay/groups", "Groups that were taken from the store.", _COUNT),
        (
            "strategy/replay/staleness",
            "How many optimizer steps ago the replayed groups were sampled, as a mean.",
            "up to the part's `max_staleness`",
            "If `strategy/replay/weight_mean` falls with it, lower `max_staleness`.",
        ),
        (
            "strategy/replay/weight_mean",
            "Mean importance weight of the replayed tokens.",
            "0.5 to 1",
            "The policy has moved far from the replayed groups: lower `max_staleness`.",
        ),
        (
            "strategy/top_entropy/threshold",
            "The entropy, in nats, from which a token is trained on.",
            "above 0",
            "At 0 all tokens count: the entropy has gone.",
        ),
        (
            "strategy/{part}/{metric}",
            "A metric of a part of your own, as its `metrics()` gives it.",
            "you know it",
        ),
    ),
}
