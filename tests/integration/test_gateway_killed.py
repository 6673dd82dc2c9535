"""SIGKILL of the gateway in the middle of a roll-out: it goes on, and nothing installs twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from embrasure.trust.gate import parse_gate
from gateway.audit import verify_file
from tests.simulate.engine import SimEngine, SimFleet, until
from tests.simulate.engine_child import write_config


async def start_child(config: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "tests.simulate.engine_child", str(config),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def kill(child: asyncio.subprocess.Process) -> None:
    assert child.returncode is None, (await child.communicate())[1].decode()[-2000:]
    os.kill(child.pid, signal.SIGKILL)
    await child.communicate()


def state_of(folder: Path) -> str:
    with sqlite3.connect(f"file:{folder}/state/gateway.sqlite?mode=ro", uri=True) as connection:
        row = connection.execute("SELECT state FROM rollouts").fetchone()
    return str(row[0]) if row else ""


def check_gates(folder: Path) -> None:
    """No two gates ever shared a number, and numbers rose with what they opened."""
    seen: dict[int, bytes] = {}
    for file in (folder / "repository" / "targets" / "gates" / "dev").glob("[0-9a-f]*.json"):
        raw = file.read_bytes()
        gate = parse_gate(raw)
        assert seen.setdefault(gate.gseq, raw) == raw
    ordered = [parse_gate(seen[number]).open_wave for number in sorted(seen)]
    assert ordered == sorted(ordered)


async def course(tmp_path: Path, moments: list[Callable[[SimFleet], bool]]) -> None:
    fleet = SimFleet.make(8)
    folder = tmp_path / "gateway"
    folder.mkdir()
    for agent in fleet.push():
        agent.slow_s = 0.15
    async with fleet.listening():
        host = SimEngine(folder, fleet)
        plan = host.approved("1.0", percents=(50, 100), max_parallel=2)
        write_config(tmp_path / "child.json", folder, fleet, host, plan)
        host.gateway.close()
        children = [await start_child(tmp_path / "child.json")]
        try:
            for moment in moments:
                await until(lambda moment=moment: moment(fleet))  # type: ignore[misc]  # bound early
                await kill(children[-1])
                children.append(await start_child(tmp_path / "child.json"))
            await until(lambda: state_of(folder) == "succeeded")
            await until(lambda: len(list_done(folder)) == 1)
            await kill(children[-1])
        finally:
            # A failed test leaves no gateway behind.
            for child in children:
                if child.returncode is None:
                    child.kill()
                    await child.communicate()
        assert [dict(agent.installs) for agent in fleet.push()] == [{plan: 1}] * 8
        for agent in fleet.push():
            assert agent.orders == sorted(set(agent.orders)), "an order number came twice"
        check_gates(folder)
        verify_file(folder / "state" / "audit.jsonl", root=fleet.sim.root_id)


def list_done(folder: Path) -> list[int]:
    gates = (folder / "repository" / "targets" / "gates" / "dev").glob("[0-9a-f]*.json")
    found = [parse_gate(file.read_bytes()) for file in gates]
    return [gate.gseq for gate in found if gate.state == "done"]


def installed(number: int) -> Callable[[SimFleet], bool]:
    return lambda fleet: sum(sum(a.installs.values()) for a in fleet.push()) >= number


@pytest.mark.timeout(120)
def test_a_gateway_killed_at_a_quarter_a_half_and_three_quarters_doubles_nothing(
    tmp_path: Path,
) -> None:
    asyncio.run(course(tmp_path, [installed(2), installed(4), installed(6)]))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(9))
def test_a_gateway_killed_at_any_moment_doubles_nothing(tmp_path: Path, seed: int) -> None:
    async def nothing() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        ends = [start + 1.2 + 0.23 * seed, start + 2.9 + 0.4 * seed]

        def over(end: float) -> Callable[[SimFleet], bool]:
            return lambda _: loop.time() >= end

        await course(tmp_path, [over(end) for end in ends])

    asyncio.run(nothing())
