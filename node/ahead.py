"""What came along with an order: files that it makes the node want, and words that there is none.

Each answers the first question for its path, once and for seconds, as an answer to that question
would: untrusted, and verified as whatever a source gives.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta

from embrasure import limits
from embrasure.trust.documents import Base64, Document
from embrasure.trust.pace import Ticks


class Ahead(Document, frozen=True, kw_only=True):
    """A whole file, or that the source has none. body: in base64, empty when there is none."""

    path: Annotated[str, Meta(max_length=400)]
    absent: bool
    body: Base64


Many = Annotated[tuple[Ahead, ...], Meta(max_length=limits.AHEAD_FILES)]


class Held:
    """What came along and was not asked for yet, for `limits.FORETOLD_SECONDS`: whoever sent it
    would have said the same when asked, and no longer.
    """

    def __init__(self, ticks: Ticks = time.monotonic) -> None:
        self._ticks = ticks
        self._files: dict[str, Ahead] = {}
        self._until = 0.0

    def keep(self, files: Iterable[Ahead]) -> None:
        """The files came just now."""
        self._files = {file.path: file for file in files}
        self._until = self._ticks() + limits.FORETOLD_SECONDS

    def take(self, path: str) -> Ahead | None:
        """Return what came for `path`, None for nothing; it is never returned again."""
        found = self._files.pop(path, None)
        return found if found is not None and self._ticks() <= self._until else None
