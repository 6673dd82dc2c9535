"""Roll-outs in the database: rows to plain values and back, each blob checked after it is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select, update

from embrasure import limits
from embrasure.clock import read_time, write_time
from embrasure.errors import Damaged, EmbrasureError, NotFound
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.plan import Plan, parse_plan
from gateway import tables
from gateway.database import Database
from gateway.rollout import Member, Rollout
from gateway.states import ENDED, NODE_STATES, ROLLOUT

_row, _node = tables.rollouts.c, tables.rollout_nodes.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One roll-out as it lies in the database. gseq: the number of the gate it wants published."""

    rollout: Rollout
    plan: Plan
    plan_raw: bytes
    members: tuple[Member, ...]
    gseq: int
    by: str
    created: str
    updated: str
    ended: str

    @property
    def counted(self) -> tuple[Member, ...]:
        """The members that the start has found: only they are judged."""
        return tuple(member for member in self.members if not member.late)

    def member(self, node: str) -> Member:
        """Return the member `node`; raises NotFound."""
        found = next((item for item in self.members if item.node == node), None)
        if found is None:
            raise NotFound(f"node {node}", expected="a member of the roll-out", got="none")
        return found


@lru_cache(maxsize=32)
def _plan(raw: bytes) -> Plan:
    return parse_plan(raw)


def unix(text: str) -> int:
    """Return Unix seconds of a time as `clock` writes it; 0 for the empty text."""
    return int(read_time(text).timestamp()) if text else 0


def text_of(moment: int) -> str:
    """Return a time as `clock` writes it; the empty text for 0."""
    return write_time(datetime.fromtimestamp(moment, UTC)) if moment else ""


def find(database: Database, name: str) -> str:
    """Return the id of the roll-out whose plan digest starts with `name` (8 or more digits)."""
    wanted = name.removeprefix("sha256:")
    if 8 <= len(wanted) <= 64 and set(wanted) <= set("0123456789abcdef"):
        found = database.all(select(_row.id).where(_row.plan.startswith(wanted)).limit(2))
        if len(found) == 1:
            return str(found[0].id)
    raise NotFound(
        f"roll-out {name}", expected="8 or more digits of one roll-out", got="none such",
        hint="embrasure rollout list",
    )  # fmt: skip


def load(database: Database, name: str, *, node: str = "") -> Stored:
    """Return the roll-out of this id; raises NotFound, Damaged (`state`, `rows`).

    node: only this member is read, for a fleet has many
    """
    with database.read() as connection:
        row = connection.execute(select(tables.rollouts).where(_row.id == name)).first()
        query = select(tables.rollout_nodes).where(_node.rollout == name).order_by(_node.node)
        query = query.where(_node.node == node) if node else query
        nodes = list(connection.execute(query))
    if row is None:
        raise NotFound(f"roll-out {name}", expected="a known roll-out", got="none")
    try:
        return _stored(row, nodes)
    except (ValueError, TypeError, OverflowError) as problem:
        # Columns are typed by convention only: SQLite keeps any value in any of them.
        raise Damaged(
            f"roll-out {name}", expected="values of its columns' kinds", got=problem,
            reason="rows",
        ) from None  # fmt: skip


def _stored(row: Row[Any], nodes: Sequence[Row[Any]]) -> Stored:
    raw = bytes(row.plan_raw)
    # Whoever writes the database may delay or hide a roll-out, never change what it rolls out.
    if sha256_hex(raw) != row.plan or row.id != row.plan[:16]:
        raise Damaged(f"roll-out {row.id}", expected="its own plan", got="another", reason="rows")
    try:
        plan = _plan(raw)
    except EmbrasureError as problem:
        raise Damaged(f"roll-out {row.id}", expected="a plan", got=problem, reason="rows") from None
    members = tuple(_member(found) for found in nodes)
    if row.state not in ROLLOUT or not 0 <= row.open_wave < len(plan.waves):
        raise Damaged(f"roll-out {row.id}", expected="a known state", got=row.state,
                      reason="state")  # fmt: skip
    return Stored(
        rollout=Rollout(
            id=row.id,
            env=row.env,
            app=row.app,
            plan=row.plan,
            seq=row.seq,
            state=row.state,
            reason=row.reason,
            returns_to=row.returns_to,
            open_wave=row.open_wave,
            attempt=row.attempt,
            gate_state=row.gate_state,
            wave_since=unix(row.wave_since),
            blocked_since=unix(row.blocked_since),
        ),
        plan=plan,
        plan_raw=raw,
        members=members,
        gseq=row.gseq,
        by=row.by,
        created=row.created,
        updated=row.updated,
        ended=row.ended,
    )


def _member(row: Row[Any]) -> Member:
    if row.state not in NODE_STATES:
        raise Damaged(f"node {row.node}", expected="a known state", got=row.state, reason="state")
    return Member(
        node=row.node,
        wave=row.wave,
        mode=row.mode,
        state=row.state,
        reason=row.reason,
        attempt=row.attempt,
        dials=row.dials,
        reached=row.reached,
        oseq=row.oseq,
        late=row.late,
        changed=unix(row.changed),
    )


def open_ids(database: Database) -> list[str]:
    """Return the roll-outs that have not ended, oldest first."""
    return _ids(database, select(_row.id).where(_row.ended == "").order_by(_row.created))


def newest_ended_ids(database: Database) -> list[str]:
    """Return each app's newest roll-out if it has ended: its last gate is the app's gate."""
    newest = (
        select(_row.env, _row.app, func.max(_row.seq).label("seq"))
        .group_by(_row.env, _row.app)
        .subquery()
    )
    same = (_row.env == newest.c.env) & (_row.app == newest.c.app) & (_row.seq == newest.c.seq)
    return _ids(database, select(_row.id).join(newest, same).where(_row.ended != ""))


