"""Memory of the process that trains: what a gradient step frees, the next one gets back, in huge pages."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

# Parameters of glibc's mallopt (malloc.h), and of the system's madvise (mman.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_MADV_HUGEPAGE = 14
_TOP_PAD_BYTES = 64 * 2**20
#: Largest heap that is to lie in huge pages; an address range, of which only what is used takes memory.
_HUGE_BYTES = 2 * 2**30


def keep_freed_memory() -> bool:
    """Lets glibc's allocator keep what is freed, rather than give large blocks back and fault them in anew.

    A step's tensors have the same sizes as those of the step before, so that the process holds little more than its
    peak. They lie in huge pages where the system grants them to those who ask. It cannot be undone within the process,
    and processes that it forks inherit it.

    Returns:
        Whether the allocator took the settings; other C libraries have none.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (AttributeError, OSError):
        return False
    # No block is a mapping of its own, the heap is never trimmed, and it grows by large pieces.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _TOP_PAD_BYTES))
    if not all(mallopt(name, value) == 1 for name, value in settings):
        return False
    _ask_for_huge_pages(libc)
    return True


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Advises the heap as it lies, having stretched it: what it grows by later would not be covered."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    libc.free(
        libc.malloc(min(_HUGE_BYTES, physical // 4))
    )  # never touched; where it is refused, the heap stays as it is
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return
    if heap := re.search(r"^([0-9a-f]+)-([0-9a-f]+) .*\[heap\]$", maps, re.MULTILINE):
        begin, end = (int(place, 16) for place in heap.groups())
        libc.madvise(begin, end - begin, _MADV_HUGEPAGE)
