"""Keeping freed memory in the process on Linux, so that the next large array costs less.

MLX allocates the arrays of a CPU one by one, and glibc gives large ones back to the kernel as soon
as they are freed. The kernel then hands out the next array of that size page by page, which costs
several times what is computed in it: adding 1 to 64 MB takes 29 ms, and 3.4 ms if the pages
stay. Two settings of ``mallopt`` keep them (mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD);
the peak of memory is the same.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
_LARGEST = 2**30  # larger arrays still go back to the kernel at once


def keep_freed_memory() -> bool:
    """Keep freed memory in the process, and return whether it is kept.

    ``TEXTENV_HEAP=off`` leaves the C library as it is. Only glibc has these settings.
    """
    if sys.platform != "linux" or os.environ.get("TEXTENV_HEAP") == "off":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
