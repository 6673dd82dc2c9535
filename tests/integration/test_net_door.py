"""The door's listener over real TLS: who comes in, what he may bring, how much and how often."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import EmbrasureError, Refused, Unavailable
from embrasure.net.credentials import Pair, ServerKeys, channel
from embrasure.net.deliver import Caller, batches, deliver
from embrasure.net.door import (
    DoorKeys,
    DoorService,
    Outcome,
    Quota,
    check_client,
    door_server,
    outcome_of,
)
from embrasure.net.door_dial import DoorServer
from embrasure.net.identity import Identity
from embrasure.net.server import Service, bind, build_server
from embrasure.net.source import source_of
from embrasure.net.trustbundle import Trust, TrustHolder
from embrasure.trust.door import Taken
from embrasure.wire import door_pb2, door_pb2_grpc
from tests.ablation import Ablation
from tests.simulate.authority import Authority, Leaf, pem_of
from tests.simulate.listener import trust_from

AUTHORITY = Authority()
NODE = "n-" + "a" * 26
FILES = {"metadata/2.root.json": b"{}", "targets/revoked/" + "0" * 64 + ".dev.json": b"{}"}


def a_leaf(role: str, name: str, authority: Authority = AUTHORITY, **forged: Any) -> Leaf:
    return authority.leaf(role, name, **forged)


def caller(leaf: Leaf, authority: Authority = AUTHORITY) -> Caller:
    roots = pem_of(authority.root.certificate)
    return Caller(authority.domain, roots, leaf.key_pem, leaf.chain_pem)


@dataclass
class Keeper:
    """What comes through a door; verifies nothing."""

    calls: list[Mapping[str, bytes]] = field(default_factory=list)
    answers: list[Outcome] = field(default_factory=list)

    def take(self, files: Mapping[str, bytes]) -> Outcome:
        self.calls.append(files)
        return self.answers.pop(0) if self.answers else Outcome({"root": 2})


@asynccontextmanager
async def opened(keeper: Keeper, authority: Authority = AUTHORITY) -> AsyncIterator[int]:
    def roots() -> list[object]:
        return [authority.root.certificate]

    served = a_leaf("node", NODE, authority)
    keys = DoorKeys(Pair(served.key_pem, served.chain_pem), roots, domain=authority.domain)  # type: ignore[arg-type]  # certificates
    server = door_server(keeper.take, roots, domain=authority.domain)  # type: ignore[arg-type]  # certificates
    port = bind(server, "127.0.0.1:0", keys)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def put(port: int, who: Caller, files: Mapping[str, bytes] = FILES) -> Outcome:
    return await deliver(f"127.0.0.1:{port}", role="node", name=NODE, caller=who, files=files)


def refusal(who: Caller, files: Mapping[str, bytes] = FILES) -> tuple[EmbrasureError, Keeper]:
    """Return how a delivery ended that must not be taken, and what came through."""
    keeper = Keeper()

    async def course() -> EmbrasureError:
        async with opened(keeper) as port:
            with pytest.raises(EmbrasureError) as found:
                await put(port, who, files)
            return found.value

    return asyncio.run(course()), keeper


# --- who comes in ----------------------------------------------------------------------------


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


# --- what and how much -----------------------------------------------------------------------


@pytest.mark.misuse
@pytest.mark.parametrize(
    "path",
    [
        "metadata/2.dev-shop.json",
        "metadata/2.gates-dev.json",
        "metadata/2.snapshot.json",
        "metadata/timestamp.json",
        "targets/dev/shop/" + "0" * 64 + ".plan.json",
        "targets/gates/dev/" + "0" * 64 + ".shop.json",
        "blobs/00/" + "0" * 64,
        "../etc/passwd",
    ],
)
def test_only_trust_files_are_taken(path: str, ablation: Ablation) -> None:
    problem, keeper = refusal(caller(a_leaf("operator", "anna")), {path: b"{}"})
    assert problem.reason in ("not-trust", "bad-path") and not keeper.calls
    with ablation("the list of what is a trust file") as attack:
        attack.without("embrasure.net.door.check_trust_path")
        _, found = refusal_or_calls_with({path: b"{}"})
        attack.succeeded(list(found.calls[0]) == [path])


def refusal_or_calls_with(files: Mapping[str, bytes]) -> tuple[None, Keeper]:
    keeper = Keeper()

    async def course() -> None:
        async with opened(keeper) as port:
            await put(port, caller(a_leaf("operator", "anna")), files)

    asyncio.run(course())
    return None, keeper


@pytest.mark.misuse
def test_a_delivery_is_bounded_in_bytes_and_files(
    ablation: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {f"metadata/{number}.root.json": b"" for number in range(1, limits.DOOR_FILES + 2)}
    problem, keeper = refusal(caller(a_leaf("operator", "anna")), many)
    assert problem.reason == "limit" and not keeper.calls
    big = {f"metadata/{number}.root.json": b"x" * 900_000 for number in range(1, 5)}
    assert len(list(batches(big))) == 1
    with ablation("the bound on one delivery") as attack:
        monkeypatch.setattr(limits, "DOOR_FILES", 10**6)
        _, found = refusal_or_calls_with(many)
        attack.succeeded(len(found.calls[0]) == len(many))


@pytest.mark.misuse
def test_one_address_calls_once_at_a_time_and_ten_times_a_minute(ablation: Ablation) -> None:
    at = [0.0]
    quota = Quota(lambda: at[0])
    with quota.entered("a"), pytest.raises(Unavailable) as busy, quota.entered("a"):
        pass
    assert busy.value.reason == "busy"
    for _ in range(limits.DOOR_CALLS_PER_MINUTE - 1):
        with quota.entered("a"):
            pass
    with pytest.raises(Unavailable) as full, quota.entered("a"):
        pass
    assert full.value.reason == "quota"
    with quota.entered("b"):
        pass
    at[0] = 60.0
    with quota.entered("a"):
        pass
    with ablation("the quota, which lives as long as the door") as attack:
        for _ in range(2 * limits.DOOR_CALLS_PER_MINUTE):
            with Quota(lambda: at[0]).entered("a"):
                pass
        attack.succeeded(True)


@dataclass(frozen=True)
class From:
    """A call from an address that this machine does not have; gRPC would name it so."""

    name: str

    def peer(self) -> str:
        return self.name


@pytest.mark.misuse
def test_one_host_of_ipv6_has_one_hand_at_the_door(ablation: Ablation) -> None:
    """A thief has 2^64 addresses: one a call, and nobody else would ever find a free hand."""
    peers = [f"ipv6:%5B2001:db8::{n}%5D:5{n}" for n in range(1, limits.DOOR_CALLS + 1)]
    quota = Quota()
    service: Any = DoorService(lambda _: Outcome({}), quota)

    async def course(calls: int) -> None:
        async def slow() -> AsyncIterator[door_pb2.DoorFile]:
            await asyncio.sleep(3600)
            yield door_pb2.DoorFile()

        jobs = [asyncio.ensure_future(service.Put(slow(), From(peer))) for peer in peers[:calls]]
        await asyncio.sleep(0.01)
        try:
            with quota.entered("10.0.0.1"):
                pass
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    asyncio.run(course(len(peers)))
    with ablation("the network that counts as one address") as attack:
        attack.without("embrasure.net.door.source_of", lambda peer: peer)
        with pytest.raises(Unavailable) as found:
            asyncio.run(course(len(peers)))
        attack.succeeded(found.value.reason == "busy")


@pytest.mark.misuse
def test_idle_connections_of_a_thief_do_not_hold_the_door(
    ablation: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No denial shuts his key out here, so it must not be able to shut others out either."""
    monkeypatch.setattr(limits, "DOOR_CONNECTIONS", 4)
    monkeypatch.setattr(limits, "DOOR_IDLE_MILLISECONDS", 500)
    thief = caller(a_leaf("gateway", "g1"))

    async def course() -> Outcome:
        async with opened(Keeper()) as port, contextlib.AsyncExitStack() as held:
            for _ in range(limits.DOOR_CONNECTIONS):
                line = await held.enter_async_context(
                    channel(
                        f"127.0.0.1:{port}", role="node", name=NODE, domain=thief.domain,
                        issuer_pems=thief.roots_pem, key=thief.key,
                        chain_pem=thief.chain_pem,
                    )
                )  # fmt: skip
                await asyncio.wait_for(line.channel_ready(), 10)
            await asyncio.sleep(1.2)
            return await put(port, caller(a_leaf("operator", "anna")))

    assert asyncio.run(course()) == Outcome({"root": 2})
    with ablation("the end of an idle connection") as attack:
        attack.without("embrasure.net.door.short_connections", dict)
        with pytest.raises(Unavailable) as shut_out:
            asyncio.run(course())
        attack.succeeded(shut_out.value)


