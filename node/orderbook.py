"""Orders of gateways: verified with the gate keys, for this node, alive, new; each number once."""

from __future__ import annotations

import msgspec

from embrasure import limits
from embrasure.clock import Clock
from embrasure.errors import Refused
from embrasure.trust import dsse
from embrasure.trust.floors import Floors
from embrasure.trust.order import Order, check_order, parse_order
from embrasure.trust.source import Source
from node.ground import Ground
from node.identity import Identity
from node.judge import Judge
from node.orders import Last


class OrderBook:
    """Which orders hold, and which numbers are used up."""

    def __init__(
        self, ground: Ground, judge: Judge, identity: Identity, orders: Last, *, clock: Clock
    ) -> None:
        self._ground, self._judge, self._identity = ground, judge, identity
        self._orders, self._clock = orders, clock

    def verified(self, envelope: bytes, source: Source) -> tuple[Order, str, bytes]:
        """Return the order, the id of its gate key, and its payload; raises Refused.

        Checked with the keys held; a key that is not known yet may be new, so one refresh follows.
        """
        try:
            keys = self._judge.held_gate_keys()
            payload, keyid = dsse.unseal("order", envelope, keys, limit=limits.ORDER_BYTES)
        except Refused:
            view = self._judge.refresh_top(source)
            keys = self._judge.gate_keys(view)
            payload, keyid = dsse.unseal("order", envelope, keys, limit=limits.ORDER_BYTES)
        return parse_order(payload), keyid, payload

    def check(self, order: Order, floor: int) -> None:
        """Return only when the order is for this node, alive and new; raises Refused."""
        identity = self._identity
        check_order(
            order,
            root=identity.root_id,
            env=identity.env,
            node=identity.node,
            epoch=identity.epoch,
            floor=floor,
            now=self._clock(),
        )

    def take(self, order: Order, keyid: str, payload: bytes) -> None:
        """The order's number is used up, on disk, before anything is done for it."""
        self.use_up(order, keyid)
        self._orders.keep(order.app, payload)

    def use_up(self, order: Order, keyid: str) -> None:
        """The order's number is below the floor of its key from now on, and the time floor is not
        before the time that it was signed at; on disk.
        """
        seen = self._judge.counted(order.issued)

        def used(floors: Floors) -> Floors:
            oseq = {**floors.oseq, keyid: max(floors.oseq.get(keyid, 0), order.oseq)}
            return msgspec.structs.replace(floors, oseq=oseq, time=max(floors.time, seen))

        self._ground.floors.change(used)
