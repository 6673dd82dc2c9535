"""A look that finds what it found before checks no signature again: what it must still notice."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from embrasure import limits
from embrasure.errors import EmbrasureError, Refused, Unavailable
from embrasure.fs import read_file
from embrasure.trust.cache import DocumentCache
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.client import TrustClient
from embrasure.trust.view import View
from tests.ablation import Ablation
from tests.simulate.faults import Faults
from tests.simulate.repository import SimRepository
from tests.simulate.sources import MemorySource

ROLES = ("fleet-dev", "revocations", "gates-dev", "dev-shop")


class Bench:
    """One client that lives on, as that of a node, and has just looked."""

    def __init__(self, folder: Path) -> None:
        self.at = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
        self.repo = SimRepository(clock=lambda: self.at)
        self.node = self.repo.add_node()
        self.repo.add_app("shop")
        plan = self.repo.set_plan(self.repo.add_release("shop"), canary=[self.node])
        self.repo.set_gate(plan)
        self.repo.publish()
        self.folder = folder / "tuf"
        self.client = self.other()
        self.view = self.look(self.repo.source())

    def other(self) -> TrustClient:
        """Return another process of this machine."""
        return TrustClient(self.folder, self.repo.anchor, clock=lambda: self.at)

    def look(self, source: MemorySource) -> View:
        return self.client.refresh(source, roles=ROLES)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def refused(bench: Bench, source: MemorySource) -> str:
    with pytest.raises(Refused) as found:
        bench.look(source)
    return found.value.reason


def test_the_same_bytes_are_the_same_view_for_two_requests(bench: Bench) -> None:
    source = bench.repo.source()
    assert bench.look(source) is bench.view
    assert source.asked == ["metadata/timestamp.json", "metadata/2.root.json"]


def test_beside_a_new_root_the_timestamp_is_asked_for_again(bench: Bench) -> None:
    """It came before the root, and may be signed by a key that this one takes away."""
    old = bench.repo.files["metadata/timestamp.json"]
    bench.repo.replace_keys("timestamp", [CryptoSigner.generate_ed25519()])
    bench.repo.publish()

    class Between(MemorySource):
        """The new timestamp is published just after the old one was fetched."""

        def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
            first = path == "metadata/timestamp.json" and path not in self.asked
            now = self.files
            self.files = {**now, path: old} if first else now
            yield from super().fetch(path, offset=offset, limit=limit)
            self.files = now

    source = Between(bench.repo.files)
    assert bench.look(source).roles["root"].version == 2
    assert source.asked[:4] == [
        "metadata/timestamp.json", "metadata/2.root.json", "metadata/3.root.json",
        "metadata/timestamp.json",
    ]  # fmt: skip


class Spoilt(MemorySource):
    """A source whose timestamp is too long, or never comes; or nothing any more behind that."""

    def __init__(self, files: MutableMapping[str, bytes], how: str) -> None:
        super().__init__(files)
        self._how = how

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        is_lost = self._how == "source" and "metadata/timestamp.json" in self.asked
        if path == "metadata/timestamp.json":
            self.asked.append(path)
        elif not is_lost:
            yield from super().fetch(path, offset=offset, limit=limit)
            return
        if self._how == "limit":
            yield bytes(limit + 1)
        else:
            raise Unavailable(path, expected="all its bytes", got="none", reason=self._how)


@pytest.mark.misuse
@pytest.mark.parametrize("how", ["limit", "slow", "source"])
def test_a_timestamp_that_cannot_be_had_hides_no_root(
    bench: Bench, ablation: Ablation, how: str
) -> None:
    """Its key was stolen, say, and the root that takes it away is there."""
    bench.repo.replace_keys("timestamp", [CryptoSigner.generate_ed25519()])
    bench.repo.publish()

    def roots() -> int:
        """Return the newest root on the disk after two looks."""
        for _ in range(2):
            with pytest.raises(EmbrasureError) as found:
                bench.look(Spoilt(bench.repo.files, how))
            assert found.value.reason == how
        return bench.other().workflow.floors().versions["root"]

    quick = TrustClient._unchanged

    def again(self: TrustClient, *about: Any, **more: Any) -> View | None:
        """Ask for the timestamp first, however the last look ended."""
        last = self._last
        try:
            return quick(self, *about, **more)
        finally:
            self._last = last

    # Without its guard first: afterwards the new root is on the disk.
    with ablation("the root first, behind a timestamp that could not be had") as attack:
        attack.without("embrasure.trust.client.TrustClient._unchanged", again)
        attack.without("embrasure.trust.client.has_newer_root", lambda *_: False)
        attack.succeeded(roots() == 1)
    assert roots() == 2


@pytest.mark.misuse
def test_a_view_that_is_remembered_does_not_outlive_its_roles(
    bench: Bench, ablation: Ablation
) -> None:
    source = bench.repo.source()
    bench.at = min(role.expires for role in bench.view.roles.values()) - timedelta(seconds=1)
    assert bench.look(source) is bench.view
    bench.at += timedelta(seconds=1)
    assert refused(bench, source) == "expired"
    with ablation("expiry, at every look") as attack:
        attack.without("embrasure.trust.client.is_expired", lambda *_: False)
        attack.succeeded(bench.look(source) is bench.view)


@pytest.mark.misuse
def test_a_view_that_is_remembered_does_not_outlive_a_key_that_a_new_root_takes_away(
    bench: Bench, ablation: Ablation
) -> None:
    old = bench.repo.files["metadata/timestamp.json"]
    bench.repo.replace_keys("timestamp", [CryptoSigner.generate_ed25519()])
    bench.repo.publish()
    # The thief of the old key shows what he signed, beside a root that he cannot hide.
    source = MemorySource({**bench.repo.files, "metadata/timestamp.json": old})
    assert "metadata/2.root.json" in source.files
    # Without its guard first: afterwards the new root is on the disk.
    with ablation("the look for a newer root") as attack:
        attack.without("embrasure.trust.client.has_newer_root", lambda *_: False)
        attack.succeeded(bench.look(source) is bench.view)
    assert refused(bench, source) == "threshold"


@pytest.mark.misuse
def test_a_view_that_is_remembered_does_not_outlive_floors_that_rose(
    bench: Bench, ablation: Ablation
) -> None:
    source = bench.repo.source()
    version = bench.view.roles["targets"].version
    # Trust files that came by the door, in another process: newer targets, without some key.
    bench.other().raise_floors(versions={"targets": version + 1})
    assert refused(bench, source) == "rollback"
    with ablation("floors, at every look") as attack:
        attack.without("embrasure.trust.client.check_versions")
        attack.succeeded(bench.look(source) is bench.view)


def test_a_document_in_use_is_said_to_be_young_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DocumentCache(tmp_path / "documents")
    cache.put(b"policy")
    name = next((tmp_path / "documents").iterdir()).name
    moments = [1000.0, 1030.0, 1059.0, 1061.0]
    monkeypatch.setattr("embrasure.trust.cache.time.monotonic", lambda: moments.pop(0))
    with Faults() as seen:
        seen.arm()
        while moments:
            assert cache.get(name, length=6) == b"policy"
    assert [call for call, _ in seen.trace] == ["touch", "touch"]


def test_what_is_known_to_be_young_is_bounded(tmp_path: Path) -> None:
    cache = DocumentCache(tmp_path / "documents", count=2)
    for number in range(10):
        raw = f"document {number}".encode()
        cache.put(raw)
        assert cache.get(sha256_hex(raw), length=len(raw)) == raw
        assert len(cache._marked) <= 4


def held_in(cache: DocumentCache, raw: bytes) -> Path:
    """Return the file of a document that the cache has in memory."""
    cache.put(raw)
    assert cache.get(sha256_hex(raw), length=len(raw)) == raw
    # Behind the mark, which makes it look like another file.
    assert cache.get(sha256_hex(raw), length=len(raw)) is cache._read[sha256_hex(raw)][1]
    return cache.folder / sha256_hex(raw)


def test_a_document_in_memory_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DocumentCache(tmp_path / "documents")
    path = held_in(cache, b"policy")
    monkeypatch.setattr("embrasure.trust.cache.read_file", None)
    assert cache.get(path.name, length=6) == b"policy"


@pytest.mark.parametrize("kind", ["gone", "rotted", "replaced", "a link", "a folder"])
def test_a_document_in_memory_is_healed_on_disk(tmp_path: Path, kind: str) -> None:
    cache = DocumentCache(tmp_path / "documents")
    path = held_in(cache, b"policy")
    if kind == "rotted":
        path.write_bytes(b"polici")
    else:
        path.unlink()
    if kind == "replaced":
        path.write_bytes(b"polici")
    if kind == "a link":
        path.symlink_to("/etc/hostname")
    if kind == "a folder":
        path.mkdir()
    assert cache.get(path.name, length=6) is None, "it is fetched again"
    assert not path.exists()
    cache.put(b"policy")
    assert cache.get(path.name, length=6) == b"policy"


def test_a_document_in_memory_is_read_again_after_each_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rot that changes no time of the file is seen within a minute."""
    cache, now, seen = DocumentCache(tmp_path / "documents"), [0.0], list[float]()
    cache.put(b"policy")
    monkeypatch.setattr("embrasure.trust.cache.time.monotonic", lambda: now[0])

    def reading(path: Path, *, limit: int) -> bytes:
        seen.append(now[0])
        return read_file(path, limit=limit)

    monkeypatch.setattr("embrasure.trust.cache.read_file", reading)
    for now[0] in (1000.0, 1001.0, 1002.0, 1061.0, 1062.0, 1063.0):
        assert cache.get(sha256_hex(b"policy"), length=6) == b"policy"
    assert seen == [1000.0, 1001.0, 1062.0]


