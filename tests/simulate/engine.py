"""A whole gateway without its operators' listener: real engine, real streams, a simulated fleet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlalchemy import delete, insert

from embrasure.trust.directory import TlsBundle
from gateway import tables
from gateway.adopt import adopt
from gateway.engine import Engine
from gateway.parts import EngineParts, Identity, Pace
from tests.simulate.agents import SimAgent, serving
from tests.simulate.authority import Authority
from tests.simulate.gateway import SimGateway, trust_files
from tests.simulate.releases import SimRelease, make_release
from tests.simulate.repository import SimRepository

FAST = Pace(
    tick_s=0.1, wait_s=0.05, hold_s=0.2, redial_s=0.05, redial_max_s=0.4, dial_s=2.0, recheck_s=0.1,
    collect_s=0.1, collect_idle_s=0.3, renew_s=60.0, republish_s=0.05,
)  # fmt: skip
PEOPLE = ("anna", "ben", "carl", "dora")


@dataclass
class SimIdentity:
    """The gateway's client leaf, from the test's authority."""

    authority: Authority
    pair: tuple[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        leaf = self.authority.leaf("gateway", "g1")
        self.pair = (leaf.key_pem, leaf.chain_pem)

    def client(self) -> tuple[bytes, bytes]:
        return self.pair


@dataclass
class SimFleet:
    """Directory, agents and authority of one test. `ports`: node id -> port."""

    sim: SimRepository
    authority: Authority
    agents: dict[str, SimAgent]
    ports: dict[str, int] = field(default_factory=dict)

    @classmethod
    def make(cls, push: int, *, pull: int = 0, app: str = "shop") -> SimFleet:
        """Return a published fleet with one app that two of four operators approve."""
        sim, authority = SimRepository(), Authority()
        agents: dict[str, SimAgent] = {}
        for number in range(push + pull):
            mode: Literal["push", "pull"] = "push" if number < push else "pull"
            node = sim.add_node(mode=mode)
            agents[node.id] = SimAgent(sim, node)
        sim.add_app(app, operators=PEOPLE, threshold=2)
        members: Any = authority.tls_members()
        sim.set_bundle(
            TlsBundle(v=1, type="tls", root=sim.root_id, env=sim.env, gateways=("g1",), **members)
        )
        sim.publish()
        return cls(sim, authority, agents)

    def join(self) -> SimAgent:
        """Return a new push node, listed from the security team's next publication."""
        agent = SimAgent(self.sim, self.sim.add_node())
        self.agents[agent.node.id] = agent
        self.sim.publish()
        return agent

    def push(self) -> list[SimAgent]:
        """Return the push agents."""
        return [agent for agent in self.agents.values() if agent.node.mode == "push"]

    @asynccontextmanager
    async def listening(self, but: Sequence[str] = ()) -> AsyncIterator[None]:
        """All push agents listen, except those named."""
        async with AsyncExitStack() as held:
            for agent in self.push():
                if agent.node.id not in but:
                    port = await held.enter_async_context(serving(self.authority, agent))
                    self.ports[agent.node.id] = port
            try:
                yield
            finally:
                for agent in self.agents.values():
                    agent.close()


class SimEngine:
    """One gateway process: what a restart loses is lost with this object."""

    def __init__(
        self,
        folder: Path,
        fleet: SimFleet,
        *,
        pace: Pace = FAST,
        identity: Identity | None = None,
    ) -> None:
        self.fleet = fleet
        self.gateway = SimGateway(folder, fleet.sim)
        self.engine = Engine(
            EngineParts(
                name="g1",
                database=self.gateway.database,
                journal=self.gateway.journal,
                repository=self.gateway.repository,
                proposals=self.gateway.proposals,
                identity=identity or SimIdentity(fleet.authority),
                collect_key=fleet.sim.collect,
                clock=fleet.sim.clock,
                pace=pace,
            )
        )
        for node, port in fleet.ports.items():
            self.address("node", node, port)

    def address(self, kind: str, name: str, port: int) -> None:
        """Dial `name` at this port from now on."""
        row = tables.addresses.c
        with self.gateway.database.write() as connection:
            connection.execute(delete(tables.addresses).where(row.kind == kind, row.name == name))
            connection.execute(
                insert(tables.addresses).values(
                    kind=kind, name=name, env=self.fleet.sim.env, address=f"127.0.0.1:{port}"
                )
            )

    def adopt_trust(self) -> None:
        """The security team's newer files are brought to the gateway and published."""
        adopt(self.gateway.repository, trust_files(self.fleet.sim), force=False)
        self.engine.wake()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Engine]:
        """The engine runs; at the end it is stopped and closed."""
        task = asyncio.ensure_future(self.engine.run())
        try:
            yield self.engine
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.gateway.close()

    def approved(
        self,
        version: str,
        *,
        by: str = "anna",
        percents: Sequence[int] = (50, 100),
        canary: str = "",
        deadline_s: int = 600,
        soak_s: int = 0,
        max_parallel: int = 100,
        supersede: bool = False,
        release: SimRelease | None = None,
        **failure: Any,
    ) -> str:
        """Return the digest of an approved plan for a small release, or for `release`."""
        sim, gateway = self.fleet.sim, self.gateway
        release = release or make_release("shop", version=version)
        gateway.upload(release)
        seq = gateway.proposals.reserve(sim.env, "shop", person=by)
        first = sim.nodes[canary] if canary else next(iter(sim.nodes.values()))
        plan = sim.draft_plan(release, canary=[first], percents=percents, soak_s=soak_s, seq=seq)
        waves = tuple(
            msgspec.structs.replace(wave, deadline_s=deadline_s, max_parallel=max_parallel)
            for wave in plan.waves
        )
        policy = msgspec.structs.replace(plan.failure, **failure)
        plan = msgspec.structs.replace(plan, waves=waves, failure=policy, proposer=by)
        draft = gateway.draft_of(plan, release, by=by)
        gateway.propose(draft, supersede=supersede)
        others = [name for name in PEOPLE if name != by]
        for person in others[:2]:
            gateway.approve(draft, person)
        return draft.release.plan_digest


async def until(
    look: Callable[[], bool], *, seconds: float = 25.0, tell: Callable[[], object] = lambda: ""
) -> None:
    """Return once `look` is true; fails the test when it does not become so, with what `tell` says.

    seconds: two of them fit into the time-out of one test
    """
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end, f"it did not happen in time: {tell()}"
        await asyncio.sleep(0.02)
