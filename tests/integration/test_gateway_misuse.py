"""Nodes and files that lie to the engine: what they gain is nothing, shown guard by guard."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from embrasure.errors import Refused
from embrasure.trust.load import Docs
from embrasure.trust.receipt import Kind, Outcome, parse_receipt, sign_receipt
from gateway import tables
from gateway.engine import Engine
from tests.ablation import Ablation
from tests.simulate.agents import Posted, SimAgent
from tests.simulate.engine import SimEngine, SimFleet, until


def run(course: Coroutine[Any, Any, None]) -> None:
    asyncio.run(course)


def node_of(engine: Engine, name: str, node: str) -> dict[str, Any]:
    found: Any = engine.status(name)["nodes"]
    return next(dict(item) for item in found if item["node"] == node)


def receipts_noted(host: SimEngine) -> list[bytes]:
    """Return what the journal says of receipts that did not count."""
    return [line for line in host.gateway.journal.lines(0, 500) if b'"receipts"' in line]


@dataclass
class Thief(SimAgent):
    """A stolen node: it has its own keys and signs whatever helps it; `says`: what is untrue."""

    says: dict[str, Any] | None = None
    other: SimAgent | None = None

    def receipt(self, docs: Docs, wave: int, **changes: Any) -> Posted:
        signed, body = super().receipt(docs, wave, **changes)
        true = parse_receipt(signed, self.node.receipt_public)
        if self.other is not None:
            # In the name of another node, with the only key it has.
            signed = sign_receipt(replace(true, node=self.other.node.id), self.node.signing)
        elif self.says is not None and changes.get("kind") is not Kind.HEALTHY:
            signed = sign_receipt(replace(true, **self.says), self.node.signing)
        self.told[docs.plan_digest][-1] = (signed, body)
        return signed, body


def steal(fleet: SimFleet, number: int, **fields: Any) -> Thief:
    agent = fleet.push()[number]
    thief = Thief(fleet.sim, agent.node, **fields)
    fleet.agents[agent.node.id] = thief
    agent.close()
    return thief


@pytest.mark.parametrize(
    "says",
    [{"soaked_s": 0}, {"wave": 1}, {"seq": 99}, {"plan": bytes(32)}, {"manifest": bytes(32)}],
    ids=lambda says: next(iter(says)),
)
def test_a_stolen_canary_that_says_less_than_soaked_opens_no_wave(
    tmp_path: Path, says: dict[str, Any]
) -> None:
    async def course() -> None:
        fleet = SimFleet.make(3)
        steal(fleet, 0, says=says)
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,), soak_s=1)
                name = await engine.start("dev", "shop", plan, by="anna")
                canary = fleet.push()[0]
                await until(lambda: len(canary.told.get(plan, [])) >= 2)
                await asyncio.sleep(0.3)
                assert engine.status(name)["open_wave"] == 0
                assert not any(agent.orders for agent in fleet.push()[1:])

    run(course())


def test_a_stolen_node_cannot_speak_for_another(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(3)
        steal(fleet, 0, other=fleet.push()[1])
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: bool(fleet.push()[0].told.get(plan)))
                await until(lambda: bool(receipts_noted(host)))
                states = {n: node_of(engine, name, n)["state"] for n in fleet.agents}
                assert "healthy" not in states.values()
                assert not host.gateway.database.all(select(tables.receipts))
                assert b"refused" in receipts_noted(host)[0]

    run(course())


def test_a_stolen_canary_signs_for_itself_alone_and_witnesses_are_still_asked(
    tmp_path: Path,
) -> None:
    """The stated limit: a stolen canary may vouch for a bad release; the next wave stops it."""

    async def course() -> None:
        fleet = SimFleet.make(7)
        for agent in fleet.push()[1:]:
            agent.breaks = {"6.6"}
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("6.6", percents=(90, 100), max_parallel=1)
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: engine.status(name)["state"] == "halted")
                assert engine.status(name)["open_wave"] == 1
                broken = [a for a in fleet.push() if a.installs and a.breaks]
                assert len(broken) == 1

    run(course())


def test_a_node_denied_in_the_middle_gets_no_order(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(4)
        last = fleet.push()[-1]
        fleet.sim.revoke(nodes=[last.node.id])
        fleet.sim.publish()
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,), deadline_s=3, min_reached_pct=10)
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: bool(engine.status(name)["settled"]))
                assert last.orders == []
                assert node_of(engine, name, last.node.id)["state"] == "unreachable"

    run(course())


def test_a_changed_row_stops_its_roll_out_and_no_other(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(2)
        fleet.push()[0].slow_s = 0.5
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", plan, by="anna")
                with host.gateway.database.write() as connection:
                    connection.execute(update(tables.rollouts).values(open_wave=1, plan_raw=b"{}"))
                await until(lambda: name in engine.problems)
                await asyncio.sleep(0.2)
                assert fleet.push()[1].orders == []

    run(course())


@pytest.mark.misuse
def test_a_database_writer_skips_the_canary_only_without_the_evidence_check(
    tmp_path: Path, ablation: Ablation
) -> None:
    """He marks the canary healthy and wishes for a gate; that needs the canary's receipt."""

    async def course(folder: Path, *, opens: bool, gseq: int) -> bool:
        fleet = SimFleet.make(3)
        canary, *others = fleet.push()
        async with fleet.listening(but=[canary.node.id]):
            host = SimEngine(folder, fleet)
            host.address("node", canary.node.id, 9)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", plan, by="anna")
                with host.gateway.database.write() as connection:
                    mine = tables.rollout_nodes.c.node == canary.node.id
                    connection.execute(
                        update(tables.rollout_nodes).where(mine).values(state="healthy")
                    )
                    connection.execute(update(tables.rollouts).values(open_wave=1, gseq=gseq))
                await until(lambda: name in engine.problems or any(a.orders for a in others))
                await asyncio.sleep(0.4)
                # With the guard there is no order; without it nodes refuse what they are told.
                assert bool(any(a.orders for a in others)) is opens
                assert not any(a.installs for a in others)
                return opens

    assert not asyncio.run(course(tmp_path / "one", opens=False, gseq=1))
    assert not asyncio.run(course(tmp_path / "two", opens=False, gseq=7))
    with ablation("the check of a gate before it is signed") as attack:
        attack.without("gateway.gatekeeper.check_gate")
        attack.succeeded(asyncio.run(course(tmp_path / "three", opens=True, gseq=7)))


