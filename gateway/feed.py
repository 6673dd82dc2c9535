"""The gateway as a repository on a node's own stream: published paths out of a table, and no other.

Drill: a node that asks for `../keys`, for a file nobody listed, or for bytes beyond the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from embrasure.errors import NotFound
from embrasure.trust import layout
from embrasure.trust.source import Source
from gateway.published import Contents

GENERATIONS = 8  # a node in the middle of a refresh still finds the files of the view it began with


class Feed:
    """Answers wants; `show` names what may be asked for from now on."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._shown: deque[Contents] = deque(maxlen=GENERATIONS)

    def show(self, contents: Contents) -> None:
        """The paths of `contents`, and of the last few, may be asked for."""
        if not self._shown or self._shown[-1] != contents:
            self._shown.append(contents)

    def check(self, path: str) -> None:
        """Return only when `path` is published; raises Refused (`bad-path`), NotFound."""
        layout.parse_file(path)
        if not any(path in contents.paths for contents in reversed(self._shown)):
            raise NotFound(path, expected="a published file", got="none")

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` on; longer than `limit` is Refused (`limit`)."""
        self.check(path)
        yield from self._source.fetch(path, offset=offset, limit=limit)
