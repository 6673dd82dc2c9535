"""How the C library keeps what was freed: a stream of large buffers should not be new pages each.

By default a buffer of a megabyte is mapped, filled page by page by the kernel, and unmapped again.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_libc = ctypes.CDLL(None)


def keep_freed(most: int) -> None:
    """Up to `most` freed bytes are used again; a C library without that knob is let be."""
    with suppress(AttributeError):
        _libc.mallopt(ctypes.c_int(_M_MMAP_THRESHOLD), ctypes.c_int(most))
        _libc.mallopt(ctypes.c_int(_M_TRIM_THRESHOLD), ctypes.c_int(most))


def give_back() -> None:
    """What was freed is the system's again, as far as whole pages of it are free."""
    with suppress(AttributeError):
        _libc.malloc_trim(ctypes.c_size_t(0))
