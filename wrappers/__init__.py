"""Wrappers that adapt text environments to agents and libraries that expect something else.

There are no wrappers here for what Gymnasium's own do: use ``gymnasium.wrappers.TransformReward``
to change a reward, and ``TimeLimit`` to limit an episode.
"""

from textenv.wrappers.actions.action_mask import ActionMask
from textenv.wrappers.actions.choice_action import ChoiceAction
from textenv.wrappers.actions.count_from_zero import CountFromZero
from textenv.wrappers.actions.detokenize_action import DetokenizeAction
from textenv.wrappers.chat_history import ChatHistory
from textenv.wrappers.observations.byte_observation import ByteObservation
from textenv.wrappers.observations.hashed_bag_of_words import HashedBagOfWords
from textenv.wrappers.observations.tokenize_observation import TokenizeObservation
from textenv.wrappers.record_transcript import RecordTranscript
from textenv.wrappers.step import DictStep, TupleStep, standardize_step

__all__ = [
    "ActionMask",
    "ByteObservation",
    "ChatHistory",
    "ChoiceAction",
    "CountFromZero",
    "DetokenizeAction",
    "DictStep",
    "HashedBagOfWords",
    "RecordTranscript",
    "TokenizeObservation",
    "TupleStep",
    "standardize_step",
]
