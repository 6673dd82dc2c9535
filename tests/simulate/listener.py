"""A real gRPC listener with one method of each of the four kinds, and callers of any identity."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.net.authorize import Groups, Table, peer
from embrasure.net.credentials import Pair, ServerKeys, channel
from embrasure.net.server import Service, bind, build_server
from embrasure.net.trustbundle import Trust, TrustHolder
from embrasure.wire import mirror_pb2, mirror_pb2_grpc, node_pb2, node_pb2_grpc
from tests.simulate.authority import Authority, Leaf

GATEWAY = frozenset({"gateway"})
DENIED = (grpc.StatusCode.PERMISSION_DENIED, "denied")
# One of each kind: unary, writing stream, reading stream, both.
METHODS = {
    "unary_unary": "/embrasure.v1.Node/Status",
    "unary_stream": "/embrasure.v1.Letterbox/Collect",
    "stream_unary": "/embrasure.v1.MirrorIngest/Put",
    "stream_stream": "/embrasure.v1.Node/Order",
}
TABLE: Table = {
    name: frozenset({"gateway"})
    for name in (
        "/embrasure.v1.Node/Order",
        "/embrasure.v1.Node/Status",
        "/embrasure.v1.MirrorIngest/Missing",
        "/embrasure.v1.MirrorIngest/Put",
        "/embrasure.v1.MirrorIngest/Publish",
        "/embrasure.v1.MirrorIngest/Shown",
        "/embrasure.v1.Letterbox/Collect",
        "/embrasure.v1.Letterbox/Acknowledge",
    )
}
Raise = Callable[[], BaseException]


@dataclass
class Handlers:
    """Every method of the three services: counts what ran, waits or fails when told to."""

    ran: Counter[str] = field(default_factory=Counter)
    callers: list[str] = field(default_factory=list)
    wait: asyncio.Event | None = None
    fail: Raise | None = None

    async def _run(self, name: str, context: Any) -> None:
        self.ran[name] += 1
        self.callers.append(str(peer(context)))
        if self.fail is not None:
            raise self.fail()
        if self.wait is not None:
            await self.wait.wait()
        self.ran[f"{name} ended"] += 1

    async def Status(self, request: object, context: Any) -> node_pb2.StatusReply:
        await self._run("unary_unary", context)
        return node_pb2.StatusReply(node="n1")

    async def Collect(self, request: object, context: Any) -> AsyncIterator[mirror_pb2.Post]:
        await self._run("unary_stream", context)
        yield mirror_pb2.Post(rseq=1)

    async def Put(self, requests: AsyncIterator[object], context: Any) -> mirror_pb2.PutReply:
        await self._run("stream_unary", context)
        async for _ in requests:
            pass
        return mirror_pb2.PutReply(held=1)

    async def Order(
        self, requests: AsyncIterator[object], context: Any
    ) -> AsyncIterator[node_pb2.FromNode]:
        await self._run("stream_stream", context)
        async for _ in requests:
            yield node_pb2.FromNode()

    async def Missing(self, request: object, context: Any) -> mirror_pb2.MissingReply:
        return mirror_pb2.MissingReply()

    async def Publish(self, request: object, context: Any) -> mirror_pb2.PublishReply:
        return mirror_pb2.PublishReply()

    async def Shown(self, request: object, context: Any) -> mirror_pb2.ShownReply:
        return mirror_pb2.ShownReply()

    async def Acknowledge(self, request: object, context: Any) -> mirror_pb2.AcknowledgeReply:
        return mirror_pb2.AcknowledgeReply()


@dataclass
class Listener:
    """A listener that runs: where, what it holds, and how to call it."""

    authority: Authority
    port: int
    handlers: Handlers
    holder: TrustHolder
    keys: ServerKeys

    def channel(self, leaf: Leaf, *, name: str = "n1") -> grpc.aio.Channel:
        """Return a channel of the caller `leaf` to this listener."""
        return channel(
            f"127.0.0.1:{self.port}",
            role="node",
            name=name,
            domain=self.authority.domain,
            issuer_pems=self.authority.issuer_pem("node"),
            key=leaf.key_pem,
            chain_pem=leaf.chain_pem,
        )

    async def call(self, kind: str, leaf: Leaf, method: str | None = None) -> object:
        """Return the answer to one call of `kind` (a key of METHODS) by `leaf`."""
        async with self.channel(leaf) as open_channel:
            return await call(open_channel, kind, method or METHODS[kind])


async def call(open_channel: grpc.aio.Channel, kind: str, method: str) -> object:
    """Return the raw answer to one call with an empty message; raises grpc.aio.AioRpcError."""

    async def requests() -> AsyncIterator[bytes]:
        yield b""

    make: Any = getattr(open_channel, kind)(
        method, request_serializer=bytes, response_deserializer=bytes
    )
    running: Any = make(requests() if kind.startswith("stream") else b"", timeout=10)
    if kind.endswith("unary"):
        return await running
    return [item async for item in running]


async def refused(listener: Listener, leaf: Leaf, kind: str, method: str | None = None) -> None:
    """The call is refused, and no handler ran."""
    before = sum(listener.handlers.ran.values())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await listener.call(kind, leaf, method)
    # A writer on a refused stream may see its own local error first.
    assert (caught.value.code(), caught.value.details()) == DENIED or caught.value.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
    )
    assert sum(listener.handlers.ran.values()) == before


def trust_from(authority: Authority, gateways: frozenset[str] | None = None) -> Trust:
    """Return the trust of a listener that believes every issuer of `authority`."""
    issuers = {name: (found.certificate,) for name, found in authority.issuers.items()}
    return Trust(authority.domain, issuers, gateways)  # type: ignore[arg-type]  # names are ISSUERS


@asynccontextmanager
async def listening(
    authority: Authority,
    *,
    groups: Groups = "hybrid",
    clock: Clock = now,
    recheck_s: float = 5.0,
    gateways: frozenset[str] | None = None,
    connections: int = limits.CONNECTIONS,
) -> AsyncIterator[Listener]:
    """A listener of the node `n1` that gateways may call, stopped at the end."""
    leaf = authority.leaf("node", "n1")
    holder = TrustHolder(trust_from(authority, gateways))
    keys = ServerKeys(Pair(leaf.key_pem, leaf.chain_pem), holder, roles=["gateway"])
    handlers = Handlers()
    node = node_pb2.DESCRIPTOR.services_by_name["Node"]
    mirror = mirror_pb2.DESCRIPTOR.services_by_name
    server = build_server(
        [
            Service(node, node_pb2_grpc.add_NodeServicer_to_server, handlers),
            Service(
                mirror["MirrorIngest"], mirror_pb2_grpc.add_MirrorIngestServicer_to_server, handlers
            ),
            Service(mirror["Letterbox"], mirror_pb2_grpc.add_LetterboxServicer_to_server, handlers),
        ],
        TABLE,
        holder,
        connections=connections,
        groups=groups,
        clock=clock,
        recheck_s=recheck_s,
    )
    port = bind(server, "127.0.0.1:0", keys)
    await server.start()
    try:
        yield Listener(authority, port, handlers, holder, keys)
    finally:
        await server.stop(0)
