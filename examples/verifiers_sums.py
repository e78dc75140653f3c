"""The questions of `side_by_side.py` as a taskset of verifiers, with a reward of verifiers' own.

Verifiers finds it by the name of this module, which must be importable. `side_by_side.py` plays it
as a task of textenv. It needs the extra ``verifiers``.
"""

import verifiers.v1 as vf
from side_by_side import TASK

__all__ = ["Sums"]


class SumData(vf.TaskData):
    """A question with its answer."""

    answer: str


class SumTask(vf.Task[SumData]):
    """A question; its reward is 1 for the right answer."""

    @vf.reward
    async def right(self, task: SumData, trace: vf.Trace) -> float:
        """1 if the reply is the answer."""
        return float(trace.last_reply.strip() == task.answer)


class Sums(vf.Taskset[SumTask]):
    """The questions."""

    def load(self):
        """Yield them in their order."""
        for prompt, example in zip(TASK["prompts"], TASK["examples"]):
            yield SumTask(SumData(prompt=prompt, answer=example["answer"]), self.config.task)
