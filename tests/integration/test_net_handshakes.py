"""Handshakes of real listeners: which TLS and key exchange, no ticket, whom a caller reached."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest

from embrasure.clock import now
from embrasure.errors import Failed, Misuse, Refused
from embrasure.net.credentials import Pair, ServerKeys, channel
from embrasure.net.identity import Identity
from embrasure.net.server import bind, server_options
from embrasure.net.trustbundle import Trust, TrustHolder
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.listener import METHODS, call, listening, refused
from tests.simulate.rawhttp2 import call_by_hand, client_context

HOST = "n1.node.fleet.example.internal"
G1 = Identity("gateway", "g1")
ALLOWED = "embrasure.net.authorize.Authorize.allowed"


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.misuse
def test_a_tls_1_2_caller_is_refused(
    authority: Authority, tmp_path: Path, ablation: Ablation
) -> None:
    async def work() -> None:
        async with listening(authority, groups="any") as listener:
            context = client_context(authority, authority.leaf("gateway", "g1"), tmp_path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            method = METHODS["unary_unary"]
            with pytest.raises(ssl.SSLError):
                await asyncio.to_thread(call_by_hand, listener.port, context, method, host=HOST)
            assert not listener.handlers.ran

    run(work())
    with ablation("the cipher list in gRPC's environment") as attack:
        attack.succeeded(spoken_in_a_process() == ["False", "True"])


def spoken_in_a_process() -> list[str]:
    """Return whether TLS 1.2 is spoken in a process with, and one without, our environment."""
    program = (
        "import embrasure, os, sys\n"
        "if sys.argv[1] == 'off': os.environ.pop('GRPC_SSL_CIPHER_SUITES')\n"
        "from tests.integration.test_net_handshakes import tls_1_2_reached\n"
        "print(tls_1_2_reached())\n"
    )
    return [
        subprocess.run(
            [sys.executable, "-c", program, switch], capture_output=True, text=True, check=True
        ).stdout.strip()
        for switch in ("on", "off")
    ]


def tls_1_2_reached() -> bool:
    """Return whether a listener of this process agrees on TLS 1.2."""

    def shake(port: int, context: ssl.SSLContext) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
                context.wrap_socket(plain, server_hostname=HOST) as sock,
            ):
                return sock.version() == "TLSv1.2"
        except ssl.SSLError:
            return False

    async def work(folder: Path) -> bool:
        authority = Authority()
        async with listening(authority) as listener:
            context = client_context(authority, authority.leaf("gateway", "g1"), folder)
            return await asyncio.to_thread(shake, listener.port, context)

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(work(Path(folder)))


@pytest.mark.misuse
def test_a_key_exchange_without_post_quantum_is_refused_unless_told_otherwise(
    authority: Authority, tmp_path: Path, ablation: Ablation
) -> None:
    async def work() -> None:
        context = client_context(authority, authority.leaf("gateway", "g1"), tmp_path)
        method = METHODS["unary_unary"]
        async with listening(authority) as listener:
            reply = await asyncio.to_thread(call_by_hand, listener.port, context, method, host=HOST)
            assert reply.answered
            assert not listener.handlers.ran
        with ablation("the demand for the hybrid group") as attack:
            async with listening(authority, groups="any") as listener:
                await asyncio.to_thread(call_by_hand, listener.port, context, method, host=HOST)
                attack.succeeded(listener.handlers.ran["unary_unary"] == 1)

    run(work())


async def resume(authority: Authority, folder: Path, *, moment: list[Any]) -> tuple[bool, int]:
    """A caller connects, loses its certificate, and comes back by its ticket a day later.

    Return whether TLS took the ticket, and how often the handler ran for it.
    """
    async with listening(authority, groups="any", clock=lambda: moment[0]) as listener:
        honest = client_context(authority, authority.leaf("gateway", "g1"), folder)
        method = METHODS["unary_unary"]
        first = await asyncio.to_thread(call_by_hand, listener.port, honest, method, host=HOST)
        assert first.session is not None
        assert listener.handlers.ran["unary_unary"] == 1
        try:
            again = await asyncio.to_thread(
                call_by_hand, listener.port, honest, method, host=HOST, session=first.session
            )
        except OSError:
            return False, 0
        return again.reused, listener.handlers.ran["unary_unary"] - 1


@pytest.mark.misuse
def test_no_ticket_is_ever_taken(authority: Authority, tmp_path: Path, ablation: Ablation) -> None:
    reused, _ = asyncio.run(resume(authority, tmp_path, moment=[now()]))
    assert not reused
    with ablation("the new configuration at each handshake") as attack:
        attack.without("embrasure.net.credentials.ServerKeys.fetch")
        reused, ran = asyncio.run(resume(authority, tmp_path, moment=[now()]))
        attack.succeeded(reused)
        # TLS took it, and the second guard still stands.
        assert ran == 0


@pytest.mark.misuse
def test_a_ticket_that_tls_took_is_denied_by_the_guard(
    authority: Authority, tmp_path: Path, ablation: Ablation
) -> None:
    with ablation("both guards against tickets") as attack:
        attack.without("embrasure.net.credentials.ServerKeys.fetch")
        assert asyncio.run(resume(authority, tmp_path, moment=[now()])) == (True, 0)
        attack.without("embrasure.net.authorize.check_not_resumed")
        attack.succeeded(asyncio.run(resume(authority, tmp_path, moment=[now()])) == (True, 1))


@pytest.mark.misuse
def test_a_failing_fetcher_is_counted_and_handshakes_go_on(
    authority: Authority, ablation: Ablation
) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            leaf = authority.leaf("gateway", "g1")
            await listener.call("unary_unary", leaf)
            good = listener.holder.trust
            # Nobody to trust: TLS keeps the last good set, and the guard lets nobody in.
            listener.holder.swap(Trust(authority.domain, {}, None))
            await refused(listener, leaf, "unary_unary")
            assert listener.keys.failures >= 1
            with ablation("the guard behind TLS") as attack:
                attack.without(ALLOWED, lambda *_: G1)
                before = listener.handlers.ran["unary_unary"]
                await listener.call("unary_unary", leaf)
                attack.succeeded(listener.handlers.ran["unary_unary"] == before + 1)
            listener.holder.swap(good)
            await listener.call("unary_unary", leaf)

    run(work())


def test_a_new_certificate_serves_new_connections(authority: Authority) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            other = authority.leaf("node", "n2")
            listener.keys.swap(Pair(other.key_pem, other.chain_pem))
            leaf = authority.leaf("gateway", "g1")
            with pytest.raises(grpc.aio.AioRpcError):
                await listener.call("unary_unary", leaf)
            async with listener.channel(leaf, name="n2") as open_channel:
                await call(open_channel, "unary_unary", METHODS["unary_unary"])

    run(work())


@pytest.mark.misuse
def test_a_caller_speaks_only_with_the_identity_it_dialled(
    authority: Authority, ablation: Ablation
) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            leaf = authority.leaf("gateway", "g1")
            async with listener.channel(leaf, name="n9") as open_channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(open_channel, "unary_unary", METHODS["unary_unary"])
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert not listener.handlers.ran
            with ablation("the demand for one name") as attack:
                attack.without("embrasure.net.credentials.dns_name", lambda *_: HOST)
                async with listener.channel(leaf, name="n9") as open_channel:
                    answer = await call(open_channel, "unary_unary", METHODS["unary_unary"])
                attack.succeeded(answer)

    run(work())


def test_a_caller_cannot_dial_a_role_that_has_no_server(authority: Authority) -> None:
    leaf = authority.leaf("gateway", "g1")
    with pytest.raises(Misuse):
        channel(
            "127.0.0.1:1",
            role="operator",
            name="anna",
            domain=authority.domain,
            issuer_pems=authority.issuer_pem("operator"),
            key=leaf.key_pem,
            chain_pem=leaf.chain_pem,
        )


@pytest.mark.misuse
def test_a_listener_that_trusts_nobody_does_not_start(
    authority: Authority, ablation: Ablation
) -> None:
    leaf = authority.leaf("node", "n1")
    holder = TrustHolder(Trust(authority.domain, {}, None))
    keys = ServerKeys(Pair(leaf.key_pem, leaf.chain_pem), holder, roles=["gateway"])

    async def work() -> None:
        server = grpc.aio.server(options=server_options(4))
        with pytest.raises(Refused, match="at least one issuer"):
            bind(server, "127.0.0.1:0", keys)
        with ablation("the refusal of an empty trust set") as attack:
            attack.without("embrasure.net.trustbundle.Trust.listener_pem", lambda *_: b"")
            attack.succeeded(bind(server, "127.0.0.1:0", keys))
        await server.stop(0)

    run(work())


def test_a_port_in_use_is_told_by_its_address(authority: Authority) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            server = grpc.aio.server(options=server_options(4))
            with pytest.raises(Failed, match="free port"):
                bind(server, f"127.0.0.1:{listener.port}", listener.keys)
            await server.stop(0)

    run(work())
