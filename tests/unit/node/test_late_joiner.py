"""Late joiners converge: a node that comes after the end takes the newest release straight away."""

from __future__ import annotations

import pytest

from embrasure.trust.plan import Plan
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller
from tests.simulate.nodes import SimNode


def rolled_out(
    bench: SimInstaller, version: str, others: list[SimNode], *, proved: bool = True
) -> Plan:
    """Publish a release whose roll-out to the others has ended; this node had no part in it."""
    release = bench.repo.add_release(bench.app, release=bench.make(version))
    mine = bench.repo.nodes.pop(bench.node.id)
    plan = bench.repo.set_plan(release, canary=others[:1], percents=(100,))
    receipts = {wave: bench.repo.soak(plan, wave) for wave in (0, 1) if proved or wave}
    bench.repo.set_gate(plan, state="done", open_wave=1, receipts=receipts)
    bench.repo.add_node(mine)
    bench.repo.publish()
    return plan


def test_a_node_enrolled_after_the_end_takes_the_release_and_then_only_the_newest(
    bench: SimInstaller,
) -> None:
    others = [bench.repo.add_node() for _ in range(3)]
    first = rolled_out(bench, "1.0", others)
    assert bench.poll() == "committed"
    assert bench.ask() == "1.0"
    bench.close()  # and off for three releases
    for version in ("2.0", "3.0", "4.0"):
        last = rolled_out(bench, version, others)
    bench.open()
    assert bench.ask() == "1.0"
    assert bench.poll() == "committed"
    assert bench.ask() == "4.0"
    assert {one.seq for one in bench.told()} == {first.seq, last.seq}
    assert len(list(bench.paths.releases(bench.app).iterdir())) == 2


@pytest.mark.misuse
def test_the_end_of_a_roll_out_is_believed_only_with_its_receipts(
    bench: SimInstaller, ablation: Ablation
) -> None:
    others = [bench.repo.add_node() for _ in range(3)]
    rolled_out(bench, "1.0", others, proved=False)
    assert bench.poll() == "refuse evidence"
    with ablation("the receipts of every earlier wave") as attack:
        attack.without("embrasure.trust.decide.check_gate_evidence", lambda *_, **__: None)
        attack.succeeded(bench.poll() == "committed")
