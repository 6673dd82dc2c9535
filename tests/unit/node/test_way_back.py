"""The way back stays open whatever is denied meanwhile, unless the old content itself is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from embrasure.trust.documents import digest
from node.confirm_messages import AwaitsNote
from node.states import State
from tests.ablation import Ablation
from tests.simulate.doors import given
from tests.simulate.installer import SimInstaller, Told


@dataclass
class Stops:
    """A report that has a stop delivered by the door while the new release is being probed."""

    bench: SimInstaller
    denials: dict[str, Any]
    told: Told
    taken: bool = False

    def receipt(self, signed: bytes, body: bytes) -> None:
        self.told.receipt(signed, body)

    def awaits(self, note: AwaitsNote) -> None:
        self.told.awaits(note)

    def progress(self, state: str, done: int, total: int) -> None:
        self.told.progress(state, done, total)
        if state == State.PROBING and not self.taken:
            self.bench.repo.revoke(**self.denials)
            self.bench.repo.publish()
            found = self.bench.acceptor.trust(given(self.bench.repo))
            self.taken = "revocations" in found.roles


def everything(bench: SimInstaller, old: str, new: str, manifest: str) -> dict[str, list[str]]:
    """Deny both plans, the new content, this node, every operator's key and the gate key."""
    people = [person.key for person in bench.repo.people.values()]
    gate = bench.repo.signers["gates-dev"][0].public_key.keyid
    return {
        "plans": [old, new],
        "manifests": [manifest],
        "keys": [*people, gate, bench.node.receipt_id],
        "nodes": [bench.node.id],
    }


def failed(bench: SimInstaller, *, old_too: bool = False) -> tuple[Stops, str]:
    """Return what was told and how a bad install ended, during which everything was denied."""
    assert bench.plan is not None and bench.release is not None
    old, content = digest(bench.plan), bench.release.digest
    plan = bench.publish("2.0", "bad")
    denials = everything(bench, old, digest(plan), bench.release.digest)
    if old_too:
        denials["manifests"].append(content)
    report = Stops(bench, denials, Told())
    (answer,) = bench.acceptor.poll(bench.source(), report)
    return report, f"{answer.kind} {answer.reason}"


def test_a_stop_of_everything_leaves_the_way_back_open(running: SimInstaller) -> None:
    report, ended = failed(running)
    assert report.taken, report.told.states
    assert ended == "rolled_back probe"
    assert running.ask() == "1.0"
    # And it stays: after a start with every server down, too.
    running.restart()
    assert running.ask() == "1.0"


@pytest.mark.misuse
def test_only_a_denial_of_the_old_content_itself_closes_it(
    running: SimInstaller, tmp_path: Path, ablation: Ablation
) -> None:
    report, ended = failed(running, old_too=True)
    assert report.taken and ended.startswith("degraded")
    assert running.supervisor.running(running.app) is None
    with ablation("the look at what was denied meanwhile") as attack:
        attack.without("node.rollback.check_target")
        other = SimInstaller(tmp_path / "other")
        try:
            other.publish("1.0")
            other.poll()
            _, ended = failed(other, old_too=True)
            attack.succeeded(ended == "rolled_back probe" and other.ask() == "1.0")
        finally:
            other.close()
