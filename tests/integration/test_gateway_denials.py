"""A gateway's open stream to a node that is no longer believed ends by the gateway's own doing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from embrasure.net.denials import key_digest
from tests.ablation import Ablation
from tests.simulate.engine import SimEngine, SimFleet, until

Deny = Callable[[SimFleet, str], None]


def revoked(fleet: SimFleet, node: str) -> None:
    fleet.sim.revoke(nodes=[node])


def retired(fleet: SimFleet, node: str) -> None:
    fleet.sim.nodes[node].state = "retired"
    fleet.sim.refresh_directory()


def by_issuer(fleet: SimFleet, node: str) -> None:
    issuer = key_digest(fleet.authority.issuers["node"].certificate)
    denied = fleet.sim.policies["dev"].denied
    fleet.sim.set_policy(denied=msgspec.structs.replace(denied, issuers=(issuer,)))


async def denied(folder: Path, deny: Deny) -> tuple[bool, int]:
    """Return whether the stream to a node is still open after the denial, and orders since."""
    fleet = SimFleet.make(1)
    (agent,) = fleet.push()
    agent.silent = True
    async with fleet.listening():
        host = SimEngine(folder, fleet)
        async with host.running() as engine:
            name = await engine.start("dev", "shop", host.approved("1.0"), by="anna")
            await until(lambda: bool(agent.orders) and bool(engine.dialler.live(name)))
            deny(fleet, agent.node.id)
            fleet.sim.publish()
            await asyncio.to_thread(host.adopt_trust)
            before = len(agent.orders)
            await asyncio.sleep(1.0)
            return bool(engine.dialler.live(name)), len(agent.orders) - before


@pytest.mark.misuse
@pytest.mark.parametrize("deny", [revoked, retired, by_issuer])
def test_an_open_stream_ends_when_its_node_is_no_longer_believed(
    tmp_path: Path, deny: Deny, ablation: Ablation
) -> None:
    assert asyncio.run(denied(tmp_path / "one", deny)) == (False, 0)
    with ablation("the look at open streams") as attack:
        attack.without("gateway.dialler.Dialler._check_believed")
        attack.succeeded(asyncio.run(denied(tmp_path / "two", deny))[0])


def test_a_change_that_touches_no_issuer_leaves_the_stream_alone(tmp_path: Path) -> None:
    def other(fleet: SimFleet, node: str) -> None:
        fleet.sim.revoke(nodes=["n-" + "z" * 26])

    assert asyncio.run(denied(tmp_path, other)) == (True, 0)
