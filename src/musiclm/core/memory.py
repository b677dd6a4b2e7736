"""Memory that the allocator keeps: what one step frees, the next one takes without the kernel."""

import ctypes
import os
import sys

_TRIM_THRESHOLD = -1  # names of glibc's mallopt(3)
_MMAP_THRESHOLD = -3
_LARGEST = 2**30
_OWN_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed tensors instead of giving each one's pages back at once.

    By default tensors of 128 kB to 32 MB come from the kernel as empty pages, again in every step;
    on two CPU cores that is a fifth of the time of the codec's encoder (docs/performance.md). The
    process then keeps about as much as its largest step needed. Does nothing with another C
    library, or where the environment sets glibc's allocator already.

    Returns:
        Whether it was done.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(name, _LARGEST) == 1 for name in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
