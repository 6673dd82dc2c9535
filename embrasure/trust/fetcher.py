"""Metadata from an untrusted source, bounded in length and time, for python-tuf and for others."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError
from tuf.ngclient import FetcherInterface

from embrasure import limits
from embrasure.errors import NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.pace import Ticks, timed
from embrasure.trust.source import Source

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

    def forget(self, path: str) -> None:
        """The file at `path` is fetched again when it is needed."""
        self._peeked.pop(path, None)

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
