"""What operators see: plain values out of rows and verified files; nothing here decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Row, Select, func, select

from embrasure.clock import write_time
from embrasure.errors import EmbrasureError, Misuse
from embrasure.trust import layout
from embrasure.trust.plan import parse_plan
from embrasure.trust.receipt import Kind, Outcome
from embrasure.wire import admin_pb2 as wire
from gateway import certificate_rows, rows, tables
from gateway.addresses import addresses_of
from gateway.certificate_rows import Held
from gateway.database import Database
from gateway.grounds import load_entries

if TYPE_CHECKING:
    from gateway.admin import Parts

_row = tables.proposals.c


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows are asked for; cursor: the last one seen, empty at first."""

    env: str
    app: str
    limit: int
    cursor: str


def inventory(parts: Parts) -> dict[str, object]:
    """Return what ends when."""
    at = parts.watch.clock()
    return {"gateway": parts.name, "items": [item.as_json(at) for item in parts.watch.items()]}


def releases(parts: Parts, page: Page) -> dict[str, object]:
    """Return proposals, newest first."""
    parts.proposals.rows.expire()
    found = parts.database.all(_paged(page))
    return {
        "releases": [_summary(parts, row) for row in found],
        "cursor": f"{found[-1].created}/{found[-1].id}" if len(found) == page.limit else "",
    }


def release(parts: Parts, name: str) -> dict[str, object]:
    """Return one proposal; raises NotFound."""
    row = parts.proposals.find(name)
    plan = parse_plan(bytes(row.plan))
    return {
        **_summary(parts, row),
        "manifest": f"sha256:{row.manifest_digest}",
        "role_version": row.role_version,
        "role_sha256": f"sha256:{row.role_sha256}",
        "title": plan.title,
        "comment": plan.comment,
        "waves": [wave.name for wave in plan.waves],
    }


def approvals(parts: Parts, page: Page, person: str) -> dict[str, object]:
    """Return what waits for signatures, and whether it waits for `person`."""
    parts.proposals.rows.expire()
    query = _paged(page).where(_row.state == tables.PENDING)
    found = []
    for row in parts.database.all(query):
        one = _summary(parts, row)
        missing = one.get("missing")
        one["mine"] = isinstance(missing, list) and person in missing
        found.append(one)
    return {"approvals": found}


def proposal(parts: Parts, name: str) -> wire.ProposalReply:
    """Return the bytes that an approver works everything out of again; raises NotFound."""
    row = parts.proposals.find(name)
    return wire.ProposalReply(
        id=row.id,
        env=row.env,
        app=row.app,
        role=bytes(row.role),
        plan=bytes(row.plan),
        statements=parts.proposals.rows.statements(row.id),
        info=msgspec.json.encode(_summary(parts, row)),
    )


def overview(parts: Parts, person: str) -> dict[str, object]:
    """Return one screen: what waits, what runs, the fleet, what expires."""
    view = parts.repository.view()
    envs = sorted(parts.people.policies())
    return {
        "gateway": parts.name,
        "root": view.root_id,
        "audit_head": str(parts.journal.head),
        "approvals": approvals(parts, Page("", "", 20, ""), person)["approvals"],
        "rollouts": parts.rollouts.listing("", "", 20).get("rollouts", []),
        "fleet": {env: _counts(fleet(parts, Page(env, "", 0, ""))) for env in envs},
        "expires": {name: write_time(role.expires) for name, role in sorted(view.roles.items())},
        "problems": parts.repository.problems,
    }


