"""How slow an untrusted source may be, for a document and for a blob."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from embrasure import limits
from embrasure.errors import Unavailable

Ticks = Callable[[], float]  # seconds, of a clock that nobody sets


def timed(pieces: Iterable[bytes], *, seconds: float, what: str, ticks: Ticks) -> Iterator[bytes]:
    """Yield `pieces`; raises Unavailable (`slow`) when waiting for them took longer than `seconds`.

    A limit on each gap alone would let one byte every 29 s pass for ever.
    """
    waited = 0.0
    pieces = iter(pieces)
    while True:
        before = ticks()
        piece = next(pieces, None)
        waited += ticks() - before
        if waited > seconds:
            raise Unavailable(
                what, expected=f"all of it in {seconds:g} s", got="a slower source", reason="slow"
            )
        if piece is None:
            return
        yield piece


def paced(pieces: Iterable[bytes], *, what: str, ticks: Ticks = time.monotonic) -> Iterator[bytes]:
    """Yield `pieces`; raises Unavailable (`slow`) when the source falls below the lowest speed.

    `limits.BLOB_BYTES_PER_SECOND` over each `BLOB_WINDOW_SECONDS` after `BLOB_GRACE_SECONDS`. Only
    time spent waiting for the source counts, not what the caller does between pieces.
    """
    waited, total = 0.0, 0
    window: deque[tuple[float, int]] = deque([(0.0, 0)])  # (waited, bytes by then)
    least = limits.BLOB_BYTES_PER_SECOND * limits.BLOB_WINDOW_SECONDS
    pieces = iter(pieces)
    while True:
        before = ticks()
        piece = next(pieces, None)
        waited += ticks() - before
        if piece is None:
            return
        total += len(piece)
        window.append((waited, total))
        start = waited - limits.BLOB_WINDOW_SECONDS
        while len(window) > 1 and window[1][0] <= start:
            window.popleft()
        if start >= limits.BLOB_GRACE_SECONDS and total - window[0][1] < least:
            raise Unavailable(
                what,
                expected=f"at least {limits.BLOB_BYTES_PER_SECOND} bytes a second",
                got=f"{(total - window[0][1]) // limits.BLOB_WINDOW_SECONDS}",
                reason="slow",
            )
        yield piece
