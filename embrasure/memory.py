"""What the C library keeps of freed memory goes back to the system after a stream of buffers."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_libc = ctypes.CDLL(None)


def give_back() -> None:
    """What was freed is the system's again, as far as whole pages of it are free."""
    with suppress(AttributeError):
        _libc.malloc_trim(ctypes.c_size_t(0))
