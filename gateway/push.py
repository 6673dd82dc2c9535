"""One order to one push node: the gateway dials, the node asks, and its receipts come back.

Everything the node says here is a hint or a signed receipt; nothing it asks for is ever joined to
a folder. An unreachable node and a failed one are two outcomes that never meet.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import grpc

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable, shown
from embrasure.net.status import error_of
from embrasure.wire import node_pb2, node_pb2_grpc
from gateway.feed import Feed, framed

WRITE_SECONDS = 60  # no frame taken for that long: the stream is closed
STREAM_FACTOR = 4  # a stream lasts at most so many of the node's longest silences: one each step
STATUS_SECONDS = 20
RECEIPTS = 64  # of one stream: a few for each try
MESSAGES_A_SECOND = 1_000  # faster nodes wait

_HEX32, _HEX64 = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{64}")
OrderCall = grpc.aio.StreamStreamCall[node_pb2.FromGateway, node_pb2.FromNode]


class Listener(Protocol):
    """Who is told what the node says, in order; each call is finished before the next."""

    async def reached(self) -> None:
        """The order is on the node's stream."""

    async def progress(self, state: str, *, done: int, total: int) -> None:
        """A hint where the install stands."""

    async def receipt(self, signed: bytes, body: bytes) -> None:
        """A receipt, unverified."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one dial ended.

    ended: the node closed the stream by itself. awaits: it did so to be dialled anew, by whoever
    confirms that it can be reached since the switch. refusal: it said why it does not install.
    unreachable: no word at all. broken: the stream ended in the middle; dial again.
    """

    kind: Literal["ended", "awaits", "refusal", "unreachable", "broken"]
    word: str = ""
    reason: str = ""
    floor: int = 0


@dataclass(frozen=True, slots=True)
class Awaited:
    """What a node wants confirmed. nonce: "" while it does not take this connection for a new one.

    Whatever it says here, an order that names it lets an approved release stay where it runs.
    """

    plan: str
    tx: str
    nonce: str


async def push(
    channel: grpc.aio.Channel,
    order: bytes,
    *,
    feed: Feed,
    listener: Listener,
    dial_s: float,
    idle_s: float,
    handshakes: asyncio.Semaphore,
    ahead: Sequence[node_pb2.Ahead] = (),
    confirms: bool = False,
) -> Ended:
    """Return how it ended after offering `order` (an envelope) and serving the node's wants.

    dial_s: until the connection stands; idle_s: longest silence of the node, which also bounds the
    whole stream; handshakes: how many connect at once; ahead: files that go along with the order;
    confirms: the order confirms. Raises nothing that the network or the node can cause.
    """
    stub = node_pb2_grpc.NodeStub(channel)
    async with handshakes:
        found = await _connect(stub, dial_s)
    if isinstance(found, Ended):
        return found
    stream = _Stream(found, feed, listener)
    if confirms:
        first = node_pb2.FromGateway(confirm=node_pb2.Confirm(order=order))
    else:
        first = node_pb2.FromGateway(offer=node_pb2.Offer(order=order, ahead=ahead))
    try:
        async with asyncio.timeout(STREAM_FACTOR * idle_s):
            return await stream.run(first, idle_s=idle_s)
    except grpc.aio.AioRpcError as problem:
        ended = Ended("broken", reason=_why("stream", problem))
    except TimeoutError:
        ended = Ended("broken", reason="stream: timed out")
    except (asyncio.InvalidStateError, EmbrasureError) as problem:
        ended = Ended("broken", reason=shown(f"stream: {problem}"))
    finally:
        found.cancel()
    # A node that wants to be dialled anew ends this connection, and may be quicker than its word.
    return Ended("awaits", word=stream.awaits) if stream.awaits else ended


async def status_of(
    channel: grpc.aio.Channel, *, seconds: float, approval: str = "", only_awaited: bool = False
) -> node_pb2.StatusReply:
    """Return what the node says of itself; raises what its call raised.

    approval: a role whose file it is asked for too; only_awaited: nothing else is asked for
    """
    found: node_pb2.StatusReply
    try:
        found = await node_pb2_grpc.NodeStub(channel).Status(
            node_pb2.StatusRequest(approval=approval, only_awaited=only_awaited), timeout=seconds
        )
    except grpc.aio.AioRpcError as problem:
        raise error_of(problem, thing="node") from None
    return found


async def seen_by(channel: grpc.aio.Channel) -> tuple[bytes, bytes]:
    """Return the timestamp and snapshot that the node hands back; raises what its call raised."""
    found = await status_of(channel, seconds=STATUS_SECONDS)
    return found.timestamp, found.snapshot


async def approval_by(channel: grpc.aio.Channel, role: str) -> bytes:
    """Return the file of an approval role that the node hands back, empty for none."""
    return bytes((await status_of(channel, seconds=STATUS_SECONDS, approval=role)).approval)


async def awaited_by(channel: grpc.aio.Channel, *, seconds: float) -> Awaited | None:
    """Return what the node wants confirmed, None for nothing; raises what its call raised, and
    Refused for words that no order can carry.
    """
    found = await status_of(channel, seconds=seconds, only_awaited=True)
    if not found.HasField("awaited"):
        return None
    told = found.awaited
    if not (_HEX32.fullmatch(told.tx) and _HEX64.fullmatch(told.nonce or "0" * 64)):
        raise Refused("node", expected="a transaction and a nonce", got="else", reason="bad-schema")
    return Awaited(told.plan, told.tx, told.nonce)


