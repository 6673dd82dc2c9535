"""The listener for callers without a certificate: what it lets through, and what it says."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from embrasure.errors import Denied, Misuse, Refused, Unavailable
from embrasure.net.anonymous import Anonymous, build_anonymous_server
from embrasure.net.credentials import AnonymousKeys, Pair, pinned_channel
from embrasure.net.seen import seen_leaf
from embrasure.net.server import Service, bind
from embrasure.wire import login_pb2, login_pb2_grpc
from gateway.service_table import LOGIN_METHODS
from tests.ablation import Ablation
from tests.simulate.authority import Authority, Leaf
from tests.simulate.listener import trust_from

SECRET = "what nobody outside may read"  # noqa: S105 - the text of an exception
HOST = "admin.fleet.example.internal"


class Handlers:
    """Two methods that fail as they are told."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.problem, self.waits = problem, asyncio.Event()

    async def Challenge(self, request: object, context: Any) -> login_pb2.ChallengeReply:
        if self.problem is not None:
            raise self.problem
        return login_pb2.ChallengeReply(nonce=b"n")

    async def Certificate(self, request: object, context: Any) -> login_pb2.CertificateReply:
        await self.waits.wait()
        return login_pb2.CertificateReply(chain=b"c")


def services(handlers: Handlers) -> list[Service]:
    described = login_pb2.DESCRIPTOR.services_by_name["Login"]
    return [Service(described, login_pb2_grpc.add_LoginServicer_to_server, handlers)]


async def ask(handlers: Handlers, leaf: Leaf) -> Any:
    """Return the answer to one call; raises gRPC's error."""
    server = build_anonymous_server(services(handlers), LOGIN_METHODS)
    port = bind(server, "127.0.0.1:0", AnonymousKeys(Pair(leaf.key_pem, leaf.chain_pem)))
    await server.start()
    try:
        async with pinned_channel(f"127.0.0.1:{port}", leaf=leaf.pem, host=HOST) as channel:
            stub = login_pb2_grpc.LoginStub(channel)
            return await stub.Challenge(login_pb2.ChallengeRequest(), timeout=10)
    finally:
        await server.stop(0)


@pytest.fixture(scope="module")
def leaf() -> Leaf:
    return Authority().leaf("gateway-admin", "g1")


