"""Real TLS between real listeners and callers of every kind: who gets in, and who never does."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import Failed, Misuse, Refused
from embrasure.net.authorize import Authorize
from embrasure.net.credentials import Pair, ServerKeys, channel
from embrasure.net.identity import Identity
from embrasure.net.server import bind, server_options
from embrasure.net.status import error_of
from embrasure.net.trustbundle import Trust, TrustHolder
from tests.ablation import Ablation
from tests.simulate.authority import CLIENT, SERVER, Authority, Leaf
from tests.simulate.listener import METHODS, Listener, call, listening, trust_from
from tests.simulate.rawhttp2 import call_by_hand, client_context

HOST = "n1.node.fleet.example.internal"
DENIED = (grpc.StatusCode.PERMISSION_DENIED, "denied")
G1 = Identity("gateway", "g1")
# The guards of a listener, by their names.
IDENTIFY = "embrasure.net.authorize.Peers.identify"
PROFILE = "embrasure.net.authorize.Peers._check_profile"
ALLOWED = "embrasure.net.authorize.Authorize.allowed"
INTERCEPT = "embrasure.net.authorize.Authorize.intercept_service"


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def straight(
    self: Authorize, continuation: Callable[[Any], Awaitable[Any]], details: object
) -> object:
    """Hand a call on as a listener without our interceptor does."""
    return await continuation(details)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


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


@pytest.mark.parametrize("kind", METHODS)
def test_a_gateway_may_call_every_kind_of_method(authority: Authority, kind: str) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            await listener.call(kind, authority.leaf("gateway", "g1"))
            assert listener.handlers.ran[f"{kind} ended"] == 1
            assert listener.handlers.callers == ["gateway/g1"]

    run(work())


# Each is a certificate that gRPC itself would let in, and that Python's guard must not.
FORGED: dict[str, dict[str, Any]] = {
    "common name instead of a URI": {
        "uris": [],
        "san": False,
        "common_name": "spiffe://fleet.example/gateway/g1",
    },
    "dns name that holds a spiffe text": {
        "uris": [],
        "dns": ["spiffe://fleet.example/gateway/g1"],
    },
    "dns name beside the uri": {"dns": ["gateway.example"]},
    "two uris": {
        "uris": ["spiffe://fleet.example/gateway/g1", "spiffe://fleet.example/gateway/g2"]
    },
    "dots": {"uris": ["spiffe://fleet.example/node/../gateway/g1"]},
    "percent": {"uris": ["spiffe://fleet.example/gateway%2fg1"]},
    "query": {"uris": ["spiffe://fleet.example/gateway/g1?role=node"]},
    "upper case": {"uris": ["spiffe://fleet.example/GATEWAY/g1"]},
    "trailing slash": {"uris": ["spiffe://fleet.example/gateway/g1/"]},
    "foreign domain": {"uris": ["spiffe://other.example/gateway/g1"]},
    "role of another issuer": {"uris": ["spiffe://fleet.example/operator/anna"]},
    "no usage": {"usages": []},
    "two usages": {"usages": [CLIENT, SERVER]},
    "names not critical": {"san_critical": False},
    "may issue": {"ca": True},
    "lives for two days": {"life": timedelta(hours=48)},
    "common name beside the uri": {"common_name": "g1"},
}


# Only the profile sees what is wrong with these; the others already name nobody.
PROFILE_ALONE = {"no usage", "two usages", "names not critical", "may issue",
                 "common name beside the uri"}  # fmt: skip


@pytest.mark.misuse
@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_certificate_of_the_right_issuer_is_denied_and_grpc_would_let_it_in(
    authority: Authority, forgery: str, ablation: Ablation
) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            leaf = authority.leaf("gateway", "g1", **FORGED[forgery])
            await refused(listener, leaf, "unary_unary")
            with ablation("the profile" if forgery in PROFILE_ALONE else "the name") as attack:
                if forgery in PROFILE_ALONE:
                    attack.without(PROFILE)
                else:
                    attack.without(IDENTIFY, lambda *_: G1)
                    attack.without("tests.simulate.listener.peer", lambda _: G1)
                await listener.call("unary_unary", leaf)
                attack.succeeded(listener.handlers.ran["unary_unary"] == 1)

    run(work())


@pytest.mark.misuse
@pytest.mark.parametrize("role", ["node", "mirror", "letterbox", "gateway-admin", "operator"])
def test_another_role_is_no_client_of_a_node(
    authority: Authority, role: str, ablation: Ablation
) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            name = "anna" if role == "operator" else "n1"
            await refused(listener, authority.leaf(role, name), "unary_unary")
            forged = authority.leaf(role, name, usages=[CLIENT])
            await refused(listener, forged, "unary_unary")
            with ablation("one trust set a listener, and the table of roles") as attack:
                listener.keys.roles = (role,)  # type: ignore[assignment]  # one of the roles
                attack.without(ALLOWED, lambda *_: G1)
                await listener.call("unary_unary", forged)
                attack.succeeded(listener.handlers.callers == [f"{role}/{name}"])

    run(work())


@pytest.mark.misuse
def test_a_stranger_and_a_foreign_authority_are_denied(
    authority: Authority, ablation: Ablation
) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            stranger = Authority()
            leaf = stranger.leaf("gateway", "g1")
            await refused(listener, leaf, "unary_unary")
            with ablation("the trust in our own issuers alone") as attack:
                listener.holder.swap(trust_from(stranger))
                await listener.call("unary_unary", leaf)
                attack.succeeded(listener.handlers.ran["unary_unary"] == 1)

    run(work())


@pytest.mark.misuse
@pytest.mark.parametrize("kind", METHODS)
def test_the_guard_stands_before_all_four_kinds(
    authority: Authority, kind: str, ablation: Ablation
) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            leaf = authority.leaf("gateway", "g1", usages=[])
            await refused(listener, leaf, kind)
            with ablation("the interceptor") as attack:
                attack.without(INTERCEPT, straight)
                await listener.call(kind, leaf)
                attack.succeeded(listener.handlers.ran[kind] == 1)

    run(work())


@pytest.mark.misuse
@pytest.mark.parametrize(
    "method",
    [
        "/embrasure.v1.Node/Nothing",
        "/embrasure.v1.Admin/Approve",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
def test_unknown_health_and_reflection_answer_like_a_forbidden_method(
    authority: Authority, method: str, ablation: Ablation
) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            for leaf in (authority.leaf("gateway", "g1"), authority.leaf("gateway", "x", ca=True)):
                for kind in METHODS:
                    await refused(listener, leaf, kind, method)
            with ablation("the interceptor") as attack:
                # Who may not call learns what is served here.
                attack.without(INTERCEPT, straight)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await listener.call("unary_unary", leaf, method)
                attack.succeeded(caught.value.code() == grpc.StatusCode.UNIMPLEMENTED)

    run(work())


@pytest.mark.misuse
def test_a_gateway_that_tls_json_does_not_list_is_denied(
    authority: Authority, ablation: Ablation
) -> None:
    async def work() -> None:
        async with listening(authority, gateways=frozenset({"g1"})) as listener:
            await refused(listener, authority.leaf("gateway", "g2"), "unary_unary")
            await listener.call("unary_unary", authority.leaf("gateway", "g1"))
            with ablation("the list of gateways") as attack:
                attack.without("embrasure.net.trustbundle.Trust.check_admitted")
                await listener.call("unary_unary", authority.leaf("gateway", "g2"))
                attack.succeeded(listener.handlers.callers[-1] == "gateway/g2")

    run(work())


@pytest.mark.misuse
@pytest.mark.parametrize("kind", METHODS)
def test_a_running_call_ends_when_its_peer_is_no_longer_trusted(
    authority: Authority, kind: str, ablation: Ablation
) -> None:
    async def denied_while_it_runs(listener: Listener) -> asyncio.Task[object]:
        listener.handlers.wait = asyncio.Event()
        running = asyncio.create_task(listener.call(kind, authority.leaf("gateway", "g1")))
        while not listener.handlers.ran[kind]:
            await asyncio.sleep(0.01)
        listener.holder.swap(trust_from(authority, frozenset({"g2"})))
        return running

    async def work() -> None:
        async with listening(authority, recheck_s=0.05) as listener:
            running = await denied_while_it_runs(listener)
            with pytest.raises(grpc.aio.AioRpcError):
                await asyncio.wait_for(running, 5)
            assert listener.handlers.ran[f"{kind} ended"] == 0
        with ablation("the check again while a call runs") as attack:
            async with listening(authority, recheck_s=1000) as listener:
                running = await denied_while_it_runs(listener)
                await asyncio.sleep(0.2)  # four times as long as the guard takes
                assert listener.handlers.wait is not None
                listener.handlers.wait.set()
                attack.succeeded(await running is not None)
                attack.succeeded(listener.handlers.ran[f"{kind} ended"] == 1)

    run(work())


@pytest.mark.misuse
def test_an_open_connection_does_not_outlive_its_certificate(
    authority: Authority, ablation: Ablation
) -> None:
    moment = now()

    async def work() -> None:
        nonlocal moment
        async with (
            listening(authority, clock=lambda: moment) as listener,
            listener.channel(authority.leaf("gateway", "g1")) as open_channel,
        ):
            await call(open_channel, "unary_unary", METHODS["unary_unary"])
            moment += timedelta(hours=24)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(open_channel, "unary_unary", METHODS["unary_unary"])
            assert (caught.value.code(), caught.value.details()) == DENIED
            with ablation("the dates, read again at each call") as attack:
                attack.without("embrasure.net.authorize.check_life")
                await call(open_channel, "unary_unary", METHODS["unary_unary"])
                attack.succeeded(listener.handlers.ran["unary_unary"] == 2)

    run(work())


@pytest.mark.misuse
def test_a_new_issuer_ends_the_trust_in_connections_of_the_old_one(
    authority: Authority, ablation: Ablation
) -> None:
    async def work() -> None:
        async with (
            listening(authority) as listener,
            listener.channel(authority.leaf("gateway", "g1")) as open_channel,
        ):
            await call(open_channel, "unary_unary", METHODS["unary_unary"])
            other = authority.new_issuer("gateway").certificate
            trust = trust_from(authority)
            listener.holder.swap(Trust(trust.domain, {**trust.issuers, "gateway": (other,)}, None))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(open_channel, "unary_unary", METHODS["unary_unary"])
            assert (caught.value.code(), caught.value.details()) == DENIED
            with ablation("the profile under the trust of now") as attack:
                attack.without(PROFILE)
                await call(open_channel, "unary_unary", METHODS["unary_unary"])
                attack.succeeded(listener.handlers.ran["unary_unary"] == 2)

    run(work())


@pytest.mark.misuse
def test_a_peer_has_a_bounded_number_of_open_calls(
    authority: Authority, ablation: Ablation
) -> None:
    most, method = limits.OPEN_CALLS_PER_PEER, METHODS["unary_unary"]

    async def work() -> None:
        async with listening(authority) as listener:
            listener.handlers.wait = asyncio.Event()
            leaf = authority.leaf("gateway", "g1")
            async with listener.channel(leaf) as open_channel:
                held = [
                    asyncio.create_task(call(open_channel, "unary_unary", method))
                    for _ in range(most)
                ]
                while listener.handlers.ran["unary_unary"] < most:
                    await asyncio.sleep(0.01)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(open_channel, "unary_unary", method)
                assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                listener.handlers.wait.set()
                await asyncio.gather(*held)
                await call(open_channel, "unary_unary", method)

    async def flood() -> int:
        async with listening(authority) as listener:
            listener.handlers.wait = asyncio.Event()
            async with listener.channel(authority.leaf("gateway", "g1")) as open_channel:
                held = [
                    asyncio.create_task(call(open_channel, "unary_unary", method))
                    for _ in range(most + 1)
                ]
                while (found := listener.handlers.ran["unary_unary"]) <= most:
                    await asyncio.sleep(0.01)
                listener.handlers.wait.set()
                await asyncio.gather(*held)
                return found

    run(work())
    with ablation("the bound on one peer's calls") as attack:
        endless = functools.partial(Authorize, calls_per_peer=10**9)
        attack.without("embrasure.net.server.Authorize", endless)
        attack.succeeded(asyncio.run(flood()) > most)


@pytest.mark.misuse
@pytest.mark.parametrize("kind", METHODS)
def test_the_text_of_an_unforeseen_error_never_reaches_the_peer(
    authority: Authority, kind: str, ablation: Ablation
) -> None:
    async def work() -> None:
        async with listening(authority) as listener:
            listener.handlers.fail = lambda: ValueError("the passphrase is swordfish")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await listener.call(kind, authority.leaf("gateway", "g1"))
            assert caught.value.code() == grpc.StatusCode.INTERNAL
            assert caught.value.details() == "internal"
            with ablation("our own answer to an unforeseen error") as attack:
                attack.without(INTERCEPT, straight)
                attack.without("tests.simulate.listener.peer", lambda _: G1)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await listener.call(kind, authority.leaf("gateway", "g1"))
                attack.succeeded("swordfish" in (caught.value.details() or ""))

    run(work())


def test_a_typed_error_arrives_as_the_same_class_with_its_words(authority: Authority) -> None:
    def refusal() -> Refused:
        return Refused("gate", expected="3", got="2\x1b[2J", hint="look", reason="rollback")

    async def work() -> None:
        async with listening(authority) as listener:
            listener.handlers.fail = refusal
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await listener.call("unary_unary", authority.leaf("gateway", "g1"))
            found = error_of(caught.value, thing="call")
            assert type(found) is Refused
            assert (found.thing, found.expected, found.hint) == ("gate", "3", "look")
            assert found.word == "E_ROLLBACK"
            assert "\x1b" not in found.got

    run(work())


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
        "from tests.integration.test_net_grpc import tls_1_2_reached\n"
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
