"""What a source says that it has not before anybody asks: an answer to the very next question."""

from __future__ import annotations

import time

from embrasure import limits
from embrasure.trust.pace import Ticks


class Foretold:
    """The one path that a source said it has not. It counts for the next question alone, and for
    `limits.FORETOLD_SECONDS`: who has it would say the same when he is asked, and no longer.
    """

    def __init__(self, ticks: Ticks = time.monotonic) -> None:
        self._ticks = ticks
        self._path, self._until = "", 0.0

    def keep(self, path: str) -> None:
        """The source said just now that it has no file `path`; empty: it said nothing."""
        self._path, self._until = path, self._ticks() + limits.FORETOLD_SECONDS

    def take(self) -> str:
        """Return the path, empty for none; it is never returned again."""
        path, self._path = self._path, ""
        return path if path and self._ticks() <= self._until else ""
