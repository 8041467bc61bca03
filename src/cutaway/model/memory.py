"""Freed memory is kept for the next forward pass.

glibc hands every large block back to the system as soon as it is freed, so each forward pass pays for fresh, zeroed
pages again: a tenth of its time on a CPU. Who tunes the allocator, or brings another, is left alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

KEPT = 1 << 30  # bytes: larger blocks, and free memory beyond it, still go back
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
TUNED = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_")  # how users tune theirs


@functools.cache
def keep_pages() -> bool:
    """Raise glibc's thresholds, once in a process; whether that was done."""
    if not sys.platform.startswith("linux") or any(name.startswith(TUNED) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT) and mallopt(M_TRIM_THRESHOLD, KEPT))
