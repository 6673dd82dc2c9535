"""Push and pull nodes in one roll-out, with a real mirror and a real letterbox between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.engine import Engine
from mirror.letterbox import letterbox
from mirror.run import mirror
from tests.simulate.engine import SimEngine, SimFleet, until
from tests.simulate.pulling import SimPull, polling
from tests.simulate.uploader import make_service


@asynccontextmanager
async def places(tmp_path: Path, fleet: SimFleet) -> AsyncIterator[dict[str, dict[str, int]]]:
    """A mirror and a letterbox run; yields their ports."""
    sim, authority = fleet.sim, fleet.authority
    one = make_service(tmp_path / "m1", authority, sim.anchor)
    two = make_service(tmp_path / "l1", authority, sim.anchor, kind="letterbox", name="l1")
    async with mirror(tmp_path / "m1", one) as first, letterbox(tmp_path / "l1", two) as second:
        yield {"mirror": dict(first), "letterbox": dict(second)}


def point(host: SimEngine, ports: dict[str, dict[str, int]]) -> None:
    host.address("mirror", "m1", ports["mirror"]["ingest"])
    host.address("letterbox", "l1", ports["letterbox"]["ingest"])


def counts(engine: Engine, name: str) -> Any:
    return engine.status(name)["counts"]


def test_pull_nodes_follow_in_order_by_evidence_that_nobody_brought_them(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(2, pull=4)
        async with fleet.listening(), places(tmp_path, fleet) as ports:
            host = SimEngine(tmp_path / "gateway", fleet)
            point(host, ports)
            pulls = [
                SimPull(agent, fleet.authority, ports["mirror"]["read"], ports["letterbox"]["post"])
                for agent in fleet.agents.values()
                if agent.node.mode == "pull"
            ]
            running = asyncio.ensure_future(polling(pulls))
            try:
                async with host.running() as engine:
                    # The canary is a pull node: the gateway cannot reach it at all.
                    plan = host.approved("1.0", canary=pulls[0].agent.node.id)
                    name = await engine.start("dev", "shop", plan, by="anna")
                    await until(lambda: engine.status(name)["state"] == "succeeded", seconds=40)
                    assert counts(engine, name) == {"healthy": 6}
                    assert all(a.installs == {plan: 1} for a in fleet.agents.values())
                    shown: Any = engine.status(name)["mirrors"]
                    assert [(p["kind"], p["problem"]) for p in shown] == [
                        ("letterbox", ""),
                        ("mirror", ""),
                    ]
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    asyncio.run(course())


def test_a_dead_mirror_is_shown_and_delays_no_push_node(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(3)
        async with fleet.listening():
            host = SimEngine(tmp_path / "gateway", fleet)
            host.address("mirror", "m1", 9)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: engine.status(name)["state"] == "succeeded")
                await until(lambda: bool(engine.carriers.status()[0]["problem"]))
                # It comes back at another address and is brought up to date.
                async with places(tmp_path, fleet) as ports:
                    point(host, ports)
                    await until(
                        lambda: (
                            {p["version"] for p in engine.carriers.status()}
                            == {engine.steering.library.version()}
                        )
                    )

    asyncio.run(course())
