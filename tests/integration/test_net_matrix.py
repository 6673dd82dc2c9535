"""The authorization matrix, RPC x role: every listener's real table, at a real listener."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor

from embrasure.errors import Refused
from embrasure.net import renewal
from embrasure.net.authorize import Table
from embrasure.net.credentials import Pair, ServerKeys, channel
from embrasure.net.door import DOOR_TABLE
from embrasure.net.identity import PROFILES, Role
from embrasure.net.server import Service, bind, build_server
from embrasure.net.trustbundle import TrustHolder
from embrasure.wire import admin_pb2, admin_pb2_grpc, mirror_pb2, mirror_pb2_grpc
from gateway.service_table import ADMIN_TABLE
from mirror.collect import COLLECT_TABLE
from mirror.receive import INGEST_TABLE
from node import join_service
from node.doorway import TABLE as NODE_DOOR_TABLE
from node.push import TABLE as NODE_TABLE
from tests.ablation import Ablation
from tests.simulate.authority import CLIENT, Authority, Leaf
from tests.simulate.listener import trust_from

AUTHORITY = Authority()
LISTENERS: Mapping[str, Mapping[str, frozenset[Role]]] = {
    "node, push": {**NODE_TABLE, **renewal.TABLE, **join_service.TABLE, **NODE_DOOR_TABLE},
    "mirror, ingest": {**INGEST_TABLE, **renewal.TABLE},
    "letterbox, collect": {**INGEST_TABLE, **COLLECT_TABLE, **renewal.TABLE},
    "gateway, admin": ADMIN_TABLE,
    "door": DOOR_TABLE,
}
# docs/certificates.md: who may call anything at all on a listener.
MAY_CALL: Mapping[str, frozenset[Role]] = {
    "node, push": frozenset({"gateway"}),
    "mirror, ingest": frozenset({"gateway"}),
    "letterbox, collect": frozenset({"gateway"}),
    "gateway, admin": frozenset({"operator"}),
    "door": frozenset({"gateway", "operator"}),
}
INGEST = mirror_pb2.DESCRIPTOR.services_by_name["MirrorIngest"]
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
SERVED: Mapping[str, tuple[ServiceDescriptor, Any, str, Role]] = {
    "mirror, ingest": (INGEST, mirror_pb2_grpc.add_MirrorIngestServicer_to_server, "Missing",
                       "gateway"),
    "gateway, admin": (ADMIN, admin_pb2_grpc.add_AdminServicer_to_server, "Whoami", "operator"),
}  # fmt: skip


@pytest.mark.parametrize("listener", LISTENERS)
def test_every_method_of_a_listener_admits_exactly_its_roles(listener: str) -> None:
    assert set(LISTENERS[listener].values()) == {MAY_CALL[listener]}


class Stub:
    """Has every method of a service; counts calls."""

    def __init__(self, service: ServiceDescriptor) -> None:
        self.calls = 0
        for method in service.methods:
            setattr(self, method.name, self._answer(method))

    def _answer(self, method: Any) -> Any:
        reply = method.output_type._concrete_class

        async def answer(request: object, context: object) -> object:
            self.calls += 1
            return reply()

        return answer


@asynccontextmanager
async def serving(
    listener: str, *, trusted: tuple[Role, ...], table: Table | None = None
) -> AsyncIterator[tuple[int, Stub]]:
    """A listener of this kind whose TLS believes the issuers of `trusted`."""
    service, add, _, _ = SERVED[listener]
    leaf, stub = AUTHORITY.leaf("mirror", "m1"), Stub(service)
    holder = TrustHolder(trust_from(AUTHORITY))
    keys = ServerKeys(Pair(leaf.key_pem, leaf.chain_pem), holder, roles=list(trusted))
    own = {f"/{service.full_name}/{method.name}" for method in service.methods}
    real = {name: roles for name, roles in LISTENERS[listener].items() if name in own}
    server = build_server([Service(service, add, stub)], table or real, holder)
    port = bind(server, "127.0.0.1:0", keys)
    await server.start()
    try:
        yield port, stub
    finally:
        await server.stop(0)


async def call(listener: str, port: int, leaf: Leaf) -> None:
    service, _, method, _ = SERVED[listener]
    async with channel(
        f"127.0.0.1:{port}", role="mirror", name="m1", domain=AUTHORITY.domain,
        issuer_pems=AUTHORITY.issuer_pem("mirror"), key=leaf.key_pem, chain_pem=leaf.chain_pem,
    ) as line:  # fmt: skip
        make: Any = line.unary_unary(f"/{service.full_name}/{method}")
        await make(b"", timeout=10)


@pytest.mark.parametrize("listener", SERVED)
@pytest.mark.parametrize("role", PROFILES)
def test_only_the_role_of_the_table_reaches_a_handler(listener: str, role: Role) -> None:
    async def work() -> None:
        right = SERVED[listener][3]
        # The most that TLS could let through: every issuer there is.
        async with serving(listener, trusted=tuple(PROFILES)) as (port, stub):
            leaf = AUTHORITY.leaf(role, "anna" if role == "operator" else "g1")
            if role == right:
                await call(listener, port, leaf)
                assert stub.calls == 1
                return
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(listener, port, leaf)
            assert stub.calls == 0
            # Leaves of servers end in TLS, those of clients at the table; neither learns why.
            assert caught.value.details() == "denied" or not PROFILES[role].client

    asyncio.run(work())


@pytest.mark.misuse
@pytest.mark.parametrize("listener", SERVED)
def test_a_node_is_no_client_of_a_mirror_or_of_the_admin_service(
    listener: str, ablation: Ablation
) -> None:
    """Not even one whose issuer was stolen and certified it as a client."""

    async def work() -> None:
        plain = AUTHORITY.leaf("node", "n1")
        forged = AUTHORITY.leaf("node", "n1", usages=[CLIENT], dns=[])
        right = SERVED[listener][3]
        for trusted in ((right,), tuple(PROFILES)):
            async with serving(listener, trusted=trusted) as (port, stub):
                for leaf in (plain, forged):
                    with pytest.raises(grpc.aio.AioRpcError):
                        await call(listener, port, leaf)
                assert stub.calls == 0
        with ablation("trust set, profile and table") as attack:
            attack.without(
                "embrasure.net.authorize.Peers._check_profile", lambda *_, **__: "0" * 64
            )
            own = {
                f"/{SERVED[listener][0].full_name}/{m.name}" for m in SERVED[listener][0].methods
            }
            open_table: Table = dict.fromkeys(own, frozenset[Role]({"node"}))
            async with serving(
                listener, trusted=tuple(PROFILES), table=open_table
            ) as (port, stub):  # fmt: skip
                await call(listener, port, forged)
                attack.succeeded(stub.calls == 1)

    asyncio.run(work())


def test_a_listener_with_a_method_that_no_table_names_does_not_start() -> None:
    async def work() -> None:
        service, add, _, _ = SERVED["mirror, ingest"]
        holder = TrustHolder(trust_from(AUTHORITY))
        table = dict(INGEST_TABLE)
        table.popitem()
        with pytest.raises(Refused) as caught:
            build_server([Service(service, add, Stub(service))], table, holder)
        assert caught.value.reason == "table"

    asyncio.run(work())


def test_a_configuration_for_a_handshake_is_made_out_of_memory_in_no_time() -> None:
    leaf = AUTHORITY.leaf("node", "n1")
    holder = TrustHolder(trust_from(AUTHORITY))
    keys = ServerKeys(Pair(leaf.key_pem, leaf.chain_pem), holder, roles=["gateway"])
    began = time.process_time()
    for _ in range(200):
        assert keys.fetch() is not None
    each_ms = (time.process_time() - began) * 1000 / 200
    print(f"figure: tls_configuration_cpu = {each_ms:.3f} ms")
    assert each_ms < 50
