"""Measures policies: accuracy on text, returns on control."""