@pytest.mark.misuse
def test_receipts_of_an_older_plan_are_evidence_of_nothing(
    tmp_path: Path, ablation: Ablation
) -> None:
    async def course() -> None:
        fleet = SimFleet.make(2)
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                first = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", first, by="anna")
                await until(lambda: engine.status(name)["state"] == "succeeded")
                canary = fleet.push()[0]
                old = canary.told[first]
                canary.silent = True
                second = host.approved("1.1", percents=(100,), by="ben")
                other = await engine.start("dev", "shop", second, by="ben")
                for signed, body in old:
                    await engine.steering.receipt(canary.node.entry(), signed, body)
                await asyncio.sleep(0.3)
                assert engine.status(other)["open_wave"] == 0
                with ablation("the plan in a receipt") as attack:
                    # By itself each is a true receipt of the canary.
                    told = parse_receipt(old[-1][0], canary.node.receipt_public)
                    attack.succeeded((told.kind, told.outcome) == (Kind.SOAKED, Outcome.OK))
                thief = fleet.push()[1].node
                with pytest.raises(Refused):
                    await engine.steering.receipt(thief.entry(), *old[0])

    run(course())


def test_a_late_word_of_a_node_changes_its_row_even_after_the_end(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(2)
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: engine.status(name)["state"] == "succeeded")
                agent = fleet.push()[1]
                signed, body = agent.told[plan][-1]
                told = parse_receipt(signed, agent.node.receipt_public)
                drifted = replace(
                    told, rseq=told.rseq + 1, kind=Kind.STATUS, outcome=Outcome.DRIFTED
                )
                await engine.steering.receipt(
                    agent.node.entry(), sign_receipt(drifted, agent.node.signing), body
                )
                assert node_of(engine, name, agent.node.id)["state"] == "drifted"
                assert engine.status(name)["exit"] == 6

    run(course())


def test_numbers_that_a_thief_has_used_up_do_not_stop_the_honest_gateway(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(2)
        for agent in fleet.push():
            agent.oseq = 70  # orders of a stolen gateway with the same gate key
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: engine.status(name)["state"] == "succeeded")
                assert [agent.orders for agent in fleet.push()] == [[71], [71]]

    run(course())


def test_a_node_that_always_asks_for_higher_numbers_is_refused_in_the_end(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(2)

        class Greedy(SimAgent):
            def open_order(self, envelope: bytes) -> Any:
                self.oseq += 1000
                return super().open_order(envelope)

        canary = fleet.push()[0]
        canary.close()
        fleet.agents[canary.node.id] = Greedy(fleet.sim, canary.node)
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: engine.status(name)["state"] == "halted")
                found = node_of(engine, name, canary.node.id)
                assert (found["state"], found["reason"]) == ("refused", "refuse: replay")

    run(course())
