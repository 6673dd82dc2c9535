"""Makes a shape ready for use in threads.

msgspec (0.22) builds what it knows of a struct at its first use, and the process crashes when two
threads do that at the same time.
"""

from __future__ import annotations

import threading

import msgspec

_ready: set[object] = set()
_building = threading.Lock()


def prepare(shape: object) -> None:
    """`shape`, and every one in it, may be used by any thread from now on."""
    if shape not in _ready:
        with _building:
            msgspec.json.Decoder(shape)
            _ready.add(shape)
