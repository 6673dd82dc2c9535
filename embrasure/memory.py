"""What the C library keeps of freed memory: much while buffers stream, nothing after them."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_libc = ctypes.CDLL(None)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h


def keep(most: int) -> None:
    """Up to `most` freed bytes are used again instead of asked for anew: a system clears each page
    that it gives, and finds it for us at our first touch, for half of what a buffer costs.

    To be called before the first thread: all threads then share what is kept. `give_back` ends it
    for what is kept then.
    """
    with suppress(AttributeError):
        for name, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, most), (_TRIM_THRESHOLD, most)):
            _libc.mallopt(ctypes.c_int(name), ctypes.c_int(value))


def give_back() -> None:
    """What was freed is the system's again, as far as whole pages of it are free."""
    with suppress(AttributeError):
        _libc.malloc_trim(ctypes.c_size_t(0))
