"""`min_isolation` over two waves: what the first wave ran must have been as well separated."""

from __future__ import annotations

import pytest

from embrasure.trust.plan import Plan
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller
from tests.simulate.nodes import SimNode


def second_wave(bench: SimInstaller, version: str, canary: SimNode, *, level: int) -> Plan:
    """Publish a release whose first wave has soaked on a node of this isolation level."""
    release = bench.repo.add_release(bench.app, release=bench.make(version))
    plan = bench.repo.set_plan(release, canary=[canary], percents=(100,))
    soaked = canary.receipt(plan, 0, at=bench.repo.clock(), isolation=level)
    bench.repo.set_gate(plan, open_wave=1, receipts={0: [soaked]})
    bench.repo.publish()
    return plan


@pytest.mark.misuse
def test_a_second_wave_opens_only_on_receipts_of_nodes_that_were_separated_enough(
    bench: SimInstaller, ablation: Ablation
) -> None:
    canary = bench.repo.add_node()
    bench.repo.set_policy(min_isolation=1)
    second_wave(bench, "1.0", canary, level=1)
    assert bench.poll() == "committed"
    assert bench.ask() == "1.0"
    # The first wave ran without any sandbox, as in development: it proves little of production.
    second_wave(bench, "2.0", canary, level=0)
    assert bench.poll() == "hold evidence"
    assert bench.ask() == "1.0"
    with ablation("the level that a receipt must have to count") as attack:
        attack.without("embrasure.trust.decide.check_gate_evidence")
        attack.succeeded(bench.poll() == "committed" and bench.ask() == "2.0")
