"""The order: the gateway's word to one push node, and no more.

`apply`: plan P at gate g, now. `confirm`: the release that you run since your transaction T stays.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta

from embrasure import limits
from embrasure.clock import read_time
from embrasure.errors import Refused
from embrasure.trust.documents import (
    AppName,
    Digest,
    Document,
    EnvName,
    NodeId,
    Positive,
    Time,
    check_unused,
    read,
)

Nonce = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]


class Order(Document, frozen=True, kw_only=True):
    """One order; `oseq` rises for each node."""

    v: Literal[1]
    type: Literal["order"]
    root: Digest
    env: EnvName
    node: NodeId
    node_epoch: Positive
    app: AppName
    plan: Digest
    gate: Digest | None
    action: Literal["prefetch", "apply", "confirm"]
    tx: Nonce | None
    node_nonce: Digest | None
    oseq: Positive
    nonce: Nonce
    issued: Time
    expires: Time


def parse_order(raw: bytes) -> Order:
    """Return the order in `raw`, the payload of a verified envelope; raises Refused."""
    order = read(raw, Order, limit=limits.ORDER_BYTES, document="order")
    check_unused("order", action_prefetch=order.action == "prefetch")
    is_confirm = order.action == "confirm"
    if {order.tx is not None, order.node_nonce is not None} != {is_confirm}:
        raise Refused(
            "order", expected="`tx` and `node_nonce` to confirm, and only then",
            got=order.action, reason="bad-schema",
        )  # fmt: skip
    if order.gate is None:
        raise Refused("order", expected="the digest of a gate", got="none", reason="bad-schema")
    return order


def check_action(order: Order, action: str) -> None:
    """Return only when the order is of this kind: one is never taken for the other."""
    if order.action != action:
        raise Refused("order", expected=action, got=order.action, reason="bad-schema")


def check_order(
    order: Order, *, root: str, env: str, node: str, epoch: int, floor: int, now: datetime
) -> None:
    """Return only when `order` is for this node, alive, and above the stored `oseq`.

    floor: the highest `oseq` obeyed under this gate key. Raises Refused (`not-mine`, `stale`,
    `replay`). That a key of `gates-<env>` signed it is checked when the envelope is opened.
    """
    if (order.root, order.env, order.node, order.node_epoch) != (root, env, node, epoch):
        raise Refused("order", expected=f"{env} {node}", got=order.node, reason="not-mine")
    issued, expires = read_time(order.issued), read_time(order.expires)
    if expires - issued > timedelta(seconds=limits.ORDER_SECONDS) or now >= expires:
        raise Refused("order", expected="a living order", got=order.expires, reason="stale")
    if issued > now + timedelta(seconds=limits.SKEW_SECONDS):
        raise Refused("order", expected="an order of the past", got=order.issued, reason="stale")
    if order.oseq <= floor:
        raise Refused("order", expected=f"oseq above {floor}", got=order.oseq, reason="replay")
