"""After a theft: what stolen keys have signed gives its names on a mirror up, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from embrasure.errors import EmbrasureError, Refused
from embrasure.trust import layout
from embrasure.trust.door import Door
from embrasure.trust.listing import GivenSource
from mirror.config import Config, Paths
from mirror.doorway import Held
from mirror.inbox import TIMESTAMP
from tests.ablation import Ablation
from tests.simulate.gateway import trust_files
from tests.simulate.mirrorbox import Box, grow, published
from tests.simulate.repository import SimRepository

ONLINE = (layout.TIMESTAMP, layout.SNAPSHOT, "gates-dev")


@pytest.fixture
def repo() -> SimRepository:
    return published()


@pytest.fixture
def box(tmp_path: Path, repo: SimRepository) -> Box:
    return Box(tmp_path / "m", repo)


def rotate(repo: SimRepository) -> None:
    """The security team replaces the online keys; a new publisher begins low, with no plan."""
    role = "dev-shop"
    for name in ONLINE:
        repo.replace_keys(name, [CryptoSigner.generate_ed25519()])
        repo.versions[name] = 1  # the first was never sent to this mirror
    repo.drop_target("gates-dev", layout.gate_path("dev", "shop"))
    del repo.roles[role], repo.versions[role]
    delegations = repo.targets.delegations
    assert delegations is not None and delegations.roles is not None
    repo.roles.pop(role, None)
    repo._dirty.discard(role)
    repo.files = {path: raw for path, raw in repo.files.items() if role not in path}
    repo.publish()


def sent(box: Box, repo: SimRepository) -> int:
    """As the gateway sends: root and targets first, then what is lacking by them."""
    box.send({path: raw for path, raw in repo.files.items() if ".root." in path})
    box.send({path: raw for path, raw in repo.files.items() if ".targets." in path})
    try:
        return box.publish(repo)
    except Refused:
        # What lay in the inbox, unverified, is gone now; the gateway tries again.
        return box.publish(repo)


@pytest.mark.misuse
def test_what_stolen_keys_have_signed_keeps_no_name(
    box: Box, repo: SimRepository, tmp_path: Path, ablation: Ablation
) -> None:
    other = Box(tmp_path / "other", repo)
    for version in ("2.0", "3.0"):
        box.publish(repo)
        other.publish(repo)
        grow(repo, version)
    box.publish(repo)
    other.publish(repo)
    stolen = dict(repo.files)
    names = {f"metadata/{n}.{role}.json" for n in (2, 3) for role in ("snapshot", "gates-dev")}
    assert names & set(box.public())
    before = box.public()
    rotate(repo)
    assert sent(box, repo) == repo.versions[layout.TIMESTAMP] == 2
    assert box.seen_by_a_new_node() == 2
    after = box.public()
    # Only online metadata has other bytes now; every document, blob and root step is as it was.
    changed = {path for path in before if after[path] != before[path]}
    assert changed <= names | {TIMESTAMP}, changed
    assert changed > {TIMESTAMP}
    # The thief's files, under names that are free or not, are worth nothing any more.
    box.send(stolen)
    with pytest.raises(EmbrasureError):
        box.publisher.publish(stolen[TIMESTAMP])
    assert box.public() == after
    with ablation("the look at who has signed what is shown") as attack:
        attack.without("mirror.standing.is_vouched", lambda *_: True)
        with pytest.raises(Refused):
            sent(other, repo)
        attack.succeeded("the new publisher is shut out by the thief's names")


def test_a_shown_file_that_counts_keeps_its_name(box: Box, repo: SimRepository) -> None:
    """A thief of the gateway signs a second snapshot of a number that is shown."""
    box.publish(repo)
    version = repo.versions[layout.SNAPSHOT]
    path = layout.metadata_file(layout.SNAPSHOT, version)
    honest = box.public()[path]
    repo.versions[layout.SNAPSHOT] = version - 1
    repo.touch(layout.REVOCATIONS)
    repo.publish()
    assert repo.files[path] != honest
    assert box.inbox.held(path) is None
    box.publish(repo)
    assert box.public()[path] == honest


def test_revocations_of_a_stolen_key_give_their_name_up_at_the_door(
    box: Box, repo: SimRepository
) -> None:
    box.publish(repo)
    paths = Paths(box.folder)
    held = Held(paths, CONFIG, box.publisher.client)

    def bring() -> None:
        held.take(GivenSource(trust_files(repo)))

    first = repo.versions[layout.REVOCATIONS]
    repo.revoke(keys=["a" * 64])
    repo.publish()
    bring()
    path = layout.metadata_file(layout.REVOCATIONS, first + 1)
    thiefs = box.public()[path]
    repo.replace_keys(layout.REVOCATIONS, [CryptoSigner.generate_ed25519()])
    repo.versions[layout.REVOCATIONS] = first
    repo.revoke()
    repo.publish()
    bring()
    assert box.public()[path] == repo.files[path] != thiefs
    assert Door(box.publisher.client).newest().version(layout.REVOCATIONS) == first + 1


CONFIG = Config(kind="mirror", name="m1", domain="sim.test", env="dev", ingest="", read="")
