"""Bad inputs that come over the network (`test_bad_input.py`): sources that give more than was
signed or byte by byte, orders for another, repositories that nobody approved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from tuf.api.metadata import Metadata, Root, Targets

from embrasure import limits
from embrasure.bundle.manifest import Hook, Manifest
from embrasure.trust import canonical, layout
from embrasure.trust.source import Source
from node.messages import OrderAsk, pack
from tests.ablation import Ablation
from tests.simulate.badinput import Door, Vector, names_of, of, refused
from tests.simulate.guards import take_away
from tests.simulate.metadata import sign_metadata
from tests.simulate.repository import SimRepository
from tests.simulate.sources import EndlessSource, MemorySource

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with closing(Door(tmp_path_factory.mktemp("door"))) as found:
        yield found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Door]:
    """A door of its own: what is done to it nobody else sees."""
    with closing(Door(tmp_path)) as found:
        yield found


# --- Sources that lie ----------------------------------------------------------------------------


class TenfoldSource(MemorySource):
    """Gives ten times as many bytes of one blob as were signed."""

    def __init__(self, files: MutableMapping[str, bytes], digest: str) -> None:
        super().__init__(files)
        self._path = layout.blob_file(digest)

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        if path != self._path:
            yield from super().fetch(path, offset=offset, limit=limit)
            return
        yield from [self.files[path]] * 10


class Dripping(MemorySource):
    """Gives one byte at a time."""

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        for piece in super().fetch(path, offset=offset, limit=limit):
            yield from (piece[at : at + 1] for at in range(len(piece)))


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("source"))
def test_a_source_that_gives_more_than_was_signed(
    door: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    data = os.urandom(vector["input"]["source"]["length"])
    digest = canonical.sha256_hex(data)
    release = door.bench.make("6.6", files={vector["input"]["source"]["path"]: data})
    door.publish(release.raw, release)
    source = EndlessSource(MemorySource(door.repo.files), layout.blob_file(digest))
    with refused(door, vector, caplog) as say:
        say(door.poll(source))
    assert source.sent < len(data) + 4 * limits.BUFFER_BYTES + limits.MIB, (
        "nothing is asked for more"
    )
    held = door.paths.blobs / ".partial" / digest
    assert not held.exists() or held.stat().st_size <= len(data)
    door.honest()
    door.publish(release.raw, release)
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        assert door.poll(TenfoldSource(door.repo.files, digest)) == vector["without"]["then"]
        attack.succeeded(held.stat().st_size == 10 * len(data))
    held.unlink()
    door.honest()


@pytest.mark.parametrize("vector", of("source", refused=False))
def test_a_source_that_drips(door: Door, vector: Vector) -> None:
    data = os.urandom(vector["input"]["source"]["length"])
    release = door.bench.make("6.6", files={vector["input"]["source"]["path"]: data})
    door.publish(release.raw, release)
    assert door.poll(Dripping(door.repo.files)) == vector["expected"]["answer"]
    assert (door.paths.current("shop") / "code/data").read_bytes() == data
    door.honest()


# --- Orders --------------------------------------------------------------------------------------


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("order"))
def test_an_order_that_is_not_for_this_node(
    door: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    door.bench.publish("6.6")
    door.oseq += 10
    changes = {"oseq": door.oseq, **vector["input"]["order"]}
    if "oseq" in vector["input"]["order"]:
        assert door.obeys(door.bench.order(oseq=door.oseq)) == "committed"
        door.bench.publish("6.7")
    envelope = door.bench.order(**changes)
    with refused(door, vector, caplog) as say:
        say(door.say(OrderAsk(envelope=pack(envelope))))
    door.honest()
    door.bench.publish("6.8")
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        attack.succeeded(door.obeys(door.bench.order(**changes)) == vector["without"]["then"])


# --- Metadata ------------------------------------------------------------------------------------


def with_hook(manifest: Manifest) -> Manifest:
    hook = Hook(point="finish", argv=("python3", "-c", "111"), timeout_s=5)
    return msgspec.structs.replace(manifest, hooks=(hook,))


def hostile(door: Door, vector: Vector) -> Source:
    """Return a source with a repository as the vector wants it, of a plan that is not installed."""
    wish, repo, role = vector["input"]["repository"], door.repo, "dev-shop"
    if "replay" in wish:
        source = repo.frozen_source()
        door.honest()
        (door.paths.tuf / wish["lost"]).unlink()  # a power cut: what is left is the floors
        return source
    if "signers" in wish:
        honest = repo.sign_with[role]
        repo.sign_with[role] = honest[: wish["signers"]]
        door.bench.publish("6.6")
        repo.sign_with[role] = honest
        return repo.frozen_source()
    older = Metadata[Targets].from_bytes(
        repo.files[layout.metadata_file(role, repo.versions[role])]
    )
    release = door.bench.make("6.6", change=with_hook)
    door.publish(release.raw, release)
    files = dict(repo.files)
    if "signatures" in wish:
        path = layout.metadata_file(role, repo.versions[role])
        mixed = Metadata[Targets].from_bytes(files[path])
        mixed.signatures = older.signatures
        files[path] = mixed.to_bytes()
    elif "root" in wish:
        stranger = SimRepository()
        signed = Metadata[Root].from_bytes(repo.files["metadata/1.root.json"]).signed
        signed.version += 1
        files["metadata/2.root.json"] = sign_metadata(signed, stranger.holders)
    else:
        path = next(path for path in files if release.digest in path)
        files[path] = release.raw.replace(b'"-c","111"', b'"-c","666"')
    return MemorySource(files)


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("repository"))
def test_a_repository_that_nobody_approved(
    request: pytest.FixtureRequest,
    vector: Vector,
    caplog: pytest.LogCaptureFixture,
    ablation: Ablation,
) -> None:
    # A node that once believed a strange root takes nothing from the honest team any more.
    is_final = "root" in vector["input"]["repository"]
    door: Door = request.getfixturevalue("own" if is_final else "door")
    source = hostile(door, vector)
    with refused(door, vector, caplog) as say:
        say(door.poll(source))
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        answer = door.poll(source)
        assert answer == vector["without"]["then"], door.said
        record = door.bench.acceptor._ground.journal.read("shop").record
        attack.succeeded(record and vector["without"]["behind"] in record.detail)
    if not is_final:
        door.honest()
