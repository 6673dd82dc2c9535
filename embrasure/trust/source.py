"""Where files come from: a gateway's stream, a mirror, a folder. A source is always untrusted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Source(Protocol):
    """Answers for repository paths (`layout.parse_file`)."""

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` on, in pieces of at most limits.MESSAGE_BYTES.

        limit: most bytes that may be yielded; a source that has more raises Refused (`limit`).
        Raises NotFound when there is no such file, Unavailable when asking again may help.
        """
        ...
