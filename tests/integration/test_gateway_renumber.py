"""A gateway restored from an old backup goes on above what push nodes and mirrors have seen."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, MetaFile, Timestamp

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import Refused
from gateway.engine import Engine
from gateway.renumber import go_on_above
from tests.ablation import Ablation
from tests.integration.test_gateway_engine import gate_of, run, state_of
from tests.integration.test_gateway_pull import places, point
from tests.simulate.engine import SimEngine, SimFleet, until
from tests.simulate.pulling import SimPull, polling

ONLINE = ("timestamp", "snapshot", "gates-dev")


def numbers(host: SimEngine) -> dict[str, int]:
    return {role: host.gateway.repository.published_version(role) for role in ONLINE}


def stamp(signer: Signer, version: int, *, snapshot: int = 1) -> bytes:
    signed = Timestamp(version=version, expires=now().replace(microsecond=0) + timedelta(hours=1),
                       snapshot_meta=MetaFile(snapshot))  # fmt: skip
    metadata = Metadata(signed)
    metadata.sign(signer)
    return metadata.to_bytes()


async def reached(engine: Engine, name: str, state: str = "succeeded") -> None:
    """The roll-out is in this state; else what it is in is told."""
    try:
        await until(lambda: state_of(engine, name) == state)
    except AssertionError:
        raise AssertionError(engine.status(name)) from None


@asynccontextmanager
async def released(host: SimEngine, *versions: str) -> AsyncIterator[None]:
    """The versions have reached everybody, one after the other; the engine runs on."""
    async with host.running() as engine:
        for version in versions:
            name = await engine.start("dev", "shop", host.approved(version), by="anna")
            await reached(engine, name)
        # Nothing is half published when its folder is copied.
        await until(lambda: gate_of(host).state == "done")
        yield


async def with_backup(
    folder: Path, fleet: SimFleet, place: Callable[[SimEngine], None]
) -> dict[str, int]:
    """A gateway has released 2.0 and 3.0, and its disk of before is back; return what it lost."""
    for versions in (("1.0",), ("2.0", "3.0")):
        host = SimEngine(folder / "gateway", fleet)
        place(host)
        async with released(host, *versions):
            lost = numbers(host)
        if versions == ("1.0",):
            shutil.copytree(folder / "gateway", folder / "backup", symlinks=True)
    (folder / "gateway").rename(folder / "dead")
    (folder / "backup").rename(folder / "gateway")
    return lost


@pytest.mark.long
def test_push_nodes_alone_lift_a_restored_gateway_above_its_own_old_numbers(
    tmp_path: Path,
) -> None:
    async def course() -> None:
        fleet = SimFleet.make(2)
        async with fleet.listening():
            lost = await with_backup(tmp_path, fleet, lambda _: None)
            host = SimEngine(tmp_path / "gateway", fleet)
            assert all(numbers(host)[role] < lost[role] for role in ONLINE)
            async with host.running() as engine:
                first = await engine.start("dev", "shop", host.approved("3.5"), by="anna")
                # Its number was used before the loss: the nodes tell, and a new plan is above.
                await until(lambda: host.gateway.database.number("role:dev-shop") >= 3)
                await engine.abort(first, by="anna", reason="restored")
                await reached(engine, first, "rolled_back")
                name = await engine.start("dev", "shop", host.approved("4.0"), by="anna")
                await reached(engine, name)

    run(course())


@pytest.mark.long
def test_a_mirror_lifts_a_restored_gateway_before_anybody_proposes(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(1, pull=1)
        async with fleet.listening(), places(tmp_path, fleet) as ports:
            pulls = [
                SimPull(agent, fleet.authority, ports["mirror"]["read"], ports["letterbox"]["post"])
                for agent in fleet.agents.values()
                if agent.node.mode == "pull"
            ]
            polls = asyncio.ensure_future(polling(pulls))
            try:
                lost = await with_backup(tmp_path, fleet, lambda host: point(host, ports))
                host = SimEngine(tmp_path / "gateway", fleet)
                assert all(numbers(host)[role] < lost[role] for role in ONLINE)
                async with host.running() as engine:
                    await until(lambda: host.gateway.database.number("role:dev-shop") >= 3)
                    plan = host.approved("4.0")
                    name = await engine.start("dev", "shop", plan, by="anna")
                    await reached(engine, name)
                    assert all(agent.installs[plan] == 1 for agent in fleet.agents.values())
            finally:
                polls.cancel()
                await asyncio.gather(polls, return_exceptions=True)

    run(course())


def closed(host: SimEngine) -> None:
    host.gateway.close()
    for agent in host.fleet.agents.values():
        agent.close()


@pytest.mark.misuse
def test_only_what_our_own_keys_have_signed_lifts_our_numbers(
    tmp_path: Path, ablation: Ablation
) -> None:
    fleet = SimFleet.make(1)
    host = SimEngine(tmp_path, fleet)
    parts, before = host.engine.parts, numbers(host)
    # A node cannot sign; a key of another role of ours is not this one.
    for signer in (CryptoSigner.generate_ed25519(), fleet.sim.signers["gates-dev"][0]):
        forged = stamp(signer, 900_000)
        with pytest.raises(Refused) as caught:
            go_on_above(parts, forged, b"", who="node/liar")
        assert caught.value.reason == "not-ours"
    assert numbers(host) == before
    with ablation("the check of our own signature") as attack:
        attack.without("gateway.renumber.check_signed")
        go_on_above(parts, forged, b"", who="node/liar")
        attack.succeeded(numbers(host)["timestamp"] > 900_000)
    closed(host)


@pytest.mark.misuse
def test_a_thief_of_the_key_cannot_make_us_use_up_the_numbers(
    tmp_path: Path, ablation: Ablation
) -> None:
    fleet = SimFleet.make(1)
    host = SimEngine(tmp_path, fleet)
    parts, before = host.engine.parts, numbers(host)
    burnt = stamp(fleet.sim.signers["timestamp"][0], limits.VERSION_MOST - 2)
    with pytest.raises(Refused) as caught:
        go_on_above(parts, burnt, b"", who="node/any")
    assert caught.value.reason == "burnt"
    assert numbers(host) == before
    with ablation("the numbers that must be left") as attack:
        attack.without("gateway.renumber.check_left")
        go_on_above(parts, burnt, b"", who="node/any")
        attack.succeeded(numbers(host)["timestamp"] >= limits.VERSION_MOST)
    closed(host)


def test_what_is_older_or_our_own_changes_nothing(tmp_path: Path) -> None:
    host = SimEngine(tmp_path, SimFleet.make(1))
    repository, parts = host.gateway.repository, host.engine.parts
    old = (repository.folder / "metadata" / "timestamp.json").read_bytes()
    assert not go_on_above(parts, old, b"", who="node/any")
    # A node replays an older file of ours, which lists a snapshot that is still in force.
    repository.go_above({"timestamp": 2})
    replayed = numbers(host)
    assert not go_on_above(parts, old, b"", who="node/any")
    assert numbers(host) == replayed
    repository.go_above({"timestamp": 4, "snapshot": 4, "gates-dev": 6})
    after = numbers(host)
    assert after["timestamp"] > 4 and after["snapshot"] > 4 and after["gates-dev"] > 6
    assert not go_on_above(parts, old, b"", who="node/any")
    assert not go_on_above(parts, b"", b"", who="node/any")
    assert numbers(host) == after
    closed(host)
