"""Push nodes that lie: each behaviour is one script over the raw stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from embrasure.net.credentials import Pair, ServerKeys
from embrasure.net.server import Service, bind, build_server
from embrasure.net.trustbundle import TrustHolder
from embrasure.wire import node_pb2 as wire
from embrasure.wire import node_pb2_grpc
from tests.simulate.agents import TABLE
from tests.simulate.authority import Authority, Leaf
from tests.simulate.listener import trust_from

Requests = AsyncIterator[wire.FromGateway]
Script = Callable[[Requests], AsyncIterator[wire.FromNode]]


@dataclass
class Liar:
    """A node that answers every order by its script."""

    script: Script

    async def Order(self, requests: Requests, context: Any) -> AsyncIterator[wire.FromNode]:
        async for message in self.script(requests):
            yield message

    async def Status(self, request: wire.StatusRequest, context: Any) -> wire.StatusReply:
        return wire.StatusReply()


@asynccontextmanager
async def lying(
    authority: Authority, name: str, script: Script, *, leaf: Leaf | None = None
) -> AsyncIterator[int]:
    """A liar listens as node `name`, with its honest certificate or `leaf`; yields the port."""
    own = leaf or authority.leaf("node", name)
    holder = TrustHolder(trust_from(authority))
    keys = ServerKeys(Pair(own.key_pem, own.chain_pem), holder, roles=["gateway"])
    service = wire.DESCRIPTOR.services_by_name["Node"]
    server = build_server(
        [Service(service, node_pb2_grpc.add_NodeServicer_to_server, Liar(script))], TABLE, holder
    )
    port = bind(server, "127.0.0.1:0", keys)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)
