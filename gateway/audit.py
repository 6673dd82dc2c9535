"""The audit journal: every act, its intent before and its outcome after, in one hash chain.

Two sinks, a table and an append-only file; when either cannot be written nothing is signed,
opened or dialled. A record is one line of canonical JSON; the next one names its SHA-256.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import func, insert, select
from sqlalchemy.orm import aliased

from embrasure import limits
from embrasure.clock import Clock, now, write_time
from embrasure.errors import Damaged, EmbrasureError, Failed, shown
from embrasure.trust import canonical as form
from gateway import tables
from gateway.database import Database
from gateway.records import FILE, Event, Fact, Head, follow_chain, parse_event
from gateway.records import verify_file as verify_file

RESERVE = "audit.reserve"


def _clean(value: Fact) -> Fact:
    """Facts are shown to people later: text is escaped and cut before it is hashed."""
    if isinstance(value, str):
        return shown(value, limits.COMMENT_CHARACTERS)
    if isinstance(value, list | tuple):
        return [shown(item) for item in value[: limits.LIST_ROWS]]
    return value


class Journal:
    """The open journal of one gateway.

    folder: 0700. Raises Damaged when file and table tell different stories: then a person looks
    before anything else is signed.
    """

    def __init__(
        self, folder: Path, database: Database, *, root: str, actor: str, clock: Clock = now
    ) -> None:
        self._folder, self._database, self._clock = folder, database, clock
        self._root, self._actor = root, actor
        self._lock = threading.Lock()
        self._broken = False
        self._file = os.open(
            folder / FILE,
            os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
        try:
            self._head = self._recover()
            self._reserve()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        self._broken = True
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def head(self) -> Head:
        """Number and hash of the last record."""
        return self._head

    def intent(
        self, act: str, key: str, *, actor: str = "", stop: bool = False, **facts: Fact
    ) -> int:
        """Return the number of a record, safe on disk, that `act` is about to be tried.

        key: what makes the act one act (repeating it is harmless); actor: SPIFFE path of the
        person, default this gateway; stop: a stop may use the reserve of a full disk.
        """
        return self._write("intent", act, key, actor=actor, stop=stop, facts=facts)

    def outcome(
        self, n: int, result: str, *, reason: str = "", stop: bool = False, **facts: Fact
    ) -> None:
        """Record how intent `n` ended."""
        begun = self._event(n)
        self._write(
            "outcome",
            begun.act,
            begun.key,
            actor=begun.actor,
            of=n,
            result=result,
            reason=reason,
            stop=stop,
            facts=facts,
        )

    def note(
        self, act: str, key: str, *, result: str, actor: str = "", reason: str = "", **facts: Fact
    ) -> int:
        """Record what needs no intent: a refused attempt, something seen."""
        return self._write("note", act, key, actor=actor, result=result, reason=reason, facts=facts)

    @contextmanager
    def act(
        self, act: str, key: str, *, actor: str = "", stop: bool = False, **facts: Fact
    ) -> Iterator[None]:
        """Record the intent, run the block, record how it ended; its error passes through."""
        n = self.intent(act, key, actor=actor, stop=stop, **facts)
        try:
            yield
        except EmbrasureError as problem:
            self.outcome(n, "refused", reason=f"{problem} [{problem.word}]", stop=stop)
            raise
        except BaseException as problem:
            self.outcome(n, "error", reason=type(problem).__name__, stop=stop)
            raise
        self.outcome(n, "ok", stop=stop)

    def open_intents(self) -> list[Event]:
        """Return the intents without an outcome, oldest first: what a crash left undecided."""
        begun, ended = aliased(tables.events), aliased(tables.events)
        query = (
            select(begun.c.line)
            .outerjoin(ended, (ended.c.of == begun.c.n))
            .where(begun.c.phase == "intent", ended.c.n.is_(None))
            .order_by(begun.c.n)
        )
        return [parse_event(row.line) for row in self._database.all(query)]

    def lines(self, since: int, limit: int = limits.LIST_ROWS) -> list[bytes]:
        """Return the records after number `since`, oldest first."""
        row = tables.events.c
        query = select(row.line).where(row.n > since).order_by(row.n).limit(limit)
        return [bytes(found.line) for found in self._database.all(query)]

    def _event(self, n: int) -> Event:
        row = tables.events.c
        found = self._database.first(select(row.line).where(row.n == n))
        if found is None:
            raise Damaged("audit journal", expected=f"record {n}", got="none")
        return parse_event(found.line)

    def _write(
        self,
        phase: str,
        act: str,
        key: str,
        *,
        actor: str,
        facts: Mapping[str, Fact],
        of: int = 0,
        result: str = "",
        reason: str = "",
        stop: bool = False,
    ) -> int:
        with self._lock:
            if self._broken:
                raise self._unwritable("an earlier write failed")
            event = {
                "v": 1,
                "type": "audit",
                "root": self._root,
                "n": self._head.n + 1,
                "prev": self._head.sha256,
                "at": write_time(self._clock()),
                "phase": phase,
                "of": of,
                "actor": actor or self._actor,
                "act": act,
                "key": key,
                "result": result,
                "reason": shown(reason, limits.COMMENT_CHARACTERS),
                "facts": {name: _clean(value) for name, value in sorted(facts.items())},
            }
            line = form.canonical(event)
            parse_event(line)
            try:
                self._store(event["n"], of, phase, line)
            except (OSError, Failed) as problem:
                if not stop or not self._free_reserve():
                    raise self._unwritable(str(problem)) from None
                self._store(event["n"], of, phase, line)
            self._head = Head(self._head.n + 1, form.sha256_hex(line))
            return self._head.n

    def _store(self, n: object, of: int, phase: str, line: bytes) -> None:
        """Both sinks or none: the row is committed only after the line is safe on disk."""
        size = os.fstat(self._file).st_size
        try:
            with self._database.write() as connection:
                connection.execute(insert(tables.events).values(n=n, of=of, phase=phase, line=line))
                append(self._file, line + b"\n")
        except BaseException:
            # The line may be there without its row: take it back, or stop writing for good.
            try:
                os.ftruncate(self._file, size)
                os.fsync(self._file)
            except OSError:
                self._broken = True
            raise

    def _unwritable(self, got: str) -> Failed:
        return Failed(
            "audit journal",
            expected="to write the record first",
            got=got,
            untouched="nothing was signed, opened or dialled",
            hint="make room on the gateway's disk, then start it again",
            reason="audit",
        )

    def _recover(self) -> Head:
        """Return the head after making file and table equal; raises Damaged when they differ.

        A line cut short, or the last whole line without its row, is what a crash leaves. A row
        without its line is not: the file was changed.
        """
        head, last = follow_chain(self._whole_lines(), root=self._root)
        stored = self._database.first(select(func.count()).select_from(tables.events))
        rows = 0 if stored is None else int(stored[0])
        if head.n == rows + 1:
            self._adopt(last)
            rows += 1
        row = self.lines(max(head.n - 1, 0), 1)
        if rows != head.n or (rows and row != [last]):
            raise Damaged(
                "audit journal",
                expected=f"the file to hold the {rows} records of the table",
                got=f"{head.n}",
                untouched="nothing was signed, opened or dialled",
                hint="compare with `embrasure audit verify` and the heads operators hold",
                reason="audit",
            )
        return head

    def _whole_lines(self) -> Iterator[bytes]:
        """Yield the file's lines; what a crash cut short at its end is taken off."""
        size = 0
        with (self._folder / FILE).open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    os.ftruncate(self._file, size)
                    os.fsync(self._file)
                    return
                size += len(line)
                yield line[:-1]

    def _adopt(self, line: bytes) -> None:
        event = parse_event(line)
        with self._database.write() as connection:
            connection.execute(
                insert(tables.events).values(n=event.n, of=event.of, phase=event.phase, line=line)
            )

    def _reserve(self) -> None:
        """Hold space, so that a full disk cannot prevent a stop."""
        with suppress(OSError):
            path = self._folder / RESERVE
            held = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(held, 0, limits.AUDIT_RESERVE_BYTES)
            finally:
                os.close(held)

    def _free_reserve(self) -> bool:
        """Give the held space up; return whether there was some."""
        try:
            (self._folder / RESERVE).unlink()
        except OSError:
            return False
        return True


def append(descriptor: int, data: bytes) -> None:
    """Return only when `data` is at the end of the file and safe on disk; raises OSError."""
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)