async def _connect(stub: node_pb2_grpc.NodeStub, dial_s: float) -> OrderCall | Ended:
    call: OrderCall = stub.Order()
    try:
        async with asyncio.timeout(dial_s):
            await call.wait_for_connection()
    except TimeoutError:
        call.cancel()
        return Ended("unreachable", reason="dial: timed out")
    except grpc.aio.AioRpcError as problem:
        return Ended("unreachable", reason=_why("dial", problem))
    return call


def _why(what: str, problem: grpc.aio.AioRpcError) -> str:
    found = error_of(problem, thing=what)
    return shown(f"{what}: {found.got}", limits.REASON_CHARACTERS)


@dataclass(slots=True)
class Bounds:
    """What one stream may make us do: a node that floods slows down itself alone."""

    receipts: int = 0
    _since: float = field(default_factory=time.monotonic)
    _messages: int = 0

    async def count(self, message: node_pb2.FromNode) -> None:
        """One more message; returns when it may be looked at. Raises Refused (`limit`)."""
        self.receipts += message.HasField("receipt")
        if self.receipts > RECEIPTS:
            raise Refused("node", expected=f"{RECEIPTS} receipts", got="more", reason="limit")
        self._messages += 1
        left = self._since + 1 - time.monotonic()
        if left > 0 and self._messages <= MESSAGES_A_SECOND:
            return
        await asyncio.sleep(max(0.0, left))
        self._since, self._messages = time.monotonic(), 1


class _Stream:
    """The open stream: one task hears the node, one answers its wants in order."""

    def __init__(self, call: OrderCall, feed: Feed, listener: Listener) -> None:
        self._call, self._feed, self._listener = call, feed, listener
        self._wants: asyncio.Queue[node_pb2.Want] = asyncio.Queue(limits.OPEN_WANTS)
        self._refusal: Ended | None = None
        self.awaits = ""
        self._bounds = Bounds()

    async def run(self, first: node_pb2.FromGateway, *, idle_s: float) -> Ended:
        await self._write(first)
        await self._listener.reached()
        hear = asyncio.ensure_future(self._hear(idle_s))
        answer = asyncio.ensure_future(self._answer())
        try:
            await asyncio.wait({hear, answer}, return_when=asyncio.FIRST_COMPLETED)
            if not hear.done():
                # The answering side only ends by failing; its reason is the reason.
                answer.result()
            hear.result()
        finally:
            for task in (hear, answer):
                task.cancel()
            await asyncio.gather(hear, answer, return_exceptions=True)
            # What failed keeps this frame, and must not be kept by it: the connection would stay
            # open until the garbage is collected, and a node takes few.
            del hear, answer, task
        if self.awaits:
            return Ended("awaits", word=self.awaits)
        return self._refusal or Ended("ended")

    async def _hear(self, idle_s: float) -> None:
        """Take messages until the node ends the stream well; raises AioRpcError otherwise."""
        while True:
            async with asyncio.timeout(idle_s):
                message = await self._call.read()
            if message is grpc.aio.EOF or not isinstance(message, node_pb2.FromNode):
                break
            await self._bounds.count(message)
            await self._take(message)
        code = await self._call.code()
        if code != grpc.StatusCode.OK:
            raise Unavailable(
                "node", expected="a stream that ends well",
                got=f"{code.name}: {await self._call.details() or ''}",
            )  # fmt: skip

    async def _take(self, message: node_pb2.FromNode) -> None:
        kind = message.WhichOneof("kind")
        if kind == "want":
            try:
                self._wants.put_nowait(message.want)
            except asyncio.QueueFull:
                raise Refused(
                    "node", expected=f"at most {limits.OPEN_WANTS} open wants", got="more",
                    reason="limit",
                ) from None  # fmt: skip
        elif kind == "receipt":
            found = message.receipt
            if len(found.signed) != limits.RECEIPT_BYTES or len(found.body) > limits.POST_BYTES:
                raise Refused("receipt", expected="320 bytes", got=len(found.signed),
                              reason="limit")  # fmt: skip
            await self._listener.receipt(found.signed, found.body)
        elif kind == "progress":
            hint = message.progress
            await self._listener.progress(shown(hint.state, 32), done=hint.done, total=hint.total)
        elif kind == "awaits":
            self.awaits = shown(message.awaits.tx, 32) or "?"
        elif kind == "refusal":
            told = message.refusal
            self._refusal = Ended(
                "refusal", word=shown(told.kind, 32), reason=shown(told.reason, 96),
                floor=told.floor,
            )  # fmt: skip

    async def _answer(self) -> None:
        """Answer wants, one after the other; ends only by raising."""
        while True:
            want = await self._wants.get()
            sent, status = 0, "ok"
            try:
                async for body in self._frames(want):
                    data = node_pb2.Data(want=want.id, offset=want.offset + sent, body=body)
                    await self._write(node_pb2.FromGateway(data=data))
                    sent += len(body)
            except NotFound:
                status = "not_found"
            except EmbrasureError:
                status = "refused"
            end = node_pb2.End(want=want.id, status=status, length=sent)
            await self._write(node_pb2.FromGateway(end=end))

    async def _frames(self, want: node_pb2.Want) -> AsyncIterator[bytes]:
        """Yield the wanted bytes in frames; at most one frame of them is in memory."""
        if want.offset > limits.FILE_BYTES or not 0 < want.limit <= limits.FILE_BYTES:
            raise Refused("want", expected="a range of a file", got=want.limit, reason="limit")
        frames = framed(self._feed.fetch(want.path, offset=want.offset, limit=want.limit))
        while body := await asyncio.to_thread(next, frames, b""):
            yield body

    async def _write(self, message: node_pb2.FromGateway) -> None:
        async with asyncio.timeout(WRITE_SECONDS):
            await self._call.write(message)