def test_no_longer_document_is_given_than_was_asked_for(tmp_path: Path) -> None:
    cache = DocumentCache(tmp_path / "documents")
    assert cache.get(held_in(cache, b"policy").name, length=5) is None


def test_what_is_in_memory_is_bounded(tmp_path: Path) -> None:
    cache = DocumentCache(tmp_path / "documents", memory_bytes=100)
    for number in range(10):
        held_in(cache, bytes([number]) * 40)
        assert sum(len(raw) for _, raw in cache._read.values()) <= 100
    large = bytes(limits.PARSED_BYTES + 1)
    cache = DocumentCache(tmp_path / "documents")
    cache.put(large)
    assert cache.get(sha256_hex(large), length=len(large)) == large
    assert not cache._read


def test_threads_may_share_what_is_in_memory(tmp_path: Path) -> None:
    cache = DocumentCache(tmp_path / "documents", memory_bytes=2_000)
    every = [f"document {number}".encode() * 4 for number in range(100)]
    for raw in every:
        cache.put(raw)

    def look(start: int) -> bool:
        mine = (every[start:] + every[:start]) * 5
        return all(cache.get(sha256_hex(raw), length=len(raw)) == raw for raw in mine)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(look, range(0, 80, 10)))
    finally:
        sys.setswitchinterval(interval)
