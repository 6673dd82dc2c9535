"""Files not yet published, laid over a repository: what nodes would see after a publication."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from embrasure import limits
from embrasure.errors import NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.source import Source
from embrasure.trust.view import View


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


def check_listed(client: TrustClient, view: View, role: str, path: str, source: Overlay) -> None:
    """Return only when the listed document can be fetched as it is listed; raises Refused."""
    try:
        client.target(view, role, path, source, limit=limits.MANIFEST_BYTES)
    except NotFound:
        raise Refused(
            path, expected=f"the document that {role} lists", got="none", reason="missing"
        ) from None
