"""The engine on real streams: canary, waves, failure, silence, and what an operator may do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from embrasure.errors import Denied
from embrasure.trust.gate import Gate
from gateway.engine import Engine
from gateway.gates import published_gate
from gateway.rollout_text import status_text
from tests.simulate.agents import Gauge, serving
from tests.simulate.engine import SimEngine, SimFleet, until


def state_of(engine: Engine, name: str) -> str:
    return str(engine.status(name)["state"])


def node_states(engine: Engine, name: str) -> dict[str, str]:
    found: Any = engine.status(name)["nodes"]
    return {node["node"]: node["state"] for node in found}


def gate_of(host: SimEngine) -> Gate:
    view, source = host.gateway.repository.view(), host.gateway.repository.source()
    found = published_gate(view, source, env="dev", app="shop")
    assert found is not None
    return found[0]


def run(course: Coroutine[Any, Any, None]) -> None:
    asyncio.run(course)


def test_a_release_reaches_every_push_node_once_canary_first(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(6)
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0")
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: state_of(engine, name) == "succeeded")
                found: Any = engine.status(name)
                assert (found["exit"], found["counts"]) == (0, {"healthy": 6})
                assert all(agent.installs == {plan: 1} for agent in fleet.push())
                assert all(wave["state"] == "passed" for wave in found["waves"])
                assert all(wave["evidence"] >= wave["need"] for wave in found["waves"])
                await until(lambda: gate_of(host).state == "done")
                waves = [item.wave for item in gate_of(host).evidence]
                assert waves == [n for n, w in enumerate(found["waves"]) if w["need"]]
                # Starting it again is harmless.
                assert await engine.start("dev", "shop", plan, by="anna") == name

    run(course())


def test_a_failing_canary_halts_and_nobody_else_is_dialled(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(5)
        for agent in fleet.push():
            agent.breaks = {"2.0"}
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                name = await engine.start("dev", "shop", host.approved("2.0"), by="anna")
                await until(lambda: state_of(engine, name) == "halted")
                await until(lambda: gate_of(host).state == "halted")
                await asyncio.sleep(0.3)
                canary, *others = fleet.push()
                assert node_states(engine, name)[canary.node.id] == "rolled_back"
                assert [agent.orders for agent in others] == [[], [], [], []]
                assert (gate_of(host).state, gate_of(host).code) == ("halted", "canary_failed")
                found: Any = engine.status(name)
                assert found["exit"] == 1
                node = next(n for n in found["nodes"] if n["node"] == canary.node.id)
                assert node["detail"] == "got\\x1b 503"
                assert node["log"] == ["probe said no", "\\x1b[31mred"]
                screen = status_text(found)
                for line in ("    got\\x1b 503", "    | probe said no", "    | \\x1b[31mred"):
                    assert line in screen.splitlines()
                await engine.abort(name, "bad build", by="anna")
                await until(lambda: state_of(engine, name) == "rolled_back")
                # The app is free again.
                for agent in fleet.push():
                    agent.breaks = set()
                name = await engine.start("dev", "shop", host.approved("2.1"), by="anna")
                await until(lambda: state_of(engine, name) == "succeeded")

    run(course())


def test_a_retry_after_a_repair_goes_on_with_the_same_plan(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(3)
        canary = fleet.push()[0]
        canary.breaks = {"2.0"}
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("2.0")
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: state_of(engine, name) == "halted")
                with pytest.raises(Denied):
                    await engine.resume(name, "", by="anna")
                canary.breaks = set()
                await engine.retry(name, nodes=(), failed=True, unreachable=False, by="anna")
                await until(lambda: state_of(engine, name) == "succeeded")
                assert canary.installs == {plan: 2}
                assert gate_of(host).attempt == 2

    run(course())


def test_a_dead_node_is_unreachable_never_failed_and_takes_the_release_when_it_returns(
    tmp_path: Path,
) -> None:
    async def course() -> None:
        fleet = SimFleet.make(6)
        dead = fleet.push()[-1]
        async with fleet.listening(but=[dead.node.id]):
            host = SimEngine(tmp_path, fleet)
            host.address("node", dead.node.id, 9)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,), deadline_s=3, min_reached_pct=50)
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: node_states(engine, name)[dead.node.id] == "unreachable")
                await until(lambda: state_of(engine, name) == "succeeded")
                found: Any = engine.status(name)
                assert found["exit"] == 6
                assert found["verdict"] == "succeeded, partial: 5 healthy, 1 unreachable"
                async with serving(fleet.authority, dead) as port:
                    host.address("node", dead.node.id, port)
                    await until(lambda: node_states(engine, name)[dead.node.id] == "healthy")
                assert engine.status(name)["exit"] == 0
                assert dead.installs == {plan: 1}

    run(course())


def test_a_node_without_an_address_is_unreachable(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(2)
        async with fleet.listening(but=[fleet.push()[1].node.id]):
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,), deadline_s=3)
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: state_of(engine, name) == "halted")
                assert "min_reached" in str(engine.status(name)["reason"])

    run(course())


def test_streams_that_break_after_the_fetch_install_once(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(3)
        for agent in fleet.push():
            agent.cut = 2
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: state_of(engine, name) == "succeeded")
                for agent in fleet.push():
                    assert agent.installs == {plan: 1}
                    assert agent.orders == sorted(set(agent.orders)) and len(agent.orders) == 3

    run(course())


def test_pause_lets_the_node_in_flight_finish_and_starts_nobody(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(4)
        for agent in fleet.push():
            agent.slow_s = 0.4
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", plan, by="anna")
                canary, *others = fleet.push()
                await until(lambda: bool(canary.installs))
                await engine.pause(name, "lunch", by="ben")
                await engine.pause(name, "lunch", by="ben")
                await until(lambda: node_states(engine, name)[canary.node.id] == "healthy")
                await asyncio.sleep(0.2)
                assert (state_of(engine, name), gate_of(host).state) == ("paused", "paused")
                assert not any(agent.orders for agent in others)
                await engine.resume(name, "", by="ben")
                await until(lambda: state_of(engine, name) == "succeeded")
                assert all(agent.installs == {plan: 1} for agent in fleet.push())

    run(course())


def test_abort_in_the_middle_says_what_stays(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(4)
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,), max_parallel=1)
                for agent in fleet.push()[1:]:
                    agent.slow_s = 0.5
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: any(agent.installs for agent in fleet.push()[1:]))
                await engine.abort(name, "wrong", by="anna")
                await until(lambda: state_of(engine, name) == "failed")
                found: Any = engine.status(name)
                assert found["exit"] == 1
                assert found["reason"] == "wrong; left: 2 healthy"
                assert sum(len(agent.installs) for agent in fleet.push()) == 2

    run(course())


def test_never_more_nodes_at_once_than_the_wave_allows(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(9)
        gauge = Gauge()
        for agent in fleet.push():
            agent.slow_s, agent.gauge = 0.1, gauge
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,), max_parallel=2)
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: state_of(engine, name) == "succeeded")
        assert gauge.most == 2

    run(course())


def test_a_second_plan_waits_for_the_first_and_a_paused_one_yields(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(3)
        fleet.push()[0].slow_s = 0.5
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                first = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", first, by="anna")
                await until(lambda: bool(fleet.push()[0].installs))
                await engine.pause(name, "newer", by="anna")
                second = host.approved("1.1", by="ben", percents=(100,), supersede=True)
                other = await engine.start("dev", "shop", second, by="ben")
                assert state_of(engine, name) == "superseded"
                await until(lambda: state_of(engine, other) == "succeeded")
                assert all(agent.installs[second] == 1 for agent in fleet.push())

    run(course())


def test_a_newer_plan_starts_while_an_abort_waits_for_a_silent_node(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(2, pull=1)  # nobody speaks for the pull node
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                first = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", first, by="anna")
                await until(lambda: all(agent.installs.get(first) for agent in fleet.push()))
                await engine.abort(name, "wrong build", by="anna")
                await asyncio.sleep(0.2)
                assert state_of(engine, name) == "rolling_back"
                second = host.approved("1.1", by="ben", percents=(100,), supersede=True)
                await engine.start("dev", "shop", second, by="ben")
                assert state_of(engine, name) == "superseded"
                await until(lambda: all(agent.installs.get(second) for agent in fleet.push()))
                assert gate_of(host).plan == second

    run(course())


@pytest.mark.parametrize("why", ["unapproved", "unknown", "other app"])
def test_what_was_not_approved_never_starts(tmp_path: Path, why: str) -> None:
    async def course() -> None:
        fleet = SimFleet.make(2)
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                draft = host.gateway.draft("shop")
                host.gateway.propose(draft)
                host.gateway.approve(draft, "ben")
                plan = "ab" * 32 if why == "unknown" else draft.release.plan_digest
                app = "other" if why == "other app" else "shop"
                with pytest.raises(Exception) as found:
                    await engine.start("dev", app, plan, by="anna")
                assert getattr(found.value, "exit_code", 0) in (3, 5)
                await asyncio.sleep(0.2)
                assert engine.listing("", "", 10) == {"rollouts": []}
                assert not any(agent.orders for agent in fleet.push())

    run(course())


def test_watching_streams_every_change_to_the_end(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(2)
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", plan, by="anna")
                seen: list[Any] = [event async for event in engine.watch(name, 0)]
                states = [e["state"] for e in seen if e["kind"] == "rollout"]
                assert states[-1] == "succeeded"
                healthy = [
                    e["node"] for e in seen if e["kind"] == "node" and e["state"] == "healthy"
                ]
                assert len(healthy) == 2
                again: list[Any] = [event async for event in engine.watch(name, seen[2]["n"])]
                assert again == seen[3:]

    run(course())


def test_a_node_enrolled_after_the_end_takes_the_release_and_changes_no_verdict(
    tmp_path: Path,
) -> None:
    async def course() -> None:
        fleet = SimFleet.make(3)
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,))
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: state_of(engine, name) == "succeeded")
                late = fleet.join()
                host.adopt_trust()
                async with serving(fleet.authority, late) as port:
                    host.address("node", late.node.id, port)
                    await until(
                        lambda: node_states(engine, name).get(late.node.id) == "healthy",
                        tell=lambda: (engine.problems, engine.status(name), late.orders),
                    )
                assert late.installs == {plan: 1}
                found: Any = engine.status(name)
                assert (found["exit"], found["counts"]) == (0, {"healthy": 3})
                late.close()

    run(course())


def test_a_retry_after_the_end_brings_a_failed_node_along(tmp_path: Path) -> None:
    async def course() -> None:
        fleet = SimFleet.make(8)
        last = fleet.push()[-1]
        last.breaks = {"1.0"}
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet)
            async with host.running() as engine:
                plan = host.approved("1.0", percents=(100,), max_failed_pct=50)
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: state_of(engine, name) == "succeeded")
                assert engine.status(name)["verdict"] == (
                    "succeeded, partial: 7 healthy, 1 rolled_back"
                )
                last.breaks = set()
                await engine.retry(name, nodes=(), failed=True, unreachable=False, by="ben")
                await until(lambda: engine.status(name)["exit"] == 0)
                assert last.installs == {plan: 2}
                assert (gate_of(host).state, gate_of(host).attempt) == ("done", 2)

    run(course())
