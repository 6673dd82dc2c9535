"""A gateway's end of the push stream: dials a node for real, offers an order, serves its wants.

Honest by default. `cut` breaks the line in the middle of a file; `data` may say other things.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from embrasure import limits
from embrasure.bundle.packing import PackedSource
from embrasure.errors import NotFound
from embrasure.net.credentials import channel
from embrasure.trust.layout import parse_pack
from embrasure.wire import node_pb2 as wire
from embrasure.wire import node_pb2_grpc
from gateway.feed import framed
from tests.simulate.authority import Authority, Leaf
from tests.simulate.sources import MemorySource

Serve = Callable[[wire.Want], Iterable[wire.FromGateway]]


@dataclass
class Said:
    """All that a node said on one stream, and how the call ended."""

    wants: list[wire.Want] = field(default_factory=list)
    receipts: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)
    progress: list[str] = field(default_factory=list)
    awaits: list[str] = field(default_factory=list)
    code: grpc.StatusCode | None = None
    details: str = ""
    is_cut: bool = False

    def offsets(self, path: str) -> list[int]:
        """Return the offsets from which `path` was wanted."""
        return [want.offset for want in self.wants if want.path == path]


@dataclass(frozen=True)
class Cut:
    """Break the line after `after` bytes of `path`, once `ready` says so."""

    path: str
    after: int
    ready: Callable[[], bool] = lambda: True


class CutOff(Exception):
    """The line breaks here."""


def pieces(files: Mapping[str, bytes], want: wire.Want) -> Iterator[wire.FromGateway]:
    """Yield what an honest gateway answers to `want` out of `files`."""
    data = files.get(want.path)
    status = "ok"
    if parse_pack(want.path) is not None:
        yield from packed(files, want)
        return
    if data is None:
        data, status = b"", "not_found"
    elif len(data) - want.offset > want.limit:
        data, status = b"", "refused"
    found = memoryview(data)[want.offset :]
    for start in range(0, len(found), limits.FRAME_BODY_BYTES):
        body = bytes(found[start : start + limits.FRAME_BODY_BYTES])
        yield wire.FromGateway(data=wire.Data(want=want.id, offset=want.offset + start, body=body))
    yield wire.FromGateway(end=wire.End(want=want.id, status=status, length=len(found)))


def packed(files: Mapping[str, bytes], want: wire.Want) -> Iterator[wire.FromGateway]:
    """Yield what an honest gateway answers to a want of a pack: the product's own bytes."""
    source, sent = PackedSource(MemorySource(dict(files))), 0
    try:
        for body in framed(source.fetch(want.path, offset=want.offset, limit=want.limit)):
            yield wire.FromGateway(
                data=wire.Data(want=want.id, offset=want.offset + sent, body=body)
            )
            sent += len(body)
        status = "ok"
    except NotFound:
        status = "not_found"
    yield wire.FromGateway(end=wire.End(want=want.id, status=status, length=sent))


