"""Bridges to other libraries of environments for language models: gem, OpenEnv and verifiers.

Each module makes their environments tasks of this package, and environments of this package
theirs. It needs its library, and is imported by its own name.
"""
