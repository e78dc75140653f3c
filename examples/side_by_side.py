"""The same questions and answers in Gymnasium, TRL, TorchRL and verifiers: all scores are the same.

    python examples/side_by_side.py

Libraries that are not installed are named and left out (extras ``trl``, ``clients`` and
``verifiers``; the last one does not go with the others). The page of the wrappers has more of each
library, and trainings.
"""

import importlib.util

import gymnasium as gym

from textenv.wrappers.trl import environment_factory, environment_reward

ANSWERS = {"12+30=": "42", "58+67=": "115", "99+1=": "100"}  # the second one forgets the carry
TASK = {
    "prompts": list(ANSWERS),
    "examples": [{"answer": "42"}, {"answer": "125"}, {"answer": "100"}],
    "reward_fn": "exact_match",
}


def in_gymnasium(**task):
    """The reward of each question, by its prompt."""
    env, scores = gym.make("textenv:TextGen-v0", **(task or TASK)), {}
    for number in range(len(ANSWERS)):
        prompt, _ = env.reset(options={"example_id": number})
        scores[prompt] = env.step(ANSWERS[prompt])[1]
    return scores


def in_trl():
    """The same by the two objects that TRL's ``GRPOTrainer`` is given, called as it calls them."""
    make = environment_factory("TextGen-v0", **TASK)
    environments = [make() for _ in ANSWERS]
    prompts = [env.reset(example_id=number) for number, env in enumerate(environments)]
    completions = [[{"role": "assistant", "content": ANSWERS[prompt]}] for prompt in prompts]
    rewards = environment_reward(prompts, completions, environments=environments)
    return dict(zip(prompts, rewards))


def in_torchrl():
    """The same in TorchRL's environment, which draws the questions at random."""
    from torchrl.envs import GymEnv

    def policy(td):
        return td.set_non_tensor("action", ANSWERS[td["observation"]])

    env = GymEnv("textenv:TextGen-v0", **TASK)
    env.set_seed(0)
    steps = env.rollout(20, policy, break_when_any_done=False)
    return {step["observation"]: step["next", "reward"].item() for step in steps}


def in_verifiers():
    """The same as a taskset of verifiers, which has a reward function of its own."""
    from textenv.wrappers.bridges.verifiers import VerifiersTask

    return in_gymnasium(task=VerifiersTask("verifiers_sums"))


LIBRARIES = {
    "gymnasium": in_gymnasium,
    "trl": in_trl,
    "torchrl": in_torchrl,
    "verifiers": in_verifiers,
}


def main():
    """Print the scores of each library that is installed, and fail if they differ."""
    lines = set()
    for library, scores in LIBRARIES.items():
        if importlib.util.find_spec(library) is None:
            print(f"{library:10} is not installed")
            continue
        line = ", ".join(f"{prompt} {score:g}" for prompt, score in sorted(scores().items()))
        print(f"{library:10} {line}")
        lines.add(line)
    if len(lines) > 1:
        raise SystemExit("the scores differ")


if __name__ == "__main__":
    main()
