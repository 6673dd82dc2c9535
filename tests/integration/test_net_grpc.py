"""Real TLS between real listeners and callers of every kind: who gets in, and who never does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import grpc
import pytest

from embrasure.net.authorize import Authorize
from embrasure.net.identity import Identity
from tests.ablation import Ablation
from tests.simulate.authority import CLIENT, SERVER, Authority
from tests.simulate.listener import METHODS, listening, refused, trust_from

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