def test_the_quota_holds_on_the_wire() -> None:
    async def course() -> None:
        keeper = Keeper()
        async with opened(keeper) as port:
            who = caller(a_leaf("operator", "anna"))
            for _ in range(limits.DOOR_CALLS_PER_MINUTE):
                await put(port, who)
            with pytest.raises(Unavailable):
                await put(port, who)
            assert len(keeper.calls) == limits.DOOR_CALLS_PER_MINUTE

    asyncio.run(course())


def test_documents_that_are_missing_follow_in_further_calls() -> None:
    shard = b"s" * 900_000
    files = {
        "metadata/9.fleet-dev.json": b"{}",
        **{f"targets/fleet/dev/dir/{n:064x}.{n:02x}.json": shard for n in range(12)},
        "targets/fleet/dev/" + "0" * 64 + ".policy.json": b"{}",
    }
    parts = list(batches(files))
    assert len(parts) == 2 and all("metadata/9.fleet-dev.json" in part for part in parts)
    assert list(parts[0])[1].endswith(".policy.json")
    assert {path for part in parts for path in part} == set(files)

    async def course() -> None:
        keeper = Keeper(answers=[Outcome({}, ("targets/fleet/dev/dir/x",)), Outcome({"root": 3})])
        async with opened(keeper) as port:
            found = await put(port, caller(a_leaf("operator", "anna")), files)
            assert found == Outcome({"root": 3})
            keeper.answers.append(Outcome({"root": 4}, (), {"fleet-dev": "E_THRESHOLD"}))
            found = await put(port, caller(a_leaf("operator", "anna")), files)
            assert found.refused == {"fleet-dev": "E_THRESHOLD"}
        assert [len(call) for call in keeper.calls] == [len(parts[0]), len(parts[1]), len(parts[0])]

    asyncio.run(course())


