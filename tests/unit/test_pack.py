"""Packs: both sides compute the same order from the manifest alone, and cut it the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.bundle.pack import Cutter, members, runs
from embrasure.bundle.packing import PackedSource, joined
from embrasure.bundle.store import BlobStore
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.trust import layout
from embrasure.trust.folder import FolderSource
from tests.ablation import Ablation
from tests.simulate.releases import SimRelease, make_release
from tests.simulate.sources import MemorySource

LEAST = limits.PACK_LEAST_BLOBS
RELEASE = make_release(
    "shop",
    {
        "code/main": b"#!", "config/big": bytes(limits.PACKED_BYTES + 1), "config/empty": b"",
        "config/largest": bytes(limits.PACKED_BYTES), "config/same": b"#!",
        **{f"config/{n}": f"{n}".encode() * n * 30 for n in range(60)},
    },
)  # fmt: skip
PACK = layout.pack_file("dev", "shop", RELEASE.digest)


def files_of(release: SimRelease) -> dict[str, bytes]:
    manifest = layout.manifest_path("dev", "shop", release.digest)
    return {
        layout.target_file(manifest, release.digest): release.raw,
        **{layout.blob_file(digest): data for digest, data in release.blobs.items()},
    }


def whole(release: SimRelease = RELEASE) -> bytes:
    return b"".join(release.blobs[digest] for digest in members(release.manifest.blobs()))


def test_a_pack_is_every_small_blob_once_in_the_manifests_order() -> None:
    packed = members(RELEASE.manifest.blobs())
    order = [entry.sha256 for entry in RELEASE.manifest.files]
    assert list(packed) == [d for d in dict.fromkeys(order) if len(RELEASE.blobs[d]) <= 262_144]
    assert len(packed) == len(RELEASE.blobs) - 1
    source = PackedSource(MemorySource(files_of(RELEASE)))
    assert b"".join(source.fetch(PACK, offset=0, limit=2**40)) == whole()
    pack = layout.parse_pack(PACK)
    assert pack is not None and source.size(pack) == len(whole())


@given(st.data())
def test_any_range_of_a_pack_is_that_range_of_its_blobs(data: st.DataObject) -> None:
    source, expected = PackedSource(MemorySource(files_of(RELEASE))), whole()
    offset = data.draw(st.integers(0, len(expected)))
    limit = data.draw(st.integers(0, len(expected) + 10))
    pieces = list(source.fetch(PACK, offset=offset, limit=limit))
    assert b"".join(pieces) == expected[offset : offset + limit]
    assert all(len(piece) == limits.BUFFER_BYTES for piece in pieces[:-1])


SIZES = st.lists(st.integers(0, 50), max_size=60)


@given(SIZES, st.data())
def test_however_the_bytes_come_the_cutter_gives_the_blobs(
    sizes: list[int], data: st.DataObject
) -> None:
    blobs = [(f"{n:064x}", size) for n, size in enumerate(sizes)]
    bodies = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    stream = b"".join(bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    cutter = Cutter(blobs)
    found = [(digest, bytes(body)) for piece in pieces for digest, body in cutter.cut(piece)]
    assert found == [(digest, body) for (digest, _), body in zip(blobs, bodies, strict=True)]
    assert cutter.current is None and not cutter.rest
    with pytest.raises(Refused, match="more"):
        list(cutter.cut(b"x"))


@given(SIZES, st.integers(0, 3_000))
def test_what_came_of_a_broken_pack_is_known_to_the_byte(sizes: list[int], at: int) -> None:
    blobs = [(f"{n:064x}", size) for n, size in enumerate(sizes)]
    stream = b"".join(bytes([n % 251]) * size for n, size in enumerate(sizes))[:at]
    cutter = Cutter(blobs)
    found = [bytes(body) for _, body in cutter.cut(stream)]
    assert b"".join(found) + bytes(cutter.rest) == stream
    if cutter.current is not None:
        assert cutter.current == blobs[len(found)] and len(cutter.rest) < max(1, cutter.current[1])


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=150))
def test_what_is_here_is_never_asked_for_again(items: list[tuple[int, bool]]) -> None:
    packed = {f"{n:064x}": size for n, (size, _) in enumerate(items)}
    wanted = {f"{n:064x}" for n, (_, is_missing) in enumerate(items) if is_missing}
    found = runs(packed, wanted)
    names = list(packed)
    for run in found:
        first = names.index(run.blobs[0][0])
        assert run.blobs == tuple((d, packed[d]) for d in names[first : first + len(run.blobs)])
        assert run.offset == sum(packed[digest] for digest in names[:first])
        assert len(run.blobs) >= LEAST and run.length > 0
        assert {digest for digest, _ in run.blobs} <= wanted
    assert sorted(found, key=lambda run: run.offset) == found
    longest = max((len(piece) for piece in _stretches(names, wanted)), default=0)
    assert bool(found) or longest < LEAST or not any(packed.values())


def _stretches(names: list[str], wanted: set[str]) -> Iterator[list[str]]:
    held: list[str] = []
    for name in names:
        if name in wanted:
            held.append(name)
        else:
            yield held
            held = []
    yield held


def test_only_so_many_ranges_and_the_longest_ones() -> None:
    packed: dict[str, int] = {}
    wanted: set[str] = set()
    for number in range(limits.PACK_RANGES + 5):
        for inner in range(LEAST + (number % 7)):
            name = f"{number:032x}{inner:032x}"
            packed[name] = 3
            wanted.add(name)
        packed[f"f{number:063x}"] = 3
    found = [len(run.blobs) for run in runs(packed, wanted)]
    assert len(found) == limits.PACK_RANGES
    every = sorted(LEAST + number % 7 for number in range(limits.PACK_RANGES + 5))
    assert sorted(found) == every[5:]


@given(st.lists(st.binary(max_size=700_000), max_size=3))
def test_pieces_are_joined_to_whole_buffers(pieces: list[bytes]) -> None:
    cut = [p[n : n + limits.BUFFER_BYTES] for p in pieces for n in range(0, len(p), 262_144)]
    found = list(joined(cut))
    assert b"".join(found) == b"".join(pieces)
    assert all(len(piece) == limits.BUFFER_BYTES for piece in found[:-1])


# --- What is no pack -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "packs/dev/shop", f"packs/dev/shop/{'a' * 63}", f"packs/dev/../{'a' * 64}",
        f"packs/dev/shop/{'A' * 64}", f"packs/root/shop/{'a' * 64}", f"packs/dev/shop/{'a' * 64}/",
        f"packs/dev/shop/{'a' * 64}\n", f"packs/dev/Shop/{'a' * 64}", f"/packs/dev/shop/{'a' * 64}",
    ],
)  # fmt: skip
def test_any_other_path_is_no_pack_and_may_not_be_asked_for(path: str) -> None:
    assert layout.parse_pack(path) is None
    with pytest.raises(Refused):
        layout.parse_wanted(path)


def test_a_pack_is_no_file_so_nobody_can_write_one() -> None:
    layout.parse_wanted(PACK)
    with pytest.raises(Refused, match="repository path"):
        layout.parse_file(PACK)


@pytest.mark.parametrize("offset", [-1, len(whole()) + 1, 2**70])
def test_a_range_outside_is_refused(offset: int) -> None:
    source = PackedSource(MemorySource(files_of(RELEASE)))
    with pytest.raises(Refused):
        list(source.fetch(PACK, offset=offset, limit=10))


def test_what_a_server_lacks_it_says(tmp_path: Path) -> None:
    files = files_of(RELEASE)
    digest = list(members(RELEASE.manifest.blobs()))[-1]
    short, gone = dict(files), dict(files)
    short[layout.blob_file(digest)] = short[layout.blob_file(digest)][:-1]
    del gone[layout.blob_file(digest)]
    for held, error in ((short, Unavailable), (gone, NotFound), ({}, NotFound)):
        source: PackedSource = PackedSource(MemorySource(dict(held)))
        with pytest.raises(error):
            list(source.fetch(PACK, offset=0, limit=2**40))
    with pytest.raises(NotFound):
        list(PackedSource(FolderSource(tmp_path)).fetch(PACK, offset=0, limit=1))


def test_the_order_of_a_few_packs_is_remembered_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PACKS_KNOWN", 2 * len(RELEASE.blobs))
    releases = [make_release("shop", dict(_some(n)), version=f"{n}") for n in range(5)]
    memory = MemorySource({p: data for r in releases for p, data in files_of(r).items()})
    source = PackedSource(memory)
    packs = [layout.parse_pack(layout.pack_file("dev", "shop", r.digest)) for r in releases]
    for pack in packs:
        assert pack is not None and source.known_size(pack) is None
        source.size(pack)
    known = [pack for pack in packs if pack is not None and source.known_size(pack) is not None]
    assert known == packs[-2:]
    asked = len(memory.asked)
    source.size(known[0])
    assert len(memory.asked) == asked


def _some(seed: int) -> Iterator[tuple[str, bytes]]:
    yield "code/main", b"#!"
    for number in range(60):
        yield f"config/{number}", f"{seed} {number}".encode()


# --- What is wrong in one ------------------------------------------------------------------------


@pytest.mark.misuse
def test_bytes_that_are_not_the_blobs_never_get_its_name(
    tmp_path: Path, ablation: Ablation
) -> None:
    good, evil = b"good", b"evil"
    digest = hashlib.sha256(good).hexdigest()
    store = BlobStore(tmp_path)
    with pytest.raises(Refused, match="bytes of its name"):
        store.put(digest, evil)
    assert not store.has(digest, length=4) and not store.begun()
    with ablation("the hash of each blob of a pack") as attack:
        attack.without("embrasure.bundle.store.check_bytes")
        store.put(digest, evil)
        store.sync()
        attack.succeeded(store.path(digest).read_bytes() == evil)
    store.close()


@pytest.mark.misuse
def test_a_manifest_that_nobody_verified_is_not_parsed_for_a_pack(ablation: Ablation) -> None:
    other = make_release("shop", dict(_some(1)))
    manifest = layout.manifest_path("dev", "shop", RELEASE.digest)
    swapped = {**files_of(other), layout.target_file(manifest, RELEASE.digest): other.raw}

    def ask() -> bytes:
        source = PackedSource(MemorySource(dict(swapped)))
        return b"".join(source.fetch(PACK, offset=0, limit=2**40))

    with pytest.raises(EmbrasureError, match="bytes of its name"):
        ask()
    with ablation("the digest of the manifest that was asked for") as attack:
        attack.without("embrasure.bundle.packing.check_manifest")
        attack.succeeded(ask() == whole(other))
