"""One state record for each app: the next state is on disk before its first action.

Kept here: a node is never left between two releases, because what it was doing survives a crash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from embrasure import limits
from embrasure.aside import set_aside
from embrasure.errors import EmbrasureError, NotFound, Refused
from embrasure.fs import Folder
from embrasure.trust.documents import Digest, Document, digest, read, write
from node.paths import Paths
from node.states import Record

BALLAST = "ballast"


_READ = (".json", ".prev")


class Line(Document, frozen=True, kw_only=True):
    """A record with the SHA-256 of its own bytes: half a write is never taken for a state."""

    record: Record
    sum: Digest


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal holds of one app. damaged: there is something, and it is no record."""

    record: Record | None
    damaged: bool = False


@lru_cache(maxsize=limits.RECORDS_KEPT)
def parse_line(raw: bytes) -> Record:
    """Return the record in `raw`; raises Refused for any other bytes.

    The same bytes are parsed once: a node that finds nothing new reads them at each look.
    """
    line = read(raw, Line, limit=limits.JOURNAL_BYTES, document="journal record")
    if digest(line.record) != line.sum:
        raise Refused("journal record", expected="its own digest", got=line.sum, reason="bad-hash")
    return line.record


def write_line(record: Record) -> bytes:
    """Return the one byte string of `record` and its digest."""
    return write(Line(record=record, sum=digest(record)))


class Journal:
    """The records below one folder, one writer for each app (its lock)."""

    def __init__(self, paths: Paths) -> None:
        self._folder = paths.journal

    def read(self, app: str) -> Entry:
        """Return the newest readable record; the one before it when a crash tore the last step."""
        with Folder.open(self._folder) as folder:
            damaged = False
            for name in (f"{app}.json", f"{app}.prev"):
                try:
                    record = parse_line(folder.read(name, limit=limits.JOURNAL_BYTES))
                except NotFound:
                    continue
                except EmbrasureError:
                    damaged = True
                    continue
                # A record under the name of another app is no record of this one.
                if record.app == app:
                    return Entry(record)
                damaged = True
            return Entry(None, damaged)

    def records(self) -> list[Record]:
        """Return the record of every app that has one that can be read."""
        with Folder.open(self._folder) as folder:
            apps = {name.rpartition(".")[0] for name in folder.list() if name.endswith(_READ)}
        found = (self.read(app).record for app in sorted(apps))
        return [record for record in found if record is not None]

    def write(self, record: Record) -> None:
        """`record` is the state of its app, on disk, and the one before it is kept beside it.

        A way back must always be writable: see `with_room`.
        """
        raw = write_line(record)

        def put() -> None:
            with Folder.open(self._folder) as folder:
                self._put(folder, record.app, raw)

        self.with_room(put)

    def with_room(self, work: Callable[[], None]) -> None:
        """`work` is done; when the disk has no room for it, the ballast goes and it is done again.

        Only for what a way back needs: a record, a link, a floor.
        """
        try:
            work()
        except EmbrasureError as problem:
            if problem.reason != "no-space" or not self._give_up_ballast():
                raise
            work()

    def _give_up_ballast(self) -> bool:
        with Folder.open(self._folder) as folder:
            if not folder.has(BALLAST):
                return False
            folder.unlink(BALLAST)
            folder.fsync()
            return True

    def _put(self, folder: Folder, app: str, raw: bytes) -> None:
        current, before, fresh = f"{app}.json", f"{app}.prev", f"{app}.next"
        try:
            folder.write(fresh, [raw], mode=0o600, synced=True)
        except Refused as problem:
            if problem.reason != "exists":
                raise
            set_aside(folder, fresh)  # what a crash left, or no file at all
            folder.unlink(fresh, missing_ok=True)
            folder.write(fresh, [raw], mode=0o600, synced=True)
        set_aside(folder, before)
        # Between the two renames only `.prev` is there: the state whose work is all done.
        if set_aside(folder, current):
            folder.rename(current, folder, before, replace=True)
        folder.rename(fresh, folder, current)
        folder.fsync()

    def set_aside(self, app: str) -> None:
        """What cannot be read is kept as `.broken` for a person, and is no record any more."""
        with Folder.open(self._folder) as folder:
            for name in (f"{app}.json", f"{app}.prev"):
                if folder.has(name):
                    folder.rename(name, folder, f"{name}.broken", replace=True)
            folder.fsync()

    def keep_ballast(self) -> None:
        """The ballast is there, if the disk takes it: one that is full or read-only may not."""
        with contextlib.suppress(EmbrasureError), Folder.open(self._folder) as folder:
            if not folder.has(BALLAST):
                folder.create(BALLAST, b"\xff" * limits.BALLAST_BYTES)
