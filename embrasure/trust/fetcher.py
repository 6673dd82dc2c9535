"""Bytes from an untrusted source, bounded in length and time, for python-tuf and for blobs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError
from tuf.ngclient import FetcherInterface

from embrasure import limits
from embrasure.errors import NotFound, Refused, Unavailable
from embrasure.trust import layout
from embrasure.trust.source import Source

Ticks = Callable[[], float]  # seconds, of a clock that nobody sets

_LIMITS = {
    layout.ROOT: limits.ROOT_BYTES,
    layout.TIMESTAMP: limits.TIMESTAMP_BYTES,
    layout.SNAPSHOT: limits.SNAPSHOT_BYTES,
    layout.TARGETS: limits.TARGETS_BYTES,
}


def metadata_limit(path: str) -> int:
    """Return the most bytes of the metadata file at `path`."""
    role = path.rpartition("/")[2].removesuffix(".json").partition(".")
    return _LIMITS.get(role[2] or role[0], limits.DELEGATED_BYTES)


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


def fetch_whole(source: Source, path: str, *, limit: int, ticks: Ticks = time.monotonic) -> bytes:
    """Return all bytes of `path`, at most `limit`, within `limits.METADATA_SECONDS`.

    The source's own idea of a limit is not relied on. Raises Refused (`limit`), NotFound,
    Unavailable.
    """
    held = bytearray()
    pieces = source.fetch(path, offset=0, limit=limit)
    for piece in timed(pieces, seconds=limits.METADATA_SECONDS, what=path, ticks=ticks):
        held += piece
        if len(held) > limit:
            raise Refused(path, expected=f"at most {limit} bytes", got="more", reason="limit")
    return bytes(held)


class SourceFetcher(FetcherInterface):
    """Gives python-tuf the metadata files of a `Source`. `last`: the path asked for last."""

    def __init__(self, source: Source, *, ticks: Ticks = time.monotonic) -> None:
        self.source = source
        self.ticks = ticks
        self.last = ""
        self._peeked: dict[str, bytes | None] = {}

    def peek(self, path: str) -> bytes | None:
        """Return the file at `path`, or None when there is none; it is not fetched again later."""
        if path not in self._peeked:
            try:
                self._peeked[path] = self._whole(path)
            except NotFound:
                self._peeked[path] = None
        return self._peeked[path]

    def _whole(self, path: str) -> bytes:
        # The url is a repository path: `client.METADATA` is python-tuf's base url.
        layout.parse_file(path)
        self.last = path
        return fetch_whole(self.source, path, limit=metadata_limit(path), ticks=self.ticks)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return the file; python-tuf's own goes through a temporary file on some other disk."""
        data = self.peek(url)
        del self._peeked[url]
        if data is None:
            raise DownloadHTTPError(f"no file {url}", 404)
        if len(data) > max_length:
            raise DownloadLengthMismatchError(f"{url} has more than {max_length} bytes")
        return data

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, metadata_limit(url))
