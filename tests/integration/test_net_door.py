"""The door's listener over real TLS: who comes in, and whom a caller has reached."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from embrasure.clock import now
from embrasure.errors import EmbrasureError, Refused, Unavailable
from embrasure.net.credentials import Pair, ServerKeys
from embrasure.net.deliver import Caller
from embrasure.net.door import (
    DoorKeys,
    check_client,
)
from embrasure.net.door_dial import DoorServer
from embrasure.net.identity import Identity
from embrasure.net.server import Service, bind, build_server
from embrasure.net.trustbundle import Trust, TrustHolder
from embrasure.wire import door_pb2, door_pb2_grpc
from tests.ablation import Ablation
from tests.simulate.authority import Authority, pem_of
from tests.simulate.listener import trust_from
from tests.simulate.opendoor import (
    AUTHORITY,
    NODE,
    Keeper,
    a_leaf,
    caller,
    opened,
    put,
    refusal,
)


def test_gateways_and_operators_of_any_issuer_below_the_ca_root_come_in() -> None:
    async def course() -> None:
        keeper = Keeper()
        # Neither is the issuer that any tls.json names: retired, denied, or new.
        other = AUTHORITY.new_issuer("gateway")
        leaf = AUTHORITY.leaf("gateway", "g9", issuer=other)
        async with opened(keeper) as port:
            for who in (a_leaf("operator", "anna"), a_leaf("gateway", "g1"), leaf):
                assert (await put(port, caller(who))).taken == {"root": 2}
        assert len(keeper.calls) == 3

    asyncio.run(course())


@pytest.mark.misuse
def test_a_denied_gateway_comes_in_here_and_nowhere_else(ablation: Ablation) -> None:
    """The ablation is the other way round: with the lists asked, the repair is locked out."""

    async def course(*, lists: bool) -> int:
        keeper = Keeper()
        listed: Trust = replace(trust_from(AUTHORITY), gateways=frozenset({"g2"}))
        async with opened(keeper) as port:
            if not lists:
                await put(port, caller(a_leaf("gateway", "g1")))
                return len(keeper.calls)
        holder = TrustHolder(listed)
        served = a_leaf("node", NODE)
        keys = ServerKeys(Pair(served.key_pem, served.chain_pem), holder, roles=["gateway"])

        class Behind:
            async def Put(self, requests: object, context: object) -> door_pb2.DoorReply:
                keeper.calls.append({})
                return door_pb2.DoorReply()

        service = Service(
            door_pb2.DESCRIPTOR.services_by_name["Door"],
            door_pb2_grpc.add_DoorServicer_to_server,
            Behind(),
        )
        server = build_server([service], {"/embrasure.v1.Door/Put": frozenset({"gateway"})}, holder)
        port = bind(server, "127.0.0.1:0", keys)
        await server.start()
        with pytest.raises(EmbrasureError):
            await put(port, caller(a_leaf("gateway", "g1")))
        await server.stop(0)
        return len(keeper.calls)

    assert asyncio.run(course(lists=False)) == 1
    with ablation("the door's indifference to lists") as attack:
        attack.succeeded(asyncio.run(course(lists=True)) == 0)


@pytest.mark.misuse
def test_a_node_s_leaf_is_turned_away_by_tls_itself(ablation: Ablation) -> None:
    problem, keeper = refusal(caller(a_leaf("node", NODE)))
    assert isinstance(problem, Unavailable) and not keeper.calls
    with ablation("its one usage, serverAuth") as attack:
        # A node that could have itself certified as a client would get as far as the guard.
        from tests.simulate.authority import CLIENT

        issuer = AUTHORITY.new_issuer("gateway")
        leaf = AUTHORITY.leaf("node", NODE, issuer=issuer, usages=[CLIENT], dns=[])
        told, empty = refusal(caller(leaf))
        assert not empty.calls
        attack.succeeded("denied" in str(told) or told.reason == "denied")


@pytest.mark.misuse
def test_a_foreign_authority_comes_nowhere(ablation: Ablation) -> None:
    other = Authority()
    leaf = a_leaf("operator", "anna", other)
    problem, keeper = refusal(Caller(AUTHORITY.domain, pem_of(AUTHORITY.root.certificate),
                                     leaf.key_pem, leaf.chain_pem))  # fmt: skip
    assert isinstance(problem, Unavailable) and not keeper.calls
    with ablation("the CA root of the fleet") as attack:

        async def course() -> int:
            found = Keeper()
            async with opened(found, other) as port:
                await put(port, caller(leaf, other))
            return len(found.calls)

        attack.succeeded(asyncio.run(course()) == 1)


@pytest.mark.misuse
@pytest.mark.parametrize(
    "forged",
    [
        {"san_critical": False},
        {"life": timedelta(days=30)},
        {"common_name": "anna"},
    ],
)
def test_a_leaf_that_is_not_its_whole_profile_is_denied(
    forged: dict[str, Any], ablation: Ablation
) -> None:
    problem, keeper = refusal(caller(a_leaf("operator", "anna", **forged)))
    assert problem.reason == "denied" and not keeper.calls
    with ablation("the profile, which TLS does not look at") as attack:
        attack.without("embrasure.net.door.check_client")
        _, found = refusal_or_calls(caller(a_leaf("operator", "anna", **forged)))
        attack.succeeded(len(found.calls) == 1)


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://fleet.example/operator/Anna",
        "spiffe://other.example/operator/anna",
        "spiffe://fleet.example/mirror/m1",
        "spiffe://fleet.example/operator/anna/",
    ],
)
def test_a_name_outside_the_strict_grammar_is_denied(uri: str) -> None:
    problem, keeper = refusal(caller(a_leaf("operator", "anna", uris=[uri])))
    assert problem.reason == "denied" and not keeper.calls


def refusal_or_calls(who: Caller) -> tuple[EmbrasureError | None, Keeper]:
    keeper = Keeper()

    async def course() -> EmbrasureError | None:
        async with opened(keeper) as port:
            try:
                await put(port, who)
            except EmbrasureError as problem:
                return problem
            return None

    return asyncio.run(course()), keeper


def test_a_door_whose_roots_are_gone_keeps_the_last_configuration(
    caplog: pytest.LogCaptureFixture,
) -> None:
    served, roots = a_leaf("node", NODE), [AUTHORITY.root.certificate]
    keys = DoorKeys(Pair(served.key_pem, served.chain_pem), lambda: roots, domain=AUTHORITY.domain)
    assert keys.fetch() is not None and keys.failures == 0
    roots.clear()
    # gRPC takes None for "the one before"; who calls is checked against the roots all the same.
    assert keys.fetch() is None and keys.failures == 1
    assert "no new TLS configuration" in caplog.text
    again = a_leaf("node", NODE)
    keys.swap(Pair(again.key_pem, again.chain_pem))
    assert keys.pair.chain_pem == again.chain_pem


def test_a_door_without_a_root_does_not_open() -> None:
    served = a_leaf("node", NODE)
    keys = DoorKeys(Pair(served.key_pem, served.chain_pem), lambda: [], domain=AUTHORITY.domain)
    with pytest.raises(Refused) as refused:
        keys.configuration()
    assert refused.value.reason == "no-issuer"


def test_another_name_than_the_certificate_s_is_refused() -> None:
    leaf = a_leaf("operator", "anna")
    with pytest.raises(Refused) as refused:
        check_client(
            leaf.certificate, Identity("operator", "bea"),
            [AUTHORITY.issuers["operator"].certificate], domain=AUTHORITY.domain, at=now(),
        )  # fmt: skip
    assert refused.value.reason == "identity"
    assert AUTHORITY.domain in repr(caller(leaf)) and "KEY" not in repr(caller(leaf))


def test_a_mirror_dialled_by_the_root_alone_must_still_be_itself() -> None:
    trust, root = trust_from(AUTHORITY), AUTHORITY.root.certificate
    server = DoorServer("127.0.0.1:1", "mirror", "m1", trust, roots=[root])
    der = AUTHORITY.leaf("mirror", "m1").certificate.public_bytes(Encoding.DER)
    server.check(der)
    with pytest.raises(Refused) as none:
        server.check(None)
    assert none.value.reason == "certificate"
    with pytest.raises(Refused) as other:
        replace(server, name="m2").check(der)
    assert other.value.reason == "identity"
    with pytest.raises(Refused):
        replace(server, roots=()).context()
