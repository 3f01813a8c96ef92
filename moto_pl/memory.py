"""Memory of the process that trains: what a gradient step frees, the next one gets back."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Lets glibc's allocator keep what is freed, rather than give large blocks back and fault them in anew.

    A step's tensors have the same sizes as those of the step before, so that the process holds little more than its
    peak. It cannot be undone within the process, and processes that it forks inherit it.

    Returns:
        Whether the allocator took the settings; other C libraries have none.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # No block is a mapping of its own, the heap is never trimmed, and it grows by large pieces.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
