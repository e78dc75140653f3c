"""Measurements of speed and memory, beside other libraries: what ``textenv bench`` runs.

``plan`` says what is measured, ``runs`` runs it in processes of its own (``worker``), ``ours``,
``trl_peer`` and ``mlx_lm_peer`` do the work there, ``results`` and ``report`` say what came of it.
The process that directs imports neither MLX nor torch.
"""
