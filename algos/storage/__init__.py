"""Saves rollouts to files and loads them, in several formats, with a record of their source."""
