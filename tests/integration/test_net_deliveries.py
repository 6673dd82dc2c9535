"""Deliveries to the door over real TLS: what may be brought, how much and how often."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from embrasure import limits
from embrasure.errors import Refused, Unavailable
from embrasure.net.credentials import channel
from embrasure.net.deliver import batches
from embrasure.net.door import (
    DoorService,
    Outcome,
    Quota,
    outcome_of,
)
from embrasure.net.source import source_of
from embrasure.trust.door import Taken
from embrasure.wire import door_pb2
from tests.ablation import Ablation
from tests.simulate.opendoor import (
    NODE,
    Keeper,
    a_leaf,
    caller,
    opened,
    put,
    refusal,
)


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
