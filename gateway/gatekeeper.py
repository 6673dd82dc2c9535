"""The gate that a roll-out wants, made true: judged as nodes will, numbered, signed, published.

A row says what is wanted. A kill between row and publication is repaired with the next number, so
no two gates ever share one.
"""

from __future__ import annotations

import re
from dataclasses import replace

from embrasure import limits
from embrasure.clock import write_time
from embrasure.errors import Damaged
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from embrasure.trust.gate import Gate
from gateway import rows
from gateway.gates import (
    Evidence,
    check_gate,
    evidence_of,
    make_gate,
    published_gate,
    would,
)
from gateway.library import Library
from gateway.parts import EngineParts
from gateway.proposals import Approved
from gateway.rollout import Facts, GateState, Publish, Rollout
from gateway.rows import Stored

Out = tuple[Gate, str]  # a published gate and its SHA-256
ASKED = 3  # members whose verdict is worked out before a wave opens


class Gatekeeper:
    """Makes gates. Called in threads, under the lock of the roll-out."""

    def __init__(self, parts: EngineParts, library: Library) -> None:
        self._parts, self._library = parts, library
        self._published: dict[str, Out] = {}

    def published(self, rollout: str) -> Out | None:
        """Return the roll-out's gate as nodes can see it and its digest, else None."""
        return self._published.get(rollout)

    def facts(self, stored: Stored) -> Facts:
        """Return what a step looks at besides the rows."""
        rollout = stored.rollout
        docs = self._library.ground(rollout.env, rollout.app).docs
        hold = ""
        if rollout.state == "blocked" and rollout.reason.startswith("hold"):
            hold = self.hold(stored, next_gate(stored))
        return Facts(
            now=self._parts.unix(),
            evidence=tuple(len(found.counted) for found in self.evidence(stored)),
            hold=hold,
            newer=docs.plan is not None and docs.plan.seq > rollout.seq,
        )

    def evidence(self, stored: Stored) -> tuple[Evidence, ...]:
        """Return the stored receipts that prove each wave today."""
        ground = self._library.ground(stored.rollout.env, stored.rollout.app)
        return evidence_of(
            self._parts.database,
            stored.plan,
            stored.rollout.plan,
            denied=ground.denied.keys,
            min_isolation=ground.min_isolation,
        )

    def draft(self, stored: Stored, wanted: Publish, *, gseq: int) -> Gate:
        """Return the gate, unsigned and unpublished."""
        return make_gate(
            stored.plan,
            stored.rollout.plan,
            wanted,
            self.evidence(stored),
            gseq=gseq,
            audit_head=self._parts.journal.head.sha256,
            now=self._parts.clock(),
        )

    def check(self, stored: Stored, wanted: Publish) -> None:
        """Return only when nodes will find the gate's evidence good; raises Refused, Denied."""
        gate = self.draft(stored, wanted, gseq=stored.gseq + 1)
        ground = self._library.ground(stored.rollout.env, stored.rollout.app)
        check_gate(stored.plan, stored.rollout.plan, gate, ground)

    def hold(self, stored: Stored, wanted: Publish) -> str:
        """Return why nodes would not obey this gate ("hold: word", "refuse: word"), or "".

        One member that would obey is enough: a denied node stops only itself.
        """
        rollout = stored.rollout
        ground = self._library.ground(rollout.env, rollout.app)
        gate = self.draft(stored, wanted, gseq=stored.gseq + 1)
        signer = self._parts.repository.gate_signer(rollout.env).public_key.keyid
        members = [m.node for m in stored.members if m.wave == wanted.open_wave][:ASKED]
        found = ""
        for node in members:
            verdict = would(ground, gate, node, signer=signer, now=self._parts.clock())
            if verdict.kind not in ("hold", "refuse"):
                return ""
            found = found or f"{verdict.kind}: {verdict.reason}"
        return found

    def publish(
        self, stored: Stored, wanted: Publish | None = None, *, approved: Approved | None = None
    ) -> None:
        """The gate numbered `stored.gseq` is signed, published and known to the feed.

        approved: the role and documents of a plan that is not published yet
        """
        parts, rollout = self._parts, stored.rollout
        wanted = wanted or gate_of(rollout)
        gate = self.draft(stored, wanted, gseq=stored.gseq)
        if wanted.state in ("open", "done"):
            # Also when the wish is a row's alone: whoever writes rows opens no wave.
            ground = self._library.ground(rollout.env, rollout.app)
            check_gate(stored.plan, rollout.plan, gate, ground)
        raw = write(gate)
        with (
            parts.journal.act(
                "gate",
                f"{rollout.plan}:{stored.gseq}",
                stop=wanted.state in ("paused", "halted"),
                state=wanted.state,
                open_wave=wanted.open_wave,
                attempt=wanted.attempt,
                sha256=sha256_hex(raw),
            ),
            parts.repository.change(),
        ):
            if approved is not None:
                parts.repository.stage_role(approved.role, approved.documents)
            parts.repository.set_gate(rollout.env, rollout.app, raw)
            parts.repository.publish()
        self._library.contents()
        self._published[rollout.id] = (gate, sha256_hex(raw))

    def is_out(self, stored: Stored) -> bool:
        """Return whether the gate numbered `stored.gseq` of this plan is published already."""
        found = self._out(stored)
        return found is not None and _is_of(stored, found[0])

    def repair(self, stored: Stored) -> None:
        """Return once the published gate is the wanted one, whatever a kill has left behind."""
        parts, rollout = self._parts, stored.rollout
        held = self._published.get(rollout.id)
        if held is not None and held[0].gseq == stored.gseq:
            return check_same(rollout, held[0])
        found = self._out(stored)
        if found is not None and _is_of(stored, found[0]):
            self._library.contents()
            self._published[rollout.id] = found
            check_same(rollout, found[0])
        elif found is None or found[0].seq <= rollout.seq:
            # Never other bytes under one number: what was not published gets the next one.
            at_least = stored.gseq + 1
            with parts.database.write() as connection:
                gseq = parts.database.take(connection, f"gseq:{rollout.plan}", at_least=at_least)
                at = write_time(parts.clock())
                rows.save(connection, rollout, (), at=at, gseq=gseq)
            self.publish(replace(stored, gseq=gseq))
        return None

    def _out(self, stored: Stored) -> Out | None:
        repository, rollout = self._parts.repository, stored.rollout
        return published_gate(
            repository.view(), repository.source(), env=rollout.env, app=rollout.app
        )


