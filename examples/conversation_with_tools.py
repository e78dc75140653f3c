"""A conversation with tools: the policy calls a function, reads its result, and answers.

    python examples/conversation_with_tools.py
    python examples/conversation_with_tools.py --model Qwen/Qwen3-0.6B   # learns it; downloads

Without a model an agent of five lines plays, so that you see each message. Any policy can: a
function of the observation that gives an action. With ``infos`` it is given the messages too.
"""

import argparse

import gymnasium as gym

from textenv.algos import GRPOConfig, GRPOTrainer, RolloutRunner, create_strategy

STOCK = {"apples": 12, "pears": 30, "plums": 7}


def stock(fruit: str) -> int:
    """Look up how many pieces of a fruit there are.

    Args:
        fruit: the name of the fruit, such as "apples"
    """
    return STOCK[fruit]


def make_env():
    """A conversation for each fruit, with a tool and two actions at most."""
    return gym.make(
        "textenv:TextGen-v0",
        prompts=[[{"role": "user", "content": f"How many {fruit} are there?"}] for fruit in STOCK],
        examples=[{"answer": str(count)} for count in STOCK.values()],
        system_prompt="Look it up. Then reply with the number only.",
        reward_fn="exact_match",
        extract="last_number",
        tools=[stock],
        max_turns=2,
    )


def agent(observation, deterministic=False, infos=None):
    """Calls the tool for the fruit that is asked for, and then says what it gave."""
    last = infos["messages"][-1]
    if last["role"] == "tool":
        return f"There are {last['content']}.", {}
    fruit = last["content"].split()[2]
    return f'<tool_call>{{"name": "stock", "arguments": {{"fruit": "{fruit}"}}}}</tool_call>', {}


def main():
    """Play one episode a fruit, or train a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a chat model, by its folder or its name on the hub")
    parser.add_argument("--max-steps", type=int, default=20)
    args = parser.parse_args()
    if args.model is not None:
        config = GRPOConfig(max_steps=args.max_steps, max_completion_length=128, lora_rank=16)
        trainer = GRPOTrainer(args.model, make_env(), config)
        for metrics in trainer.train():
            calls, reward = metrics["tools/call_frequency"], metrics["reward"]
            print(f"step {metrics['step']:.0f}: {calls:.2f} calls an episode, reward {reward:.3f}")
        return
    strategy = create_strategy("grpo", num_generations=1)
    for trajectory in RolloutRunner(
        make_env(), agent, strategy, max_steps=2 * len(STOCK)
    ).collect():
        for message in trajectory.infos[-1]["messages"]:
            said = message["content"] or f"calls {message['tool_calls'][0]['function']}"
            print(f"{message['role']}: {said}")
        print(f"reward {trajectory.total_reward:g}\n")


if __name__ == "__main__":
    main()
