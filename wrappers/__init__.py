"""What stands between an environment and its user, one concept a file."""

from textenv.wrappers.step import DictStep, TupleStep, standardize_step

__all__ = ["DictStep", "TupleStep", "standardize_step"]
