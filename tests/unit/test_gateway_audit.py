"""The audit journal: intent before, outcome after, one chain that shows every change."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from embrasure.errors import Damaged, Failed, Refused
from gateway import audit, tables
from gateway.audit import Journal
from gateway.database import Database
from gateway.records import FIRST, Head, check_chain, follow_chain, parse_event, verify_file
from tests.ablation import Ablation

ROOT = "ab" * 32


def clock() -> datetime:
    return datetime(2026, 3, 1, tzinfo=UTC)


def journal_in(folder: Path, database: Database) -> Journal:
    return Journal(folder, database, root=ROOT, actor="gateway/g1", clock=clock)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def journal(tmp_path: Path, database: Database) -> Iterator[Journal]:
    opened = journal_in(tmp_path, database)
    yield opened
    opened.close()


def test_every_record_is_in_both_sinks_before_the_call_returns(
    journal: Journal, tmp_path: Path
) -> None:
    n = journal.intent("publish", "snapshot:4", version=4)
    journal.outcome(n, "ok")
    lines = (tmp_path / "audit.jsonl").read_bytes().splitlines()
    assert lines == journal.lines(0)
    assert [parse_event(line).phase for line in lines] == ["intent", "outcome"]
    assert parse_event(lines[1]).of == n
    assert check_chain(lines, root=ROOT) == journal.head == Head(2, journal.head.sha256)


def test_an_intent_without_outcome_is_open_also_after_a_restart(
    tmp_path: Path, database: Database
) -> None:
    first = journal_in(tmp_path, database)
    done = first.intent("publish", "a")
    first.intent("order", "b", actor="operator/anna", node="n-1")
    first.outcome(done, "ok")
    first.close()
    again = journal_in(tmp_path, database)
    (left,) = again.open_intents()
    assert (left.act, left.key, left.actor, left.facts) == (
        "order",
        "b",
        "operator/anna",
        {"node": "n-1"},
    )
    assert again.head.n == 3
    again.close()


def test_a_line_cut_by_a_crash_is_dropped_and_a_whole_one_is_kept(
    tmp_path: Path, database: Database
) -> None:
    first = journal_in(tmp_path, database)
    first.note("seen", "1", result="ok")
    first.note("seen", "2", result="ok")
    first.close()
    # The crash fell after the line was safe and before its row was committed.
    with database.write() as connection:
        connection.execute(delete(tables.events).where(tables.events.c.n == 2))
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b'{"act":"half')
    again = journal_in(tmp_path, database)
    assert again.head.n == 2
    assert len(again.lines(0)) == 2
    again.note("seen", "3", result="ok")
    again.close()
    assert verify_file(tmp_path / "audit.jsonl", root=ROOT).n == 3


@pytest.mark.parametrize("change", ["byte", "tail", "line", "row", "rows"])
def test_a_changed_journal_stops_the_gateway(
    change: str, tmp_path: Path, database: Database
) -> None:
    first = journal_in(tmp_path, database)
    for number in range(3):
        first.note("seen", str(number), result="ok")
    first.close()
    path = tmp_path / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "byte":
        path.write_bytes(lines[0].replace(b'"result":"ok"', b'"result":"no"') + b"".join(lines[1:]))
    elif change == "tail":
        path.write_bytes(b"".join(lines[:-1]))
    elif change == "line":
        path.write_bytes(lines[0] + lines[2])
    else:
        with database.write() as connection:
            if change == "row":
                row = tables.events.c.n == 3
                connection.execute(update(tables.events).where(row).values(line=lines[0]))
            else:
                connection.execute(delete(tables.events).where(tables.events.c.n > 1))
    with pytest.raises((Damaged, Refused)) as caught:
        journal_in(tmp_path, database)
    assert caught.value.reason == "audit"


@pytest.mark.misuse
def test_without_the_chain_check_a_changed_byte_would_go_unseen(
    tmp_path: Path, database: Database, ablation: Ablation
) -> None:
    first = journal_in(tmp_path, database)
    first.note("seen", "1", result="ok")
    first.note("seen", "2", result="ok")
    first.close()
    path = tmp_path / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0].replace(b'"result":"ok"', b'"result":"no"') + lines[1])
    with pytest.raises((Damaged, Refused)):
        journal_in(tmp_path, database)
    with ablation("the chain of digests") as attack:
        attack.without(
            "gateway.audit.follow_chain", lambda lines, **_: (Head(2, "0" * 64), [*lines][-1])
        )
        journal_in(tmp_path, database).close()
        attack.succeeded(b'"result":"no"' in path.read_bytes())


def test_a_head_seen_before_shows_a_lost_tail_and_a_fork(journal: Journal, tmp_path: Path) -> None:
    journal.note("seen", "1", result="ok")
    held = journal.head
    journal.note("seen", "2", result="ok")
    path = tmp_path / "audit.jsonl"
    assert verify_file(path, root=ROOT, held=held) == journal.head
    with pytest.raises(Refused, match="seen before"):
        verify_file(path, root=ROOT, held=Head(2, "0" * 64))
    other = tmp_path / "short"
    other.write_bytes(b"")
    with pytest.raises(Refused, match="seen before"):
        verify_file(other, root=ROOT, held=held)
    assert verify_file(other, root=ROOT) == FIRST


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_cannot_be_written_is_not_done_and_leaves_no_trace(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.note("seen", "1", result="ok")
    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", no_space)
        with pytest.raises(Failed) as caught:
            journal.intent("publish", "x")
    assert caught.value.reason == "audit"
    assert len(journal.lines(0)) == journal.head.n == 1
    journal.intent("publish", "x")  # room again: the chain goes on
    assert journal.head.n == 2


def test_a_full_disk_does_not_prevent_a_stop(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = tmp_path / "audit.reserve"
    assert reserve.stat().st_size == reserve.stat().st_blocks * 512 == 1024 * 1024
    whole = audit.append

    def full_while_reserved(descriptor: int, data: bytes) -> None:
        if reserve.exists():
            no_space()
        whole(descriptor, data)

    monkeypatch.setattr(audit, "append", full_while_reserved)
    with pytest.raises(Failed):
        journal.intent("gate", "open wave 1")
    n = journal.intent("gate", "pause", stop=True)
    journal.outcome(n, "ok", stop=True)
    assert not reserve.exists()


def test_outside_text_is_escaped_before_it_is_kept(journal: Journal) -> None:
    journal.note("refused", "x", result="denied", reason="\x1b[31mred\u202e", text="a\nb")
    event = parse_event(journal.lines(0)[0])
    assert event.reason == "\\x1b[31mred\\u202e"
    assert event.facts["text"] == "a\\nb"


@pytest.mark.parametrize("actor", ["anna", "operator/", "operator/../x", "Operator/anna"])
def test_an_actor_is_a_role_and_a_name(journal: Journal, actor: str) -> None:
    with pytest.raises(Refused):
        journal.note("seen", "x", result="ok", actor=actor)
    assert journal.head == FIRST


def test_the_quick_walk_and_the_strict_one_agree(journal: Journal) -> None:
    for number in range(5):
        journal.note("seen", str(number), result="ok")
    lines = journal.lines(0)
    assert follow_chain(lines, root=ROOT) == (check_chain(lines, root=ROOT), lines[-1])
    for bad in ([*lines[:2], *lines[3:]], [b"{}", *lines], [lines[1]], [*lines, b"no json"]):
        with pytest.raises(Refused):
            follow_chain(bad, root=ROOT)
        with pytest.raises(Refused):
            check_chain(bad, root=ROOT)