def fleet(parts: Parts, page: Page) -> dict[str, object]:
    """Return the nodes of an environment with the last receipt and the certificate of each.

    boxes: its mirrors and letterboxes, as the gateway saw their certificates
    """
    policy = parts.people.policies().get(page.env)
    if policy is None:
        known = ", ".join(sorted(parts.people.policies())) or "none"
        raise Misuse("environment", expected=f"one of: {known}", got=page.env)
    repository = parts.repository
    entries = load_entries(repository.client, repository.view(), repository.source(), policy)
    last = _last_receipts(parts)
    where = addresses_of(parts.database, page.env)
    held = certificate_rows.listed(parts.database, page.env)
    nodes = [
        {
            "id": entry.id,
            "mode": entry.mode,
            "state": entry.state,
            "epoch": entry.epoch,
            "labels": dict(entry.labels),
            "address": where.get(("node", entry.id), ""),
            "last": last.get(entry.receipt_id),
            "certificate": _certificate(held, entry.id, page.env),
        }
        for entry in entries
    ]
    boxes = [
        {"kind": kind, "name": name, "certificate": one.as_json()}
        for (kind, name, _), one in sorted(held.items())
        if kind != "node"
    ]
    return {"env": page.env, "nodes": nodes, "boxes": boxes}


def _certificate(held: Mapping[certificate_rows.Key, Held], node: str, env: str) -> object:
    found = held.get(("node", node, env))
    return found.as_json() if found else None


def rollout_env(database: Database, name: str) -> str:
    """Return the environment of a roll-out, named by its id; raises NotFound."""
    row = tables.rollouts.c
    found = database.first(select(row.env).where(row.id == rows.find(database, name)))
    return "" if found is None else str(found.env)


def _last_receipts(parts: Parts) -> dict[str, dict[str, object]]:
    row = tables.receipts.c
    newest = select(row.key, func.max(row.rseq).label("rseq")).group_by(row.key).subquery()
    query = select(tables.receipts).join(
        newest, (row.key == newest.c.key) & (row.rseq == newest.c.rseq)
    )
    return {
        found.key: {
            "plan": f"sha256:{found.plan}",
            "kind": _word(Kind, found.kind),
            "outcome": _word(Outcome, found.outcome),
            "rseq": found.rseq,
            "at": found.at,
        }
        for found in parts.database.all(query)
    }


def _word(words: type[Kind] | type[Outcome], number: int) -> str:
    try:
        return words(number).name.lower()
    except ValueError:
        return f"unknown {number}"


def _counts(found: Mapping[str, object]) -> dict[str, int]:
    nodes = found["nodes"]
    if not isinstance(nodes, list):
        return {}
    counts = Counter(node["state"] for node in nodes)
    counts.update(node["last"]["outcome"] if node["last"] else "never_heard" for node in nodes)
    return dict(sorted(counts.items()))


def _paged(page: Page) -> Select[Any]:
    query = select(tables.proposals).order_by(_row.created.desc(), _row.id).limit(page.limit)
    if page.env:
        query = query.where(_row.env == page.env)
    if page.app:
        query = query.where(_row.app == page.app)
    if page.cursor:
        created, _, name = page.cursor.partition("/")
        older = (_row.created < created) | ((_row.created == created) & (_row.id > name))
        query = query.where(older)
    return query


def _summary(parts: Parts, row: Row[Any]) -> dict[str, object]:
    """Return what a list shows of a proposal. The threshold is of the verified role."""
    signed = parts.proposals.rows.persons(row.id)
    found: dict[str, object] = {
        "id": row.id,
        "env": row.env,
        "app": row.app,
        "role": layout.app_role(row.env, row.app),
        "plan": f"sha256:{row.plan_digest}",
        "seq": row.seq,
        "state": row.state,
        "reason": row.reason,
        "proposer": row.proposer,
        "approved_by": signed,
        "approve_by": row.approve_by,
        "not_after": row.not_after,
        "created": row.created,
        "updated": row.updated,
    }
    try:
        grounds = parts.proposals.grounds(row.env, row.app)
    except EmbrasureError as problem:
        return {**found, "problem": str(problem)}
    missing = [p for p in grounds.people() if p not in signed and p != row.proposer]
    return {
        **found,
        "threshold": grounds.threshold,
        "quotas": grounds.quotas(),
        "missing": missing,
        "lacks": grounds.lacking(signed) if row.state == tables.PENDING else "",
    }