def _is_of(stored: Stored, gate: Gate) -> bool:
    return (gate.plan, gate.gseq) == (stored.rollout.plan, stored.gseq)


def gate_of(rollout: Rollout) -> Publish:
    """Return the gate that the row of `rollout` wants."""
    state: GateState = "halted"  # an unknown word in the row stops
    for known in ("open", "paused", "done"):
        if rollout.gate_state == known:
            state = known
    code = re.match(r"[a-z_]{1,40}(?=:)", rollout.reason)
    return Publish(
        state=state,
        open_wave=rollout.open_wave,
        attempt=rollout.attempt,
        code=code[0] if code and state == "halted" else "",
        reason=rollout.reason[: limits.REASON_CHARACTERS] if state != "open" else "",
    )


def check_same(rollout: Rollout, gate: Gate) -> None:
    """Return only when row and signed gate tell the same; raises Damaged (`rows`).

    Rows are written before gates, each with a new number: these two differ only when somebody
    else wrote the row.
    """
    wanted = gate_of(rollout)
    told = (gate.state, gate.open_wave, gate.attempt)
    if told != (wanted.state, wanted.open_wave, wanted.attempt):
        raise Damaged(
            f"roll-out {rollout.id}",
            expected=f"the gate that was signed: {gate.state} at wave {gate.open_wave}",
            got=f"{wanted.state} at wave {wanted.open_wave} in the database",
            hint="compare with the audit journal, then abort it or restore the database",
            reason="rows",
        )


def next_gate(stored: Stored) -> Publish:
    """Return the gate that would follow when this wave passes."""
    rollout = stored.rollout
    last = rollout.open_wave == len(stored.plan.waves) - 1
    return Publish(
        state="done" if last else "open",
        open_wave=rollout.open_wave if last else rollout.open_wave + 1,
        attempt=rollout.attempt,
    )
