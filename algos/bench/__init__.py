"""Measures speed and memory, and compares them with other libraries; used by ``textenv bench``.

``plan`` says what is measured. ``runs`` starts a process for each measurement (``worker``), in
which ``ours`` or a file of ``peers`` does the work. ``results`` and ``report`` collect and describe
what was found; ``earlier`` compares it with a commit or an earlier run. The process that starts the
others imports neither MLX nor torch.
"""
