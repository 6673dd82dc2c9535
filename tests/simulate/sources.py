"""Sources for tests: a repository in memory that remembers what was asked, and hostile ones."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field

from embrasure import limits
from embrasure.errors import NotFound, Refused, Unavailable
from embrasure.trust import layout


def pieces(data: bytes, size: int = limits.BUFFER_BYTES) -> Iterator[bytes]:
    """Yield `data` in pieces of `size` bytes."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


@dataclass(slots=True)
class MemorySource:
    """A repository in memory. `files` may be changed between calls; `asked` holds every path."""

    files: MutableMapping[str, bytes]
    asked: list[str] = field(default_factory=list)

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` on."""
        layout.parse_file(path)
        self.asked.append(path)
        data = self.files.get(path)
        if data is None:
            raise NotFound("file", expected="a file of the repository", got=path)
        if len(data) - offset > limit:
            raise Refused("file", expected=f"at most {limit} bytes", got=path, reason="limit")
        yield from pieces(data[offset:])


@dataclass(slots=True)
class EndlessSource:
    """Answers `path` with bytes that never end, ignoring every limit; the rest honestly."""

    behind: MemorySource
    path: str
    sent: int = 0

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield zeros for ever."""
        if path != self.path:
            yield from self.behind.fetch(path, offset=offset, limit=limit)
            return
        while True:
            self.sent += 4096
            yield bytes(4096)


@dataclass(slots=True)
class BrokenSource:
    """Breaks off after `after` bytes of `path`, as a cut line does."""

    behind: MemorySource
    path: str
    after: int

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the first bytes, then raise Unavailable."""
        found = b"".join(self.behind.fetch(path, offset=offset, limit=limit))
        if path != self.path:
            yield from pieces(found)
            return
        yield found[: self.after]
        raise Unavailable("source", expected="the rest of the file", got="a cut line")


@dataclass(slots=True)
class DeadSource:
    """Cannot be reached."""

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Raise Unavailable at the first piece, as a real source does."""
        yield from ()
        raise Unavailable("source", expected="an answer", got=f"no route for {path}")
