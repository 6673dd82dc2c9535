"""The gateway's database: short transactions, numbers that only rise, one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError

from embrasure.errors import Damaged, Failed, Unavailable
from gateway import tables
from gateway.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "state")
    yield opened
    opened.close()


def proposal(**changes: object) -> dict[str, object]:
    return {
        "id": "a" * 16,
        "env": "prod",
        "app": "shop",
        "plan_digest": "a" * 64,
        "seq": 1,
        "role_version": 1,
        "role_sha256": "b" * 64,
        "manifest_digest": "c" * 64,
        "proposer": "anna",
        "state": tables.PENDING,
        "role": b"role",
        "plan": b"plan",
        "approve_by": "2026-01-02T00:00:00Z",
        "not_after": "2026-01-03T00:00:00Z",
        "created": "2026-01-01T00:00:00Z",
        "updated": "2026-01-01T00:00:00Z",
    } | changes


def test_a_second_process_is_kept_out_and_let_in_after_close(tmp_path: Path) -> None:
    first = Database(tmp_path / "state")
    with pytest.raises(Unavailable, match="lock"):
        Database(tmp_path / "state", wait_s=0.05)
    first.close()
    Database(tmp_path / "state", wait_s=0.05).close()


def test_the_file_is_crash_safe_and_private(database: Database, tmp_path: Path) -> None:
    with database.read() as connection:
        pragmas = [
            connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]
    assert (tmp_path / "state" / "gateway.sqlite").stat().st_mode & 0o777 == 0o600


def test_numbers_are_never_given_twice_also_after_a_restart(tmp_path: Path) -> None:
    first = Database(tmp_path)
    with first.write() as connection:
        assert [first.take(connection, "oseq:n") for _ in range(3)] == [1, 2, 3]
        assert first.take(connection, "oseq:n", at_least=10) == 10
        assert first.take(connection, "oseq:n", at_least=5) == 11
    first.close()
    again = Database(tmp_path)
    assert again.number("oseq:n") == 11
    assert again.number("oseq:other") == 0
    again.close()


def test_a_transaction_that_raises_changes_nothing(database: Database) -> None:
    with pytest.raises(ValueError, match="stop"), database.write() as connection:
        database.take(connection, "x")
        raise ValueError("stop")
    assert database.number("x") == 0


def test_a_write_inside_a_write_is_a_bug_not_a_deadlock(database: Database) -> None:
    with database.write(), pytest.raises(RuntimeError, match="inside"), database.write():
        pass


def test_another_schema_version_stops_the_gateway(tmp_path: Path) -> None:
    first = Database(tmp_path)
    with first.write() as connection:
        connection.execute(update(tables.meta).values(value="99"))
    first.close()
    with pytest.raises(Damaged, match="schema"):
        Database(tmp_path)


def test_one_open_plan_of_an_app_and_one_waiting_proposal_of_a_person(database: Database) -> None:
    def add(**changes: object) -> None:
        with database.write() as connection:
            connection.execute(insert(tables.proposals).values(**proposal(**changes)))

    add()
    second: dict[str, object] = {"id": "b" * 16, "plan_digest": "b" * 64, "role_version": 2}
    with pytest.raises(IntegrityError):
        add(**second, proposer="bea")
    with pytest.raises(IntegrityError):
        add(**second, app="blog")
    add(**second, app="blog", proposer="bea")
    with database.write() as connection:
        connection.execute(
            update(tables.proposals)
            .where(tables.proposals.c.app == "shop")
            .values(state=tables.REJECTED)
        )
    third: dict[str, object] = {"id": "d" * 16, "plan_digest": "d" * 64}
    with pytest.raises(IntegrityError):
        add(**third)  # role version 1 of this app is burnt
    add(**third, role_version=3)


def test_a_state_nobody_knows_is_not_stored(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(insert(tables.proposals).values(**proposal(state="blessed")))


def test_database_errors_are_typed_and_show_no_statement(database: Database) -> None:
    with pytest.raises(Failed) as caught, database.write() as connection:
        connection.execute(text("SELECT secret_column FROM nowhere"))
    assert caught.value.reason == "database"
    assert "secret_column" not in str(caught.value)


def test_reads_see_one_state_while_a_writer_works(database: Database) -> None:
    with database.read() as reader:
        rows = select(tables.numbers.c.value)
        assert reader.execute(rows).all() == []
        with database.write() as connection:
            database.take(connection, "x")
        assert reader.execute(rows).all() == []
    assert len(database.all(rows)) == 1
