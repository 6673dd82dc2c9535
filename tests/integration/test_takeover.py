"""A gateway is stolen with its keys, and a new one takes over: same mirror, same nodes, no log-in.

Every part is a process of its own; the security team types what docs/repair.md says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.metadata import Targets

from demo import releases
from demo.fleet import DOMAIN, ENV, Fleet
from demo.thief import Thief, _gate, _passphrase
from embrasure.errors import EmbrasureError, Refused
from embrasure.fs import read_file
from embrasure.net.credentials import channel
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.folder import FolderSource
from gateway import metadata as form
from gateway.library import Library
from gateway.mirrors import publish
from gateway.repository_folder import RepositoryFolder
from gateway.run import Opened, opened
from tests.ablation import Ablation
from tests.simulate.running import until
from tests.simulate.wholefleet import (
    APP,
    delivered,
    deployed,
    doors,
    port,
    proposed,
    team,
    whole_fleet,
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with whole_fleet(tmp_path) as found:
        yield found


async def shown(fleet: Fleet, held: Opened) -> int:
    """Return the timestamp version that the mirror shows after this gateway has published to it."""
    key, chain = held.certificates.client()
    async with channel(
        f"127.0.0.1:{port(fleet.folder / 'm1', 'ingest')}", role="mirror", name="m1",
        domain=DOMAIN, issuer_pems=(fleet.trust / "ca" / "mirror.crt").read_bytes(),
        key=key, chain_pem=chain,
    ) as out:  # fmt: skip
        return await publish(out, held.repository.source(), Library(held.repository).contents())


def stolen(fleet: Fleet, plan: str) -> Path:
    """A thief has the gateway's folder and starts what was approved; the mirror believes him yet.

    Return his folder.
    """
    assert fleet.gateway is not None
    fleet.gateway.stop()
    thief = Thief(fleet, plan)
    folder = thief._copy("start")
    with opened(folder, _passphrase) as held:
        approved = thief._approved(held)
        thief._publish(held, approved, _gate(approved.release.plan, plan, open_wave=0))
        assert asyncio.run(shown(fleet, held)) > 0
    return folder


def repaired(fleet: Fleet) -> None:
    """New online keys, new issuers of what the thief can dial by, and another gateway's id."""
    team(fleet, "pki", "online", "rotate", "snapshot", "timestamp", f"gates-{ENV}", fleet.trust)
    for role in ("gateway", "admin"):
        team(fleet, "pki", "issuer", "create", role, fleet.trust)
        team(fleet, "pki", "issuer", "taint", role, fleet.trust)
    team(fleet, "trust", "gateway", "add", "g2", fleet.trust, "--env", ENV)
    team(fleet, "trust", "gateway", "remove", "g1", fleet.trust, "--env", ENV)
    delivered(fleet, *doors(fleet, *fleet.of_mode("push")))


def taken_over(fleet: Fleet) -> Path:
    """A gateway in a new folder runs, knows its operators, and the mirror shows what it signs."""
    folder, address = fleet.folder / "gateway2", f"127.0.0.1:{fleet.ports[10]}"
    run = fleet.processes.must
    run("gateway", "init", folder, "--trust", fleet.trust, "--name", "g2", "--listen", address)
    fleet.gateway = fleet.processes.start("gateway2", "gateway", "run", folder, *fleet.passphrase)
    fleet.processes.wait_file(folder / "ports.json", fleet.gateway)
    people = [f"operator/{person}" for person in fleet.operators]
    run("pki", "issue", *people, fleet.trust, "--out", fleet.folder / "operators", "--gateway",
        address, *fleet.passphrase)  # fmt: skip
    fleet.tell_addresses("anna")

    def same() -> bool:
        files = (folder / "repository", fleet.folder / "m1" / "public")
        return len({(place / layout.metadata_file("timestamp", 1)).read_bytes()
                    for place in files}) == 1  # fmt: skip

    until(same, what="the mirror with the new gateway's files", seconds=30)
    return folder


@pytest.mark.misuse
def test_a_new_gateway_takes_over_after_a_theft(fleet: Fleet, ablation: Ablation) -> None:
    deployed(fleet, "1.0")
    waiting = proposed(fleet, "1.5")
    thiefs = stolen(fleet, waiting.plan)
    public = fleet.folder / "m1" / "public"
    assert layout.gate_path(ENV, fleet.app) in gates_in(thiefs / "repository")
    repaired(fleet)
    folder = taken_over(fleet)
    # Nothing that the thief has opened is open any more, and no name of his stands in the way.
    assert gates_in(folder / "repository") == gates_in(public) == set()
    deployed(fleet, "2.0")
    # The plan is numbered above what the mirror handed back: 1.0, and 1.5 that the thief started.
    assert approvals(folder / "repository") == {3}
    assert "plans go on above" in (fleet.folder / "gateway2.log").read_text()
    # His gate and his snapshot, by TLS and by stick.
    with opened(thiefs, _passphrase) as held, pytest.raises(EmbrasureError):
        asyncio.run(shown(fleet, held))
    before = {node.id: node.current(fleet.app) for node in fleet.nodes}
    for node in fleet.nodes:
        said = fleet.processes.run("node", "apply", thiefs / "repository", "--root", node.prefix)
        assert said.code in (10, 11), said.out + said.err
    assert before == {node.id: node.current(fleet.app) for node in fleet.nodes}
    assert releases.wait_versions(fleet, "2.0") == len(fleet.nodes)
    anchor = read_file(fleet.trust / "anchor.json", limit=1 << 20)
    known = client(fleet, "known", anchor)
    known.refresh(FolderSource(public), roles=None)
    source = FolderSource(thiefs / "repository")
    with pytest.raises(Refused):
        known.refresh(source, roles=None)
    with ablation("the root that dropped the stolen keys") as attack:
        view = client(fleet, "other", anchor).refresh(source, roles=None)
        attack.succeeded(view.target(layout.gates_role(ENV), layout.gate_path(ENV, fleet.app)))


def client(fleet: Fleet, name: str, anchor: bytes) -> TrustClient:
    folder = fleet.folder / name
    folder.mkdir(mode=0o700)
    return TrustClient(folder, anchor)


def gates_in(repository: Path) -> set[str]:
    """Return the gates that the newest snapshot of a repository lists."""
    disk, role = RepositoryFolder(repository), layout.gates_role(ENV)
    version = disk.listed().get(role, 0)
    if version == 0:
        return set()
    return set(form.read_metadata(disk.role_file(role, version), Targets, role).signed.targets)


def approvals(repository: Path) -> set[int]:
    """Return the versions of the approval role that lie in a repository."""
    role = layout.app_role(ENV, APP)
    return {int(file.name.split(".")[0]) for file in repository.glob(f"metadata/*.{role}.json")}
