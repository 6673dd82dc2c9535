"""What the security team submits reaches a real push node at once, with no roll-out anywhere."""

from __future__ import annotations

from pathlib import Path

from embrasure.trust.floors import FloorStore
from node.paths import Paths
from tests.simulate.installer import free_port
from tests.simulate.office import ENV, Office, verb
from tests.simulate.officenode import node_of, ports
from tests.simulate.running import until

FIRST, SECOND = "1" * 64, "2" * 64


def denied(paths: Paths) -> set[str]:
    return set(FloorStore(paths.floors).load().union.plans)


def revoke(mine: Office, plan: str) -> None:
    mine.pki("trust", "revoke", mine.trust, "--env", ENV, "--plan", plan, "--reason", "theft",
             *mine.signs()[:2])  # fmt: skip
    assert mine.verb("trust", "submit", mine.trust, person="anna").code == 0


def test_a_denial_reaches_a_node_that_nobody_deploys_to(tmp_path: Path) -> None:
    mine = Office.make(tmp_path / "office", nodes=0)
    with mine.gateway() as gateway:
        mine.as_person("anna", gateway.port)
        with node_of(mine, free_port()) as (node, paths):
            push = ports(paths)["push"]
            done = mine.verb("fleet", "address", "node", node, f"127.0.0.1:{push}", "--env", ENV,
                             person="anna")  # fmt: skip
            assert done.code == 0, done.told
            assert mine.verb("trust", "submit", mine.trust, person="anna").code == 0
            # A node takes its enrolment answer with the first files that it is shown.
            stick = mine.gateway_folder / "repository"
            assert verb("node", "apply", stick, "--root", paths.prefix).code == 0
            revoke(mine, FIRST)
            until(lambda: denied(paths) == {FIRST}, what="the denial at the node")
            revoke(mine, SECOND)
            until(lambda: denied(paths) == {FIRST, SECOND}, what="the next denial")
