"""Trainings of `textenv train` from files: from exported rollouts, and from given answers."""
