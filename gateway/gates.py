"""Making a gate: the receipts that prove every earlier wave, chosen, checked, and then signed.

The gateway judges its own gate with the very functions that nodes use, before anybody sees it.
"""

from __future__ import annotations

import base64
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, select

from embrasure import limits
from embrasure.clock import write_time
from embrasure.errors import Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.decide import NodeState, Verdict, decide
from embrasure.trust.denied import DeniedSets
from embrasure.trust.directory import Entry
from embrasure.trust.documents import write
from embrasure.trust.evidence import check_gate_evidence, counts_as_evidence
from embrasure.trust.floors import AppFloor, Union
from embrasure.trust.gate import Gate, SignedReceipt, WaveEvidence, parse_gate
from embrasure.trust.load import Docs, load
from embrasure.trust.plan import NamedNode, Plan
from embrasure.trust.receipt import Kind, Outcome, Receipt, key_id, parse_receipt
from embrasure.trust.source import Source
from embrasure.trust.view import View
from gateway import tables
from gateway.database import Database
from gateway.denials import Denials
from gateway.grounds import load_entries
from gateway.published import FolderTargets
from gateway.rollout import Publish


@dataclass(frozen=True, slots=True)
class Ground:
    """The verified facts of one app at one view: what a gate is judged on.

    union: every denial of revocations since the last reset, as nodes keep it
    """

    docs: Docs
    denied: DeniedSets
    entries: Mapping[str, Entry]
    union: Union

    @property
    def min_isolation(self) -> int:
        """What the policy asks of a receipt."""
        return self.docs.policy.min_isolation if self.docs.policy else 0


def load_ground(view: View, source: Source, denials: Denials, *, env: str, app: str) -> Ground:
    """Return the facts of one app; raises Refused when policy or revocations cannot be read."""
    targets = FolderTargets()
    docs = load(targets, view, source, env=env, app=app, node="")
    for name in ("policy", "revocations"):
        if name in docs.problems:
            raise docs.problems[name]
    if docs.policy is None or docs.revocations is None:
        raise Refused(
            f"environment {env}", expected="policy and revocations", got="none", reason="no-env"
        )
    entries = load_entries(_Readable(targets), view, source, docs.policy)
    found = {entry.id: entry for entry in entries}
    return Ground(docs, denials.of(env), found, denials.union(env))


class _Readable(FolderTargets):
    """`load_entries` asks for target files only; role files are never read here."""

    def __init__(self, targets: FolderTargets) -> None:
        self.targets = targets

    def role_bytes(self, view: View, role: str) -> bytes:
        """Not asked for."""
        raise Refused(role, expected="a target", got="a role file")


