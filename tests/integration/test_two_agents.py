"""Two agents that are started at once on one node: one works, the other says so and ends."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from embrasure.errors import Unavailable
from node.exits import BUSY
from tests.ablation import Ablation
from tests.simulate.fleet import SimFleet
from tests.simulate.installer import SimInstaller, free_port
from tests.simulate.running import Running, children, until
from tests.simulate.sweep_install import small


def test_of_two_agents_started_at_once_one_runs(tmp_path: Path) -> None:
    fleet = SimFleet(tmp_path)
    node = fleet.make("n1", mode="push", port=free_port())
    agents = [Running(node), Running(node)]
    try:
        loser = until(
            lambda: next((a for a in agents if a.process.poll() is not None), None), what="an end"
        )
        assert loser.process.returncode == BUSY
        assert "E_BUSY" in loser.log.read_text()
        (winner,) = [agent for agent in agents if agent is not loser]
        until(winner.is_ready, seconds=50, what="the other one")
        assert len(children(winner.process.pid)) == 2, "one fetch, one apply"
        assert winner.stop() == 0
    finally:
        for agent in agents:
            agent.end()


@pytest.mark.misuse
def test_a_second_apply_never_writes_beside_the_first(tmp_path: Path, ablation: Ablation) -> None:
    bench = SimInstaller(tmp_path, inner=True)
    bench.publish(release=small(bench, "1.0"))
    first = bench.acceptor
    with pytest.raises(Unavailable) as busy:
        bench.open()
    assert busy.value.reason == "busy"
    with ablation("the lock of the node") as attack:
        attack.without("node.accept.lock", lambda *_, **__: contextlib.nullcontext())
        bench.open()
        attack.succeeded(bench.acceptor is not first)
        bench.close()
    bench.acceptor = first
    assert bench.poll() == "committed", "the first goes on"
    first.close()
