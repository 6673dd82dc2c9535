"""The gateway's database: SQLite, crash-safe, one process at a time.

A writer holds the database for one short transaction; nothing waits for the network inside one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, create_engine, event, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from embrasure import fs, limits
from embrasure.errors import Damaged, EmbrasureError, Failed
from gateway import tables

FILE = "gateway.sqlite"


def _prepare(connection: Any, _record: object) -> None:
    # The driver's own BEGIN is deferred and would let two readers both become writers.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "trusted_schema=OFF",
        "busy_timeout=5000",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


class Database:
    """An open database; closing it lets another process in.

    folder: 0700; holds `gateway.sqlite` and `lock`.
    """

    def __init__(self, folder: Path, *, wait_s: float = limits.LOCK_SECONDS) -> None:
        """Raises Unavailable (`busy`) when another gateway runs here, Damaged, Failed."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._held = ExitStack()
        self._held.enter_context(fs.lock(folder / "lock", seconds=wait_s))
        self._writer = threading.RLock()
        self._writing = False
        try:
            path = folder / FILE
            path.touch(mode=0o600)
            self._engine = _engine(path)
            self._held.callback(self._engine.dispose)
            self._migrate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file and its lock; safe to call twice."""
        self._held.close()

    def _migrate(self) -> None:
        """Make the tables, or return only when they are of the version this program knows."""
        with self.write() as connection:
            tables.schema.create_all(connection)
            row = tables.meta.c
            found = connection.scalar(select(row.value).where(row.name == "schema"))
            if found is None:
                connection.execute(
                    insert(tables.meta).values(name="schema", value=str(tables.SCHEMA_VERSION))
                )
            elif found != str(tables.SCHEMA_VERSION):
                raise Damaged(
                    "gateway database",
                    expected=f"schema {tables.SCHEMA_VERSION}",
                    got=found,
                    hint="run the embrasure version that wrote it",
                )

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection that alone may write; commit at the end, or undo everything.

        Not nestable. IntegrityError passes through (a unique row exists); other database errors
        become Failed (`database`).
        """
        with self._writer:
            if self._writing:
                raise RuntimeError("a write transaction inside a write transaction")
            self._writing = True
            try:
                with _typed(), self._engine.connect() as plain:
                    connection = plain.execution_options(writing=True)
                    with connection.begin():
                        yield connection
            finally:
                self._writing = False

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection that sees one consistent state."""
        with _typed(), self._engine.connect() as connection:
            yield connection

    def all(self, query: Select[Any]) -> list[Row[Any]]:
        """Return every row of `query`, read in one consistent state."""
        with self.read() as connection:
            return list(connection.execute(query))

    def first(self, query: Select[Any]) -> Row[Any] | None:
        """Return the first row of `query`, or None."""
        with self.read() as connection:
            return connection.execute(query).first()

    @staticmethod
    def take(connection: Connection, name: str, *, at_least: int = 0) -> int:
        """Return a number of this name that was never returned before; numbers only rise.

        connection: of `write`, so that the number is taken with what it is taken for.
        """
        row = tables.numbers.c
        found = connection.scalar(select(row.value).where(row.name == name))
        value = max(0 if found is None else int(found) + 1, at_least, 1)
        if found is None:
            connection.execute(insert(tables.numbers).values(name=name, value=value))
        else:
            connection.execute(update(tables.numbers).where(row.name == name).values(value=value))
        return value

    def number(self, name: str) -> int:
        """Return the last number taken under `name`, 0 if none was."""
        row = self.first(select(tables.numbers.c.value).where(tables.numbers.c.name == name))
        return 0 if row is None else int(row.value)


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except (IntegrityError, EmbrasureError):
        raise
    except SQLAlchemyError as problem:
        # The driver's text only: statements may carry documents.
        cause = getattr(problem, "orig", None) or problem
        raise Failed(
            "gateway database",
            expected="to read and write it",
            got=cause,
            untouched="the transaction was undone",
            hint="check the disk of the gateway's folder",
            reason="database",
        ) from None
