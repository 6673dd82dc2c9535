"""A hardened gRPC server: exactly the methods of its table, bounded, behind the authorization."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import Failed
from embrasure.net.authorize import Authorize, Groups, Identifies, Peers, Table, check_table
from embrasure.net.credentials import (
    AS_IT_IS,
    AnonymousKeys,
    ServerKeys,
    anonymous_credentials,
    server_credentials,
)
from embrasure.net.trustbundle import TrustHolder


@dataclass(frozen=True, slots=True)
class Service:
    """One service of a listener.

    descriptor: `node_pb2.DESCRIPTOR.services_by_name["Node"]`; add: the generated
    `add_NodeServicer_to_server`; servicer: the object with the handlers.
    """

    descriptor: ServiceDescriptor
    add: Callable[[Any, grpc.aio.Server], object]
    servicer: object


def server_options(connections: int) -> list[tuple[str, int]]:
    """Return the bounds of a listener that takes at most `connections` at once."""
    return [
        # Another process must not share the port and take half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.server_handshake_timeout_ms", limits.HANDSHAKE_MILLISECONDS),
        # The age alone leaves streams alive for ever; the grace ends them.
        ("grpc.max_connection_age_ms", limits.CONNECTION_AGE_MILLISECONDS),
        ("grpc.max_connection_age_grace_ms", limits.CONNECTION_GRACE_MILLISECONDS),
        ("grpc.max_concurrent_streams", limits.STREAMS_PER_CONNECTION),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
        ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
        ("grpc.max_metadata_size", limits.HEADER_BYTES),
        AS_IT_IS,
    ]


def build_server(
    services: Sequence[Service],
    table: Table,
    holder: TrustHolder | Identifies,
    *,
    connections: int = limits.CONNECTIONS,
    groups: Groups = "hybrid",
    clock: Clock = now,
    recheck_s: float = limits.RECHECK_SECONDS,
    bounds: Mapping[str, int] = MappingProxyType({}),
) -> grpc.aio.Server:
    """Return a server that has `services` behind `table`, not yet bound.

    table: "/embrasure.v1.Node/Order" -> roles. holder: whom to believe, or what says who calls
    without any list (the metadata door). bounds: in place of those of `server_options`. To be
    called in the running event loop.
    Raises Refused (`table`) when table and services differ.
    """
    check_table(table, served(services))
    peers = _peers(holder, clock=clock, groups=groups)
    server = grpc.aio.server(
        interceptors=[Authorize(table, peers, recheck_s=recheck_s)],
        options=list({**dict(server_options(connections)), **bounds}.items()),
        compression=grpc.Compression.NoCompression,
    )
    for service in services:
        service.add(service.servicer, server)
    return server


def _peers(holder: TrustHolder | Identifies, *, clock: Clock, groups: Groups) -> Identifies:
    if isinstance(holder, TrustHolder):
        return Peers(holder, clock=clock, groups=groups)
    return holder


def served(services: Sequence[Service]) -> list[tuple[str, Callable[..., object]]]:
    """Return the full name and the function of every method of `services`."""
    return [
        (f"/{service.descriptor.full_name}/{method.name}", getattr(service.servicer, method.name))
        for service in services
        for method in service.descriptor.methods
    ]


def bind(server: grpc.aio.Server, address: str, keys: ServerKeys | AnonymousKeys) -> int:
    """Return the port on which `server` will listen at `address` (`127.0.0.1:0`: any).

    Raises Failed (`bind`), Refused (`no-issuer`).
    """
    if isinstance(keys, ServerKeys):
        credentials = server_credentials(keys)
    else:
        credentials = anonymous_credentials(keys)
    try:
        return server.add_secure_port(address, credentials)
    except RuntimeError as problem:
        raise Failed(
            f"listener {address}",
            expected="a free port of this host",
            got=problem,
            untouched="nothing listens",
            reason="bind",
        ) from None
