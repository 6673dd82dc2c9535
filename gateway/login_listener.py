"""The log-in port: beside the operators' one, with the same certificate and no other caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cryptography import x509

from embrasure.clock import Clock
from embrasure.net.anonymous import build_anonymous_server
from embrasure.net.credentials import AnonymousKeys
from embrasure.net.server import Service, bind
from embrasure.wire import login_pb2, login_pb2_grpc
from gateway.login import Login, LoginDesk
from gateway.people import People
from gateway.service_table import LOGIN_METHODS

if TYPE_CHECKING:
    from gateway.run import Opened

DRAIN_SECONDS = 1.0


def login_desk(held: Opened, people: People, *, clock: Clock) -> LoginDesk | None:
    """Return the desk of a gateway that has the operators' issuer, else None."""
    if held.operators is None:
        return None

    def admin() -> x509.Certificate:
        return x509.load_pem_x509_certificates(held.certificates.admin().chain_pem)[0]

    return LoginDesk(
        held.repository,
        people,
        issuer=held.operators,
        admin=admin,
        journal=held.journal,
        clock=clock,
    )


def counts_of(desk: LoginDesk | None) -> dict[str, int]:
    """Return how often log-ins were refused, for the metrics."""
    if desk is None:
        return {}
    return {"login_refused": desk.sources.refused, "login_paused": desk.sources.paused}


@asynccontextmanager
async def login_port(
    held: Opened, desk: LoginDesk | None
) -> AsyncIterator[tuple[dict[str, int], list[AnonymousKeys]]]:
    """Serve log-ins until the block ends, if this gateway does; raises Failed (`bind`).

    Yields the port by its name, and what to swap when the certificate is renewed.
    """
    if desk is None or held.config.login is None:
        yield {}, []
        return
    keys = AnonymousKeys(held.certificates.admin())
    server = build_anonymous_server(
        [
            Service(
                login_pb2.DESCRIPTOR.services_by_name["Login"],
                login_pb2_grpc.add_LoginServicer_to_server,
                Login(desk),
            )
        ],
        LOGIN_METHODS,
    )
    port = bind(server, held.config.login, keys)
    await server.start()
    try:
        yield {"login": port}, [keys]
    finally:
        await server.stop(DRAIN_SECONDS)