@lru_cache(maxsize=4096)
def _verified(signed: bytes, key: str) -> Receipt | None:
    try:
        return parse_receipt(signed, bytes.fromhex(key))
    except Refused:
        return None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Receipts of one wave, node id -> 320 bytes. lapsed: true ones that no longer count."""

    counted: Mapping[str, bytes]
    lapsed: Mapping[str, bytes]


def evidence_of(
    database: Database, plan: Plan, plan_digest: str, *, denied: Container[str], min_isolation: int
) -> tuple[Evidence, ...]:
    """Return, for each wave, the stored receipts of its named nodes that prove it.

    Each is verified again: the database is not trusted. denied: ids of receipt keys.
    """
    row = tables.receipts.c
    query = select(row.node, row.wave, row.signed).where(
        row.plan == plan_digest,
        row.kind == int(Kind.SOAKED),
        row.outcome == int(Outcome.OK),
    )
    stored = database.all(query)
    return tuple(
        _of_wave(stored, wave.nodes, plan, plan_digest, number, denied, min_isolation)
        for number, wave in enumerate(plan.waves)
    )


def _of_wave(
    stored: Sequence[Row[Any]],
    named: Sequence[NamedNode],
    plan: Plan,
    plan_digest: str,
    wave: int,
    denied: Container[str],
    min_isolation: int,
) -> Evidence:
    keys = {node.id: node.key for node in named}
    counted: dict[str, bytes] = {}
    lapsed: dict[str, bytes] = {}
    for row in stored:
        if row.wave != wave or row.node not in keys:
            continue
        receipt = _verified(bytes(row.signed), keys[row.node])
        if receipt is None or receipt.node != row.node:
            continue
        if not counts_as_evidence(receipt, plan, plan_digest, wave=wave):
            continue
        good = receipt.isolation >= min_isolation
        good = good and key_id(bytes.fromhex(keys[row.node])) not in denied
        (counted if good else lapsed)[row.node] = bytes(row.signed)
    return Evidence(counted, lapsed)


def make_gate(
    plan: Plan,
    plan_digest: str,
    wanted: Publish,
    evidence: Sequence[Evidence],
    *,
    gseq: int,
    audit_head: str,
    now: datetime,
) -> Gate:
    """Return the gate that `wanted` describes, with the receipts of every wave before it."""
    proved = len(plan.waves) if wanted.state == "done" else wanted.open_wave
    sets = [_set(number, plan.waves[number].need, evidence[number]) for number in range(proved)]
    return Gate(
        v=1,
        type="gate",
        root=plan.root,
        env=plan.env,
        app=plan.app,
        plan=plan_digest,
        seq=plan.seq,
        gseq=gseq,
        state=wanted.state,
        open_wave=wanted.open_wave,
        attempt=wanted.attempt,
        evidence=tuple(item for item in sets if item.receipts),
        after_evidence=(),
        issued=write_time(now),
        audit_head=audit_head,
        code=wanted.code,
        reason=_plain(wanted.reason),
    )


def _set(number: int, need: int, found: Evidence) -> WaveEvidence:
    """As few receipts as are needed. Those that no longer count come last: a stop is still told
    with them, and nodes then hold instead of raising an alarm.
    """
    ranked = [found.counted[node] for node in sorted(found.counted)]
    ranked += [found.lapsed[node] for node in sorted(found.lapsed)]
    return WaveEvidence(wave=number, receipts=tuple(split(signed) for signed in ranked[:need]))


def split(signed: bytes) -> SignedReceipt:
    """Return a 320-byte receipt as a gate carries it."""
    record, signature = (
        signed[: limits.RECEIPT_RECORD_BYTES],
        signed[limits.RECEIPT_RECORD_BYTES :],
    )
    return SignedReceipt(
        r=base64.b64encode(record).decode("ascii"), s=base64.b64encode(signature).decode("ascii")
    )


def _plain(text: str) -> str:
    """An operator's or a node's words, as a signed document may hold them."""
    kept = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return kept[: limits.REASON_CHARACTERS]


def check_gate(plan: Plan, plan_digest: str, gate: Gate, ground: Ground) -> None:
    """Return only when nodes will find form and evidence good; raises Refused, Denied."""
    parse_gate(write(gate))
    check_gate_evidence(
        plan,
        plan_digest,
        gate,
        denied_keys=ground.denied.keys,
        min_isolation=ground.min_isolation,
    )


def would(ground: Ground, gate: Gate, node: str, *, signer: str, now: datetime) -> Verdict:
    """Return what a fresh `node` would say to this gate, by the node's own rule.

    signer: id of the gate key. Raises nothing.
    """
    entry = ground.entries.get(node)
    if entry is None:
        return Verdict("hold", "not_enrolled")
    docs = replace(
        ground.docs,
        entry=entry,
        gate=gate,
        gate_digest=sha256_hex(write(gate)),
        gate_signers=frozenset({signer}),
        problems={k: v for k, v in ground.docs.problems.items() if k != "gate"},
    )
    state = NodeState(
        node=node,
        env=entry.env,
        epoch=entry.epoch,
        receipt_key=entry.receipt.key,
        isolation=ground.min_isolation,
        busy=False,
        held=False,
        time_floor=0,
        union=ground.union,
        app=AppFloor(),
    )
    return decide(docs, state, now=now)


def published_gate(view: View, source: Source, *, env: str, app: str) -> tuple[Gate, str] | None:
    """Return the published gate of an app and its digest, or None."""
    role, path = layout.gates_role(env), layout.gate_path(env, app)
    listed = view.target(role, path)
    if listed is None:
        return None
    raw = FolderTargets().target(view, role, path, source, limit=limits.GATE_BYTES)
    return parse_gate(raw), listed.sha256