class SimGateway:
    """A gateway that dials one node."""

    def __init__(
        self,
        authority: Authority,
        files: Mapping[str, bytes],
        *,
        port: int,
        node: str,
        leaf: Leaf | None = None,
        confirm: Callable[[wire.Awaited], bytes] | None = None,
    ) -> None:
        """confirm: returns the order that lets a release stay; None: a gateway that never does."""
        self.authority, self.files, self.port, self.node = authority, files, port, node
        self.leaf = leaf or authority.leaf("gateway", "g1")
        self.confirm = confirm
        self.confirms_as: Leaf | None = None  # another gateway that confirms

    def channel(self) -> grpc.aio.Channel:
        """Return a new channel to the node."""
        return channel(
            f"127.0.0.1:{self.port}",
            role="node",
            name=self.node,
            domain=self.authority.domain,
            issuer_pems=self.authority.issuer_pem("node"),
            key=self.leaf.key_pem,
            chain_pem=self.leaf.chain_pem,
        )

    async def order(
        self,
        envelope: bytes,
        *,
        cut: Cut | None = None,
        serve: Serve | None = None,
        until: Callable[[Said], bool] | None = None,
        ahead: Sequence[wire.Ahead] = (),
    ) -> Said:
        """Return what the node said to the order, after it ended the call or the line broke.

        What it wants confirmed is confirmed over a new connection, and what it says there is in the
        answer, too. until: hang up as soon as it is true; ahead: files that go with the order
        """
        said = Said()
        first = wire.FromGateway(offer=wire.Offer(order=envelope, ahead=ahead))
        async with self.channel() as line:
            await self._talk(line, first, said, cut=cut, serve=serve, until=until)
        if said.awaits and self.confirm is not None and not said.is_cut:
            self.leaf = self.confirms_as or self.leaf
            async with self._anew() as (line, awaited):
                if awaited is not None:
                    first = wire.FromGateway(confirm=wire.Confirm(order=self.confirm(awaited)))
                    await self._talk(line, first, said, serve=serve, until=until)
        return said

    async def awaited(self) -> wire.Awaited | None:
        """Return what the node wants confirmed, with its nonce, over a connection made now."""
        async with self._anew() as (_, awaited):
            return awaited

    @asynccontextmanager
    async def _anew(
        self, *, seconds: float = 10
    ) -> AsyncIterator[tuple[grpc.aio.Channel, wire.Awaited | None]]:
        """Yield a connection that the node takes for new, and what it wants confirmed over it."""
        end = time.monotonic() + seconds
        while True:
            async with self.channel() as line:
                found: Any = None
                with suppress(grpc.aio.AioRpcError):
                    found = await self._status_on(line, only_awaited=True)
                if found is not None and (found.awaited.nonce or not found.HasField("awaited")):
                    yield line, found.awaited if found.awaited.nonce else None
                    return
                if time.monotonic() >= end:
                    yield line, None
                    return
            await asyncio.sleep(0.02)

    async def say(self, first: wire.FromGateway) -> Said:
        """Return what the node said to this first message."""
        said = Said()
        async with self.channel() as line:
            await self._talk(line, first, said)
        return said

    async def _talk(
        self,
        line: grpc.aio.Channel,
        first: wire.FromGateway,
        said: Said,
        *,
        cut: Cut | None = None,
        serve: Serve | None = None,
        until: Callable[[Said], bool] | None = None,
    ) -> None:
        stub: Any = node_pb2_grpc.NodeStub(line)
        call = stub.Order(timeout=50)
        try:
            await call.write(first)
            while (message := await call.read()) is not grpc.aio.EOF:
                await self._answer(call, message, said, cut=cut, serve=serve)
                if until is not None and until(said):
                    raise CutOff
            said.code = await call.code()
        except CutOff:
            said.is_cut = True
            call.cancel()
        except grpc.aio.AioRpcError as problem:
            said.code, said.details = problem.code(), problem.details() or ""
        except asyncio.InvalidStateError:  # a write after the node ended the call
            said.code, said.details = await call.code(), await call.details()

    async def _answer(
        self, call: Any, message: Any, said: Said, *, cut: Cut | None, serve: Serve | None
    ) -> None:
        match message.WhichOneof("kind"):
            case "want":
                said.wants.append(message.want)
                answers = serve(message.want) if serve else pieces(self.files, message.want)
                for answer in answers:
                    await call.write(answer)
                    await check_cut(cut, message.want, answer)
            case "awaits":
                said.awaits.append(message.awaits.tx)
            case "receipt" if message.receipt.signed not in said.receipts:
                said.receipts.append(message.receipt.signed)
                said.bodies.append(message.receipt.body)
            case "refusal":
                said.refusals.append((message.refusal.kind, message.refusal.reason))
            case "progress":
                said.progress.append(message.progress.state)

    async def status(self, approval: str = "") -> Any:
        """Return the node's answer to Status; approval: a role whose file is asked for too."""
        async with self.channel() as line:
            return await self._status_on(line, approval)

    async def _status_on(
        self, line: grpc.aio.Channel, approval: str = "", *, only_awaited: bool = False
    ) -> Any:
        stub: Any = node_pb2_grpc.NodeStub(line)
        asked = wire.StatusRequest(approval=approval, only_awaited=only_awaited)
        return await stub.Status(asked, timeout=20)


async def check_cut(cut: Cut | None, want: wire.Want, answer: wire.FromGateway) -> None:
    """Raise CutOff when the line is to break after this answer."""
    if cut is not None and want.path == cut.path and answer.WhichOneof("kind") == "data":
        end = answer.data.offset + len(answer.data.body)
        if end >= cut.after:
            while not cut.ready():
                await asyncio.sleep(0.01)
            raise CutOff
