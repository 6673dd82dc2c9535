"""The service of a push node: the gateway dials, offers an order, and serves what the node wants.

Nothing here decides: orders go to apply as they came, receipts go back as apply signed them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from typing import TYPE_CHECKING, Protocol, TypeAlias

import grpc

from embrasure import __version__, limits
from embrasure.errors import Denied, EmbrasureError, Failed, Unavailable, shown
from embrasure.net.identity import Role
from embrasure.trust import layout
from embrasure.wire import node_pb2 as wire
from node.answering import Deaf, Heard, Hearer, NoSource, converse
from node.confirm_messages import AwaitedAsk, AwaitsNote, ConfirmAsk
from node.ipc import Channel
from node.messages import (
    FromApply,
    OrderAsk,
    PostedAsk,
    ProgressNote,
    ReceiptNote,
    SeenAsk,
    SeenNote,
    StateNote,
    StatusAsk,
    unpack,
)
from node.offer import first_ask
from node.stream import Stream, StreamSource

if TYPE_CHECKING:
    from embrasure.net.authorize import Context

LOG = getLogger(__name__)
TABLE: dict[str, frozenset[Role]] = {
    "/embrasure.v1.Node/Order": frozenset({"gateway"}),
    "/embrasure.v1.Node/Status": frozenset({"gateway"}),
}
_REFUSALS = frozenset({"none", "wait", "hold", "refuse"})
PROVISIONAL = "provisional"
_NO_APPLY = frozenset({"agent-not-running", "ipc-closed"})

Connect = Callable[[], Channel[FromApply]]


class Line(Protocol):
    """The listener that this service is behind (`node.push_listener.PushListener`)."""

    @property
    def opened_ms(self) -> int:
        """When it was opened (CLOCK_BOOTTIME): none of its connections is older."""
        ...

    def renew(self) -> None:
        """Every connection of now ends soon, and the listener is open again."""
        ...


class HandedOver(Exception):
    """The install goes on in apply; what it awaits must come over another connection."""


class Teller:
    """Passes on to the gateway what apply says."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.receipts: list[int] = []

    def receipt(self, note: ReceiptNote) -> None:
        """The gateway gets the receipt."""
        found = wire.Receipt(signed=unpack(note.signed), body=unpack(note.body))
        self._stream.deliver(wire.FromNode(receipt=found))
        self.receipts.append(note.rseq)

    def progress(self, note: ProgressNote) -> None:
        """The gateway gets the hint, unless it is busy."""
        found = wire.Progress(state=note.state, done=note.done, total=note.total)
        self._stream.offer(wire.FromNode(progress=found))

    def awaits(self, note: AwaitsNote) -> None:
        """The gateway is told to dial anew. Raises HandedOver: this call is at its end."""
        self._stream.deliver(wire.FromNode(awaits=wire.Awaits(app=note.app, tx=note.tx)))
        raise HandedOver

    def refusal(self, kind: str, reason: str, floor: int = 0) -> None:
        """The gateway knows that the order was not obeyed, and why."""
        found = wire.Refusal(kind=kind, reason=reason, floor=floor)
        self._stream.deliver(wire.FromNode(refusal=found))


