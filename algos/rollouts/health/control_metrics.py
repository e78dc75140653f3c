"""The metrics of PPO and of training on control: rows of the table of all metrics.

A row has the name, the meaning, the healthy range, and what to do outside it; see `metric_table`.
"""

from __future__ import annotations

from textenv.algos.rollouts.health.rules import CLIPPED

Row = tuple[str, ...]
_COUNT = "a plain count"
_SETTING = "as it was set"

CONTROL: dict[str, tuple[Row, ...]] = {
    "Episodes of PPO": (
        (
            "rollout/ep_rew_mean",
            "Mean return of the last 100 episodes; absent until one has ended.",
            "rises",
            "Flat: look at `train/explained_variance` and `train/entropy_loss`; normalise "
            "observations; take the settings of RL Baselines3 Zoo. Falling after a rise: lower "
            "`learning_rate`, or let it fall (`anneal_learning_rate`).",
        ),
        (
            "rollout/ep_len_mean",
            "Mean number of steps of the same episodes.",
            "it depends on the task",
            "Always the limit of the environment: no episode comes to its own end.",
        ),
    ),
    "Updates of PPO": (
        (
            "train/approx_kl",
            "How far the update moved the policy from the one that collected (estimator k3), mean "
            "of the last epoch.",
            "0.003 to 0.03",
            "Above: lower `learning_rate` or `n_epochs`, or set `target_kl=0.02`. Below: raise "
            "them.",
        ),
        (
            "train/clip_fraction",
            "Share of actions, or of tokens, whose ratio left the clip range.",
            f"0.05 to 0.3; a warning comes above {CLIPPED:g}",
            "As for `train/approx_kl`.",
        ),
        ("train/clip_range", "How far the ratio may leave 1.", _SETTING),
        ("train/clip_range_vf", "The same for the critic's values.", _SETTING),
        (
            "train/explained_variance",
            "How much of the returns the critic predicts: 1 is all, 0 is no more than their mean.",
            "rises above 0.5 on control; may stay low on text with one reward at the end",
            "Around 0 for long: raise `vf_coef` or the critic's size, normalise rewards. Below 0 "
            "for long: the critic does harm, so lower `learning_rate`.",
        ),
        (
            "train/value_loss",
            "Mean squared error of the critic's values.",
            "falls, and rises when returns rise",
            "Huge: normalise rewards (`normalize_rewards`).",
        ),
        (
            "train/policy_gradient_loss",
            "The clipped surrogate's loss. Its size says nothing.",
            "a little below 0",
            "Look at `rollout/ep_rew_mean` instead.",
        ),
        (
            "train/entropy_loss",
            "Minus the mean entropy of the policy, in nats; on text 0 unless `ent_coef` is above "
            "0.",
            "rises slowly towards 0 (with Box actions it may pass it)",
            "Near 0 early: raise `ent_coef` (0.01). Flat at the start's value: nothing is learnt, "
            "look at the rewards.",
        ),
        (
            "train/grad_norm",
            "Mean norm of the gradient before it is clipped to `max_grad_norm`.",
            "steady, within a factor of ten",
            "Spikes: lower `learning_rate`; normalise observations and rewards.",
        ),
        (
            "train/std",
            "Mean standard deviation of Box actions.",
            "falls slowly",
            "Rising without an end: lower `ent_coef`. Almost 0 early: raise it.",
        ),
        ("train/learning_rate", "The learning rate of the update.", _SETTING),
        (
            "train/n_updates",
            "Optimizer steps of this update; from files and of Stable-Baselines3, since the start.",
            "`n_epochs` times the minibatches, if `target_kl` did not stop it",
            "Fewer: `target_kl` stops updates early, so lower `learning_rate`.",
        ),
    ),
    "Control from files": (
        (
            "train/policy_loss",
            "Negative log-likelihood of the recorded actions, weighted for `awr`. "
            "Stable-Baselines3's A2C reports its own policy loss by this name.",
            "falls, and then levels off",
            "Rising: lower `learning_rate`.",
        ),
        (
            "train/entropy",
            "Mean entropy of the policy on the data, in nats.",
            "falls slowly",
            "Near 0 while the return is low: the policy repeats single actions, so take more data.",
        ),
        (
            "train/weight_max",
            "The largest weight of an action (`awr`).",
            "below `max_weight`",
            "At the bound: raise `temperature`.",
        ),
        (
            "train/effective_share",
            "Share of the actions that would teach as much if they counted alike (`awr`).",
            "0.1 to 0.9",
            "Lower: raise `temperature`, since few actions decide. Near 1: lower it, since all "
            "count alike, as in `bc`.",
        ),
        (
            "holdout/logprob",
            "Mean log-likelihood of actions of episodes that were held out.",
            "rises, and then levels off",
            "Falling while `train/policy_loss` falls: the policy learns the data by heart; stop "
            "earlier, or take more data.",
        ),
    ),
    "Agents of Stable-Baselines3": (
        ("train/loss", "The agent's whole loss.", "PPO: of no meaning. DQN: small and steady"),
        (
            "train/actor_loss",
            "Loss of the actor of SAC, TD3 or DDPG: about minus the critic's value.",
            "falls as returns rise",
            "If it runs away, lower the learning rate.",
        ),
        (
            "train/critic_loss",
            "Squared error of the critic.",
            "small beside the squared returns",
            "If it runs away, lower the learning rate or scale the rewards.",
        ),
        ("train/ent_coef", "SAC's weight of the entropy, which it learns.", "falls slowly"),
        ("train/ent_coef_loss", "The loss of that weight.", "around 0"),
        (
            "train/{figure}",
            "Another figure of an agent of Stable-Baselines3, under the name of its logger.",
            "see its documentation",
        ),
    ),
}