def test_what_stays_missing_is_told_and_metadata_that_fills_a_delivery_is_not_sent() -> None:
    async def course() -> None:
        keeper = Keeper(answers=[Outcome({}, ("targets/fleet/dev/dir/x",))])
        async with opened(keeper) as port:
            found = await put(port, caller(a_leaf("operator", "anna")))
        assert found == Outcome({}, ("targets/fleet/dev/dir/x",))

    asyncio.run(course())
    with pytest.raises(Unavailable):
        list(batches({"metadata/2.root.json": b"x" * (limits.DOOR_BYTES // 2)}))


def test_a_peer_is_told_a_word_for_each_role_that_was_refused() -> None:
    problem = Refused("fleet-dev", expected="x", got="what a peer is not told", reason="threshold")
    told = outcome_of(Taken({"root": 2}, ("a",), {"fleet-dev": problem}))
    assert told == Outcome({"root": 2}, ("a",), {"fleet-dev": "E_THRESHOLD"})


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("ipv4:10.0.0.1:555", "10.0.0.1"),
        ("ipv6:%5B2001:db8::1%5D:5", "2001:db8::/64"),
        ("ipv6:[::ffff:10.0.0.1]:6", "10.0.0.1"),
        ("ipv6:[fe80::1%25eth0]:6", "fe80::/64"),
        ("unix:/x", "unix"),
    ],
)
def test_a_peer_is_counted_by_its_address(peer: str, counted: str) -> None:
    assert source_of(peer) == counted


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


# --- edges -----------------------------------------------------------------------------------


def test_the_quota_forgets_who_was_quiet_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embrasure.net.door._ADDRESSES", 2)
    quota = Quota(lambda: 0.0)
    for address in ("a", "b", "c"):
        with quota.entered(address):
            pass
    assert list(quota._calls) == ["b", "c"]


def test_a_slow_delivery_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOOR_SECONDS", 0.05)

    async def drip() -> AsyncIterator[door_pb2.DoorFile]:
        yield door_pb2.DoorFile(path="metadata/2.root.json", body=b"{}")
        await asyncio.sleep(1)

    class Peer:
        def peer(self) -> str:
            return "ipv4:127.0.0.1:5"

    async def course() -> None:
        service = DoorService(Keeper().take)
        with pytest.raises(Unavailable) as slow:
            await service.Put(drip(), Peer())  # type: ignore[arg-type]  # all that is asked of it
        assert slow.value.reason == "slow"

    asyncio.run(course())


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