@pytest.mark.parametrize(
    ("problem", "code", "details"),
    [
        (Refused("x", expected=SECRET, got="y"), "PERMISSION_DENIED", "denied"),
        (Denied("x", expected=SECRET, got="y"), "PERMISSION_DENIED", "denied"),
        (ValueError(SECRET), "INTERNAL", "internal"),
    ],
)
def test_a_refusal_says_nothing(leaf: Leaf, problem: Exception, code: str, details: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as found:
        asyncio.run(ask(Handlers(problem), leaf))
    assert (found.value.code().name, found.value.details()) == (code, details)


def test_that_one_must_wait_is_said_in_words(leaf: Leaf) -> None:
    problem = Unavailable("log-in", expected="patience", got="none", reason="paused")
    with pytest.raises(grpc.aio.AioRpcError) as found:
        asyncio.run(ask(Handlers(problem), leaf))
    assert found.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "patience" in (found.value.details() or "")


class Aborting(Handlers):
    """One that says itself how a call ends."""

    async def Challenge(self, request: object, context: Any) -> login_pb2.ChallengeReply:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet")
        return login_pb2.ChallengeReply()


def test_what_a_handler_says_itself_is_passed_on(leaf: Leaf) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as found:
        asyncio.run(ask(Aborting(), leaf))
    assert found.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.misuse
def test_a_method_outside_the_table_is_denied_to_anybody(leaf: Leaf, ablation: Ablation) -> None:
    """Two guards: the table at the start, and the interceptor at every call."""

    async def called(methods: frozenset[str], name: str) -> str:
        server = grpc.aio.server(interceptors=[Anonymous(methods)])
        login_pb2_grpc.add_LoginServicer_to_server(Handlers(), server)
        port = bind(server, "127.0.0.1:0", AnonymousKeys(Pair(leaf.key_pem, leaf.chain_pem)))
        await server.start()
        try:
            async with pinned_channel(f"127.0.0.1:{port}", leaf=leaf.pem, host=HOST) as channel:
                call: Any = channel.unary_unary(name)
                await call(b"", timeout=10)
        except grpc.aio.AioRpcError as problem:
            return f"{problem.code().name} {problem.details()}"
        finally:
            await server.stop(0)
        return "OK"

    challenge = "/embrasure.v1.Login/Challenge"
    for methods, name in (
        (LOGIN_METHODS, "/embrasure.v1.Login/Other"), (LOGIN_METHODS - {challenge}, challenge),
    ):  # fmt: skip
        assert asyncio.run(called(methods, name)) == "PERMISSION_DENIED denied"
    with ablation("the table of what anybody may call") as attack:
        attack.succeeded(asyncio.run(called(LOGIN_METHODS, challenge)) == "OK")


def test_a_new_pair_is_shown_from_the_next_connection_on(leaf: Leaf) -> None:
    other = Authority().leaf("gateway-admin", "g1")
    keys = AnonymousKeys(Pair(leaf.key_pem, leaf.chain_pem))

    async def course() -> bytes:
        server = build_anonymous_server(services(Handlers()), LOGIN_METHODS)
        port = bind(server, "127.0.0.1:0", keys)
        await server.start()
        keys.swap(Pair(other.key_pem, other.chain_pem))
        try:
            async with pinned_channel(f"127.0.0.1:{port}", leaf=other.pem, host=HOST) as channel:
                stub: Any = login_pb2_grpc.LoginStub(channel)
                answer = await stub.Challenge(login_pb2.ChallengeRequest(), timeout=10)
        finally:
            await server.stop(0)
        return bytes(answer.nonce)

    assert asyncio.run(course()) == b"n"


def test_a_good_call_is_answered(leaf: Leaf) -> None:
    assert asyncio.run(ask(Handlers(), leaf)).nonce == b"n"


def test_open_calls_are_bounded_for_all_callers_together(leaf: Leaf) -> None:
    async def course() -> list[str]:
        handlers = Handlers()
        server = build_anonymous_server(services(handlers), LOGIN_METHODS, calls=1)
        port = bind(server, "127.0.0.1:0", AnonymousKeys(Pair(leaf.key_pem, leaf.chain_pem)))
        await server.start()
        async with pinned_channel(f"127.0.0.1:{port}", leaf=leaf.pem, host=HOST) as channel:
            stub = login_pb2_grpc.LoginStub(channel)
            calls = [stub.Certificate(login_pb2.CertificateRequest(), timeout=10) for _ in "ab"]
            done, _ = await asyncio.wait(
                [asyncio.ensure_future(_code(call)) for call in calls], timeout=5,
                return_when=asyncio.FIRST_COMPLETED,
            )  # fmt: skip
            handlers.waits.set()
            found = [task.result() for task in done]
            again = await _code(stub.Certificate(login_pb2.CertificateRequest(), timeout=10))
        await server.stop(0)
        return [*found, again]

    async def _code(call: Any) -> str:
        try:
            await call
        except grpc.aio.AioRpcError as problem:
            return problem.code().name
        return "OK"

    assert asyncio.run(course()) == ["RESOURCE_EXHAUSTED", "OK"]


class Blocking(Handlers):
    """One that would stop the loop for everybody."""

    def Challenge(self, request: object, context: Any) -> Any:
        return login_pb2.ChallengeReply()


def test_a_listener_that_differs_from_its_table_does_not_start() -> None:
    async def build(methods: frozenset[str], handlers: Handlers) -> None:
        build_anonymous_server(services(handlers), methods)

    more = LOGIN_METHODS | {"/embrasure.v1.Login/Other"}
    less = LOGIN_METHODS - {"/embrasure.v1.Login/Challenge"}
    for methods, handlers in (
        (more, Handlers()), (less, Handlers()), (LOGIN_METHODS, Blocking()),
    ):  # fmt: skip
        with pytest.raises(Refused) as found:
            asyncio.run(build(methods, handlers))
        assert found.value.reason == "table"


class Connection:
    """What gRPC says of a connection."""

    def __init__(self, **changes: str) -> None:
        self._auth = {
            "transport_security_type": "ssl",
            "ssl_tls_version": "TLSv1.3",
            "ssl_negotiated_key_exchange_group": "X25519MLKEM768",
            "ssl_session_reused": "false",
            **changes,
        }

    def auth_context(self) -> dict[str, list[bytes]]:
        return {name: [value.encode()] for name, value in self._auth.items()}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


@pytest.mark.parametrize(
    "changes",
    [
        {"ssl_tls_version": "TLSv1.2"},
        {"ssl_negotiated_key_exchange_group": "X25519"},
        {"ssl_session_reused": "true"},
        {"transport_security_type": "insecure"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_only_a_full_handshake_of_tls_1_3_is_whole(changes: dict[str, str]) -> None:
    guard = Anonymous(frozenset())
    assert guard._is_whole(Connection())  # type: ignore[arg-type]  # the two methods that are used
    assert not guard._is_whole(Connection(**changes))  # type: ignore[arg-type]  # as above


def test_a_leaf_is_looked_at_only_where_an_address_says_so() -> None:
    trust = trust_from(Authority())
    for address in ("nowhere", ":1", "host:port"):
        with pytest.raises(Misuse, match="HOST:PORT"):
            seen_leaf(address, "gateway-admin", trust)
    with pytest.raises(Unavailable):
        seen_leaf("127.0.0.1:99999", "gateway-admin", trust)


def test_a_leaf_of_another_profile_is_no_gateways_though_its_issuer_is_right() -> None:
    authority = Authority()
    liar = authority.leaf(
        "gateway-admin", "g1", uris=["spiffe://fleet.example/mirror/m1"], dns=[HOST]
    )

    async def course() -> None:
        server = build_anonymous_server(services(Handlers()), LOGIN_METHODS)
        port = bind(server, "127.0.0.1:0", AnonymousKeys(Pair(liar.key_pem, liar.chain_pem)))
        await server.start()
        try:
            address = f"127.0.0.1:{port}"
            await asyncio.to_thread(seen_leaf, address, "gateway-admin", trust_from(authority))
        finally:
            await server.stop(0)

    with pytest.raises(Refused) as found:
        asyncio.run(course())
    assert found.value.reason in ("certificate", "identity")