class NodeService:
    """`embrasure.v1.Node`, for gateways only."""

    def __init__(
        self,
        connect: Connect,
        serial: Callable[[], str],
        bundle: Callable[[], str],
        line: Line,
    ) -> None:
        """Serve what `connect` reaches. serial: of the certificate; bundle: `tls.json`'s digest."""
        self._connect, self._serial, self._bundle = connect, serial, bundle
        self._line = line
        self._pool = ThreadPoolExecutor(
            limits.ORDER_STREAMS + limits.OPEN_CALLS_PER_PEER, "conversation"
        )
        self._orders = 0

    async def Order(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """One order: wants, receipts, and at most one refusal; then the node ends the call."""
        opened_ms = self._line.opened_ms
        asked = await first_ask(requests, opened_ms)
        if self._orders >= limits.ORDER_STREAMS:
            raise Unavailable("node", expected="a free hand", got="other orders", reason="busy")
        self._orders += 1
        loop = asyncio.get_running_loop()
        try:
            channel = await loop.run_in_executor(self._pool, self._connect)
            stream = Stream(requests, context)
            try:
                await loop.run_in_executor(self._pool, self._obey, channel, asked, stream)
            finally:
                # When the call is gone this ends the thread, too; the install goes on in apply.
                stream.end()
                channel.close()
        finally:
            self._orders -= 1

    async def Status(self, request: wire.StatusRequest, context: Context) -> wire.StatusReply:
        """Floors and states, read from the node's disk; over a new connection, the nonce, too."""
        opened_ms = self._line.opened_ms
        if request.only_awaited:
            reply = wire.StatusReply()
            await self._show_awaited(reply, opened_ms)
            return reply
        loop = asyncio.get_running_loop()
        heard = await loop.run_in_executor(self._pool, ask, self._connect, StatusAsk())
        if heard.state is None:
            raise Failed("node", expected="its state", got="none")
        wanted = request.approval if layout.is_approval_role(request.approval) else ""
        seen = SeenAsk(approval=wanted)
        shown = await loop.run_in_executor(self._pool, ask, self._connect, seen)
        reply = reply_of(heard.state, shown.seen, self._serial(), self._bundle())
        if any(one.state == PROVISIONAL for one in heard.state.apps):
            await self._show_awaited(reply, opened_ms)
        return reply

    async def _show_awaited(self, reply: wire.StatusReply, opened_ms: int) -> None:
        """What awaits the gateway's word is in `reply`; an old connection sees that, and ends."""
        question = AwaitedAsk(opened_ms=opened_ms)
        loop = asyncio.get_running_loop()
        heard = await loop.run_in_executor(self._pool, ask, self._connect, question)
        note = heard.awaits
        if note is None or note.by != "gateway":
            return
        found = wire.Awaited(app=note.app, plan=note.plan, tx=note.tx, nonce=note.nonce)
        reply.awaited.CopyFrom(found)
        if not note.nonce:
            self._line.renew()

    def _obey(
        self, channel: Channel[FromApply], asked: OrderAsk | ConfirmAsk, stream: Stream
    ) -> None:
        teller = Teller(stream)
        try:
            heard = converse(channel, asked, StreamSource(stream), teller)
        except HandedOver:
            # What a confirmation must not come over ends, whoever made it.
            self._line.renew()
        except EmbrasureError as problem:
            if problem.reason in _NO_APPLY:
                raise
            LOG.warning("order not obeyed: %s [%s]", problem, problem.word)
            teller.refusal(kind_of(problem), problem.reason)
        else:
            refuse(heard, teller)
        # The node keeps copies: a gateway that lost them asks again with the same order.
        if taken := tuple(teller.receipts[-limits.OUTBOX_RECEIPTS :]):
            ask(self._connect, PostedAsk(rseqs=taken))


def add_to_server(service: NodeService, server: grpc.aio.Server) -> None:
    """`server` serves `service`, and hands it what comes on a stream as it came: `frames.parse`
    reads it.
    """
    methods = {
        "Order": grpc.stream_stream_rpc_method_handler(
            service.Order, response_serializer=wire.FromNode.SerializeToString
        ),
        "Status": grpc.unary_unary_rpc_method_handler(
            service.Status,
            request_deserializer=wire.StatusRequest.FromString,
            response_serializer=wire.StatusReply.SerializeToString,
        ),
    }
    handler = grpc.method_handlers_generic_handler("embrasure.v1.Node", methods)
    server.add_generic_rpc_handlers((handler,))


def kind_of(problem: EmbrasureError) -> str:
    """Return how the gateway should take `problem`."""
    if isinstance(problem, Unavailable):
        return "wait"
    return "hold" if isinstance(problem, Denied) else "refuse"


def refuse(heard: Heard, teller: Teller) -> None:
    """The gateway knows why there is no receipt; where there are receipts, they say it all.

    But for how long a release is left alone that was cut off: that is no end.
    """
    for answer in heard.answers:
        if teller.receipts and answer.reason != "later":
            continue
        kind = answer.kind if answer.kind in _REFUSALS else "refuse"
        teller.refusal(kind, answer.reason or answer.kind, answer.floor)


Question: TypeAlias = StatusAsk | SeenAsk | PostedAsk | AwaitedAsk


def ask(connect: Connect, question: Question, hearer: Hearer | None = None) -> Heard:
    """Return what apply says to a question that needs no file."""
    with connect() as channel:
        return converse(channel, question, NoSource(), hearer or Deaf())


def reply_of(state: StateNote, seen: SeenNote | None, serial: str, bundle: str) -> wire.StatusReply:
    """Return the state as the gateway reads it."""
    apps = [
        wire.AppStatus(
            app=one.app,
            state=one.state,
            seq=one.seq,
            gseq=one.gseq,
            manifest=one.manifest,
            detail=shown(one.hold or state.maintenance or one.detail),
        )
        for one in state.apps
    ]
    return wire.StatusReply(
        node=state.node,
        epoch=state.epoch,
        serial=serial,
        oseq=state.oseq,
        rseq=state.rseq,
        apps=apps,
        version=__version__,
        tls=bundle,
        timestamp=unpack(seen.timestamp) if seen else b"",
        snapshot=unpack(seen.snapshot) if seen else b"",
        approval=unpack(seen.approval) if seen else b"",
    )
