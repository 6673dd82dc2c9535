"""The gateway's signed word to one push node: install what the gate opens, or keep what runs.

A number is taken in the database, and the intent is in the journal, before anything leaves.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import timedelta

from embrasure import limits
from embrasure.clock import write_time
from embrasure.errors import Refused
from embrasure.trust.directory import Entry
from embrasure.trust.documents import write
from embrasure.trust.dsse import seal
from embrasure.trust.order import Order
from gateway import rows
from gateway.gatekeeper import Gatekeeper
from gateway.parts import EngineParts
from gateway.push import Awaited
from gateway.rows import Stored


@dataclass(frozen=True, slots=True)
class Signed:
    """An order's envelope, and the number of its intent."""

    envelope: bytes
    intent: int


def sign_order(
    parts: EngineParts,
    keeper: Gatekeeper,
    stored: Stored,
    entry: Entry,
    *,
    floor: int,
    awaited: Awaited | None,
) -> Signed:
    """Return a signed order under a number that was never used, its intent on disk.

    floor: the highest number that the node told; awaited: what the node shows over a new connection
    that it wants confirmed, None to have it install. Raises Refused.
    """
    rollout = stored.rollout
    gate = keeper.published(rollout.id)
    if gate is None:
        raise Refused("order", expected="a published gate", got="none", reason="gate")
    signer = parts.repository.gate_signer(rollout.env)
    member = stored.member(entry.id)
    at = parts.clock()
    with parts.database.write() as connection:
        least = max(floor, member.oseq) + 1
        oseq = parts.database.take(connection, f"oseq:{entry.id}", at_least=least)
        now = replace(member, dials=member.dials + 1, oseq=oseq)
        rows.save_member(connection, rollout.id, now, at=write_time(at))
    order = Order(
        v=1,
        type="order",
        root=stored.plan.root,
        env=rollout.env,
        node=entry.id,
        node_epoch=entry.epoch,
        app=rollout.app,
        plan=rollout.plan,
        gate=gate[1],
        action="confirm" if awaited else "apply",
        tx=awaited.tx if awaited else None,
        node_nonce=awaited.nonce if awaited else None,
        oseq=oseq,
        nonce=secrets.token_hex(16),
        issued=write_time(at),
        expires=write_time(at + timedelta(seconds=limits.ORDER_SECONDS)),
    )
    act = "confirm" if awaited else "order"
    what = awaited.tx if awaited else str(oseq)
    intent = parts.journal.intent(
        act, f"{rollout.plan}:{entry.id}:{what}", node=entry.id, attempt=member.attempt
    )
    return Signed(seal("order", write(order), signer), intent)
