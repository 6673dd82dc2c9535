"""A roll-out as people and programs see it: counts that merge nothing, evidence, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nacl.public import PrivateKey
from sqlalchemy import Row, select

from embrasure.errors import shown
from gateway import rows, tables
from gateway.database import Database
from gateway.gates import Evidence
from gateway.receipts import read_log
from gateway.rollout import Member, Rollout, counts, wave_state
from gateway.rows import Stored
from gateway.states import FAILURES
from gateway.verdict import ending, is_settled


def status(
    stored: Stored,
    evidence: Sequence[Evidence],
    *,
    progress: Mapping[tuple[str, str], tuple[str, int, int]],
    logs: Mapping[str, Mapping[str, str]],
    places: Sequence[Mapping[str, object]],
) -> dict[str, object]:
    """Return the body of `embrasure.rollout.status/1`."""
    rollout, members = stored.rollout, stored.members
    return {
        **summary(rollout, counts(stored.counted)),
        "plan": f"sha256:{rollout.plan}",
        "title": shown(stored.plan.title),
        "manifest": f"sha256:{stored.plan.manifest.sha256}",
        "attempt": rollout.attempt,
        "gate": {"gseq": stored.gseq, "state": rollout.gate_state, "open_wave": rollout.open_wave},
        "started_by": stored.by,
        "created": stored.created,
        "updated": stored.updated,
        "ended": stored.ended or None,
        "counts": counts(stored.counted),
        "waves": [_wave(stored, number, evidence) for number in range(len(stored.plan.waves))],
        "nodes": [
            _node(member, progress.get((rollout.id, member.node)), logs.get(member.node))
            for member in sorted(members, key=lambda m: (m.wave, m.node))
        ],
        "mirrors": list(places),
    }


def summary(rollout: Rollout, counted: Mapping[str, int]) -> dict[str, object]:
    """Return what a list shows of one roll-out. counted: state -> members."""
    found = ending(rollout, counted)
    return {
        "id": rollout.id,
        "env": rollout.env,
        "app": rollout.app,
        "seq": rollout.seq,
        "state": rollout.state,
        "reason": shown(rollout.reason),
        "open_wave": rollout.open_wave,
        "settled": is_settled(rollout),
        "verdict": shown(found.line, 400),
        "exit": found.exit,
    }


def _wave(stored: Stored, number: int, evidence: Sequence[Evidence]) -> dict[str, object]:
    wave = stored.plan.waves[number]
    mine = [member for member in stored.counted if member.wave == number]
    return {
        "name": wave.name,
        "state": wave_state(stored.rollout, number),
        "members": len(mine),
        "counts": counts(mine),
        "evidence": len(evidence[number].counted),
        "need": wave.need,
        "soak_s": wave.soak_s,
    }


def _node(
    member: Member, hint: tuple[str, int, int] | None, log: Mapping[str, str] | None
) -> dict[str, object]:
    found: dict[str, object] = {
        "node": member.node,
        "wave": member.wave,
        "mode": member.mode,
        "state": member.state,
        "reason": shown(member.reason),
        "attempt": member.attempt,
        "dials": member.dials,
        "late": member.late,
        "changed": rows.text_of(member.changed),
    }
    if hint is not None:
        found["progress"] = {"state": hint[0], "done": hint[1], "total": hint[2]}
    if log:
        # Outside text: escaped here, so that no terminal ever sees it raw.
        found["detail"] = shown(log.get("reason", ""), 400)
        found["log"] = [shown(line) for line in log.get("log", "").splitlines()[-40:]]
    return found


def failure_logs(
    database: Database, stored: Stored, key: PrivateKey | None
) -> dict[str, Mapping[str, str]]:
    """Return, for each failed node, what the body of its last receipt says."""
    failed = [member.node for member in stored.members if member.state in FAILURES]
    if key is None or not failed:
        return {}
    row = tables.receipts.c
    query = (
        select(row.node, row.rseq, row.body)
        .where(row.plan == stored.rollout.plan, row.node.in_(failed), row.outcome != 0)
        .order_by(row.rseq)
    )
    last: dict[str, Row[Any]] = {found.node: found for found in database.all(query)}
    return {node: read_log(bytes(found.body), [key]) for node, found in last.items()}


def listing(database: Database, *, env: str, app: str, limit: int) -> list[dict[str, object]]:
    """Return the newest roll-outs, each with its verdict; members are counted by the database."""
    row = tables.rollouts.c
    query = select(row.id).order_by(row.created.desc(), row.seq.desc()).limit(limit)
    query = query.where(row.env == env) if env else query
    query = query.where(row.app == app) if app else query
    names = [str(item.id) for item in database.all(query)]
    counted = rows.counts_of(database, names)
    # The members themselves are not read: one name that no node has.
    found = [rows.load(database, name, node="-") for name in names]
    return [
        {**summary(s.rollout, counted.get(s.rollout.id, {})), "created": s.created} for s in found
    ]
