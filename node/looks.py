"""When fetch reads its TLS files again: once one of them is another, and now and then anyway.

To read them all costs as much as to take a release of a few files; to look at their dates, nothing.
"""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from node.paths import Paths

_ANYWAY_SECONDS = 30.0
Stamp: TypeAlias = tuple[int, ...]


class Looks:
    """Says whether what was read last still is what the files say."""

    def __init__(self, paths: Paths) -> None:
        self._files = (
            paths.tls_bundle, paths.tls_denials, paths.tls_chain, paths.tls_key, paths.renewed,
            paths.boot_cert, paths.enrolled, paths.gateway_issuer,
        )  # fmt: skip
        self._found = self._read = tuple[Stamp, ...]()
        self._ends, self._at = 0.0, 0.0

    def is_due(self, now: datetime) -> bool:
        """Return whether the files are to be read: one changed, the certificate that is shown has
        ended by `now`, or they were not read for some time.
        """
        # Before they are read: what changes meanwhile is seen at the next look.
        self._found = tuple(stamp(file) for file in self._files)
        return (
            self._found != self._read
            or now.timestamp() >= self._ends
            or time.monotonic() - self._at >= _ANYWAY_SECONDS
        )

    def done(self, *, ends: int) -> None:
        """All of them were read, and hold. ends: when the certificate that is shown ends."""
        self._read, self._ends, self._at = self._found, ends, time.monotonic()


def stamp(path: Path) -> Stamp:
    """Return what differs once the file at `path` was replaced or written to."""
    try:
        found = path.stat()
    except OSError as problem:
        return (problem.errno or 0,)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
