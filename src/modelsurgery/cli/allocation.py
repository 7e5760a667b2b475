"""How this process's memory is allocated: what is freed is used again, not given back.

A forward pass allocates and frees some megabytes in each of its layers. By default glibc gives such
blocks back to the system and takes them anew, and every page of them is faulted in again: an eighth
of the time of `surgery run` on the demo model.

For commands that load a model. Those that work on files alone promise little memory, and their peak
would grow by up to an eighth.
"""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names in <malloc.h>
LARGEST_BLOCK_BYTES = 32 << 20  # what glibc allows; larger blocks are given back as before
KEPT_BYTES = 256 << 20


def keep_freed_memory() -> bool:
    """Keep freed blocks of up to 32 MB, 256 MB altogether; whether the C library can do that."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    if mallopt is None:
        return False
    return bool(
        mallopt(MMAP_THRESHOLD, LARGEST_BLOCK_BYTES) and mallopt(TRIM_THRESHOLD, KEPT_BYTES)
    )
