"""Permission bits that bind root too, as they bind everybody else."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2
Sets = ctypes.c_uint32 * 6  # effective, permitted, inheritable; then the same of 32 more


def _call(name: str, sets: "ctypes.Array[ctypes.c_uint32]") -> None:
    header = (ctypes.c_uint32 * 2)(VERSION, 0)
    if getattr(ctypes.CDLL(None, use_errno=True), name)(header, sets):
        raise OSError(ctypes.get_errno(), name)


def give_up() -> "ctypes.Array[ctypes.c_uint32]":
    """Let this thread, and what it starts, read and write what permissions allow; the sets before.

    Only root could do more.
    """
    before, after = Sets(), Sets()
    _call("capget", before)
    after[:] = before[:]
    after[0] &= ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH)
    _call("capset", after)
    return before


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """The same for as long as a block lasts."""
    before = give_up()
    try:
        yield
    finally:
        _call("capset", before)