def open_of(database: Database, env: str, app: str) -> str | None:
    """Return the open roll-out of an app, or None."""
    found = _ids(
        database, select(_row.id).where(_row.env == env, _row.app == app, _row.ended == "")
    )
    return found[0] if found else None


def running_in(database: Database, env: str) -> int:
    """Return how many roll-outs of an environment are open."""
    return len(_ids(database, select(_row.id).where(_row.env == env, _row.ended == "")))


def _ids(database: Database, query: Select[Any]) -> list[str]:
    return [str(row[0]) for row in database.all(query)]


def counts_of(database: Database, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return, for each roll-out, how many counted members are in each state."""
    query = (
        select(_node.rollout, _node.state, func.count().label("number"))
        .where(_node.rollout.in_(names), _node.late.is_(False))
        .group_by(_node.rollout, _node.state)
        .order_by(_node.state)
    )
    found: dict[str, dict[str, int]] = {}
    for row in database.all(query):
        found.setdefault(row.rollout, {})[row.state] = row.number
    return found


def exists(database: Database, name: str) -> bool:
    """Return whether a roll-out of this id was ever started."""
    return bool(_ids(database, select(_row.id).where(_row.id == name)))


def insert_new(connection: Connection, stored: Stored, *, gseq: int) -> None:
    """The roll-out and its members are rows; IntegrityError when the app has an open one."""
    connection.execute(
        insert(tables.rollouts).values(
            plan_raw=stored.plan_raw,
            by=stored.by,
            manual=False,
            created=stored.created,
            **_values(stored.rollout, gseq=gseq, at=stored.created),
        )
    )
    insert_members(connection, stored.rollout.id, stored.members)


def insert_members(connection: Connection, rollout: str, members: Iterable[Member]) -> None:
    """These members are rows too."""
    for member in members:
        connection.execute(
            insert(tables.rollout_nodes).values(rollout=rollout, **_node_values(member))
        )


def save(
    connection: Connection,
    rollout: Rollout,
    members: Iterable[Member],
    *,
    at: str,
    gseq: int,
) -> None:
    """The rows say this; events for whoever watches are written with them."""
    before = connection.execute(select(_row.state).where(_row.id == rollout.id)).scalar_one()
    connection.execute(
        update(tables.rollouts)
        .where(_row.id == rollout.id)
        .values(**_values(rollout, gseq=gseq, at=at))
    )
    for member in members:
        save_member(connection, rollout.id, member, at=at)
    note(connection, rollout.id, at, kind="rollout", state=rollout.state, reason=rollout.reason,
         wave=rollout.open_wave, was=before)  # fmt: skip


def save_member(connection: Connection, rollout: str, member: Member, *, at: str) -> None:
    """The row of one member says this; a new state is an event."""
    mine = (_node.rollout == rollout) & (_node.node == member.node)
    before = connection.execute(select(_node.state, _node.reason).where(mine)).one()
    connection.execute(update(tables.rollout_nodes).where(mine).values(**_node_values(member)))
    if tuple(before) != (member.state, member.reason):
        note(connection, rollout, at, kind="node", node=member.node, wave=member.wave,
             state=member.state, reason=member.reason, was=before[0])  # fmt: skip


def note(connection: Connection, rollout: str, at: str, **event: str | int) -> None:
    """One more event for whoever watches this roll-out."""
    connection.execute(
        insert(tables.rollout_events).values(
            rollout=rollout, at=at, event=json.dumps(event, sort_keys=True)
        )
    )


def events_after(database: Database, rollout: str, after: int) -> list[Mapping[str, object]]:
    """Return the events of a roll-out after number `after`, oldest first."""
    row = tables.rollout_events.c
    query = (
        select(tables.rollout_events)
        .where(row.rollout == rollout, row.n > after)
        .order_by(row.n)
        .limit(limits.COLLECT_POSTS)
    )
    return [{"n": e.n, "at": e.at, **json.loads(e.event)} for e in database.all(query)]


def move(
    connection: Connection, rollout: Rollout, old: Member, new: Member, *, at: str, now: int
) -> None:
    """`old` is `new` in the rows; a step forward in the open wave renews the wave's time."""
    save_member(connection, rollout.id, new, at=at)
    if new.changed != old.changed and new.wave == rollout.open_wave:
        connection.execute(
            update(tables.rollouts)
            .where(_row.id == rollout.id)
            .values(wave_since=text_of(now), updated=at)
        )


def _values(rollout: Rollout, *, gseq: int, at: str) -> dict[str, object]:
    return {
        "id": rollout.id,
        "env": rollout.env,
        "app": rollout.app,
        "plan": rollout.plan,
        "seq": rollout.seq,
        "state": rollout.state,
        "reason": rollout.reason,
        "returns_to": rollout.returns_to,
        "open_wave": rollout.open_wave,
        "attempt": rollout.attempt,
        "gate_state": rollout.gate_state,
        "gseq": gseq,
        "wave_since": text_of(rollout.wave_since),
        "blocked_since": text_of(rollout.blocked_since),
        "updated": at,
        "ended": at if rollout.state in ENDED else "",
    }


def _node_values(member: Member) -> dict[str, object]:
    return {
        "node": member.node,
        "wave": member.wave,
        "mode": member.mode,
        "state": member.state,
        "reason": member.reason,
        "attempt": member.attempt,
        "dials": member.dials,
        "reached": member.reached,
        "oseq": member.oseq,
        "late": member.late,
        "changed": text_of(member.changed),
    }
