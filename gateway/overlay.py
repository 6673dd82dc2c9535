"""Files not yet published, laid over a repository: what nodes would see after a publication."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from embrasure import limits
from embrasure.errors import NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.source import Source


class Overlay:
    """A source that serves `files` (repository path -> bytes), and `below` for all others."""

    def __init__(self, files: Mapping[str, bytes], below: Source) -> None:
        self._files, self._below = files, below

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` on."""
        layout.parse_file(path)
        if path not in self._files:
            yield from self._below.fetch(path, offset=offset, limit=limit)
            return
        data = self._files[path][offset:]
        if len(data) > limit:
            raise Refused(path, expected=f"at most {limit} bytes", got=len(data), reason="limit")
        for start in range(0, len(data), limits.BUFFER_BYTES):
            yield data[start : start + limits.BUFFER_BYTES]


def fetch_all(source: Source, path: str, *, limit: int) -> bytes | None:
    """Return the whole file, or None when the source has no such file."""
    try:
        return b"".join(source.fetch(path, offset=0, limit=limit))
    except NotFound:
        return None
