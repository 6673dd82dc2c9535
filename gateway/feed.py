"""The gateway as a repository on a node's own stream: published paths out of a table, and no other.

Drill: a node that asks for `../keys`, for a file nobody listed, or for bytes beyond the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from embrasure import limits
from embrasure.errors import NotFound
from embrasure.trust import layout
from embrasure.trust.source import Source
from gateway.published import Contents

GENERATIONS = 8  # a node in the middle of a refresh still finds the files of the view it began with


class Feed:
    """Answers wants; `show` names what may be asked for from now on.

    latest: what is published now, asked when a path is not in the table: somebody else may have
    published since
    """

    def __init__(self, source: Source, latest: Callable[[], Contents] | None = None) -> None:
        self._source, self._latest = source, latest
        self._shown: tuple[Contents, ...] = ()  # replaced as a whole: other threads read it

    def show(self, contents: Contents) -> None:
        """The paths of `contents`, and of the last few, may be asked for."""
        if not self._shown or self._shown[-1] != contents:
            self._shown = (*self._shown, contents)[-GENERATIONS:]

    def check(self, path: str) -> None:
        """Return only when `path` is published; raises Refused (`bad-path`), NotFound."""
        layout.parse_wanted(path)
        if self._has(path):
            return
        if self._latest is not None:
            self.show(self._latest())
        if not self._has(path):
            raise NotFound(path, expected="a published file", got="none")

    def _has(self, path: str) -> bool:
        return any(
            path in contents.paths or path in contents.packs for contents in reversed(self._shown)
        )

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` on; longer than `limit` is Refused (`limit`), but
        of a pack so many bytes are wanted.
        """
        self.check(path)
        yield from self._source.fetch(path, offset=offset, limit=limit)


def framed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in whole frames, but for the last one: each costs a node the same,
    whatever is in it. A frame and a piece are in memory at most.
    """
    parts, room = list[memoryview](), limits.FRAME_BODY_BYTES
    for piece in pieces:
        rest = memoryview(piece)
        while len(rest) >= room:
            yield b"".join((*parts, rest[:room]))
            rest = rest[room:]
            parts, room = [], limits.FRAME_BODY_BYTES
        if rest:
            parts.append(rest)
            room -= len(rest)
    if parts:
        yield b"".join(parts)
