"""A release of many small files comes in one piece, by push, from a mirror and from a stick.

Whatever is wrong with a pack, the release is installed all the same, with the bytes that were
signed: a pack makes it faster, and nothing is believed because it was in one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from bench.mirror import served
from bench.site import PushSite, release_of
from embrasure import limits
from embrasure.bundle.manifest import Manifest
from embrasure.bundle.pack import members
from embrasure.bundle.packing import PackedSource
from embrasure.errors import NotFound, Unavailable
from embrasure.net.https import MirrorSource
from embrasure.trust.folder import FolderSource
from embrasure.trust.layout import parse_pack
from embrasure.trust.source import Source
from embrasure.wire import node_pb2 as wire
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.installer import SimInstaller
from tests.simulate.listener import trust_from
from tests.simulate.push import pieces
from tests.simulate.releases import SimRelease
from tests.simulate.sources import MemorySource
from tests.simulate.sweep_install import sign_of_life

FILES = 60
FOLDERS = "config", "code"  # what lies in `code` may be run
Spoil = Callable[[bytes], bytes]


def contents(seed: str) -> dict[str, bytes]:
    """Return the files of a release: many small ones, an empty one, a large one."""
    return {
        **{
            f"{FOLDERS[n % 2]}/lib{n % 4}/{n}": f"{seed} {n} ".encode() * (n * 37)
            for n in range(FILES)
        },
        "code/large": os.urandom(limits.PACKED_BYTES + 1),
    }


class Asked:
    """A source that remembers what was asked; `spoil` is done to what comes of a pack."""

    def __init__(self, behind: Source, spoil: Spoil = bytes) -> None:
        self.behind, self.spoil = behind, spoil
        self.packs: list[tuple[int, int]] = []
        self.blobs: list[tuple[str, int]] = []
        self.ends: Exception | None = None  # of each pack
        self.gone: Exception | None = None  # in place of each blob

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield what the source behind gives, or worse."""
        if path.startswith("blobs/"):
            self.blobs.append((path, offset))
            if self.gone is not None:
                raise self.gone
        if parse_pack(path) is None:
            yield from self.behind.fetch(path, offset=offset, limit=limit)
            return
        self.packs.append((offset, limit))
        data = b"".join(self.behind.fetch(path, offset=offset, limit=limit))
        spoiled = self.spoil(data)
        yield from (spoiled[n : n + 1000] for n in range(0, len(spoiled), 1000))
        if self.ends is not None:
            raise self.ends


@pytest.fixture(params=["copied", "second names"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SimInstaller]:
    """A node in this process; its files are copies of blobs, or are blobs (which needs root)."""
    owned = request.param == "second names"
    if owned and os.geteuid() != 0:
        pytest.skip("needs root")
    tmp_path.chmod(0o755)
    with closing(SimInstaller(tmp_path / "node", inner=owned, owned=owned)) as found:
        yield found


def made(bench: SimInstaller, version: str, files: Mapping[str, bytes]) -> SimRelease:
    """Return a release of these files whose app runs on this node."""
    return bench.make(version, files=files, probes=[sign_of_life()] if bench.inner else None)


def memory(bench: SimInstaller) -> Source:
    return PackedSource(MemorySource(bench.repo.files))


def manifest_of(bench: SimInstaller) -> Manifest:
    assert bench.release is not None
    return bench.release.manifest


def check_installed(bench: SimInstaller, files: dict[str, bytes]) -> None:
    """The release that runs has exactly these bytes."""
    for path, data in files.items():
        assert (bench.paths.current("shop") / path).read_bytes() == data


@pytest.mark.parametrize("by", ["stick", "mirror"])
def test_small_files_come_in_one_piece_and_what_is_here_does_not(
    bench: SimInstaller, tmp_path: Path, by: str
) -> None:
    files = contents("one")
    bench.publish(release=made(bench, "1.0", files))
    authority = Authority()
    with served(tmp_path / "m1", authority, bench.repo) as mirror:

        def source() -> Source:
            if by == "stick":
                return PackedSource(FolderSource(bench.repo.write(tmp_path / "stick")))
            mirror.upload()
            return MirrorSource(mirror.address, name="m1", trust=trust_from(authority))

        asked = Asked(source())
        assert bench.poll(asked) == "committed"
        check_installed(bench, files)
        packed = members(manifest_of(bench).blobs())
        assert asked.packs == [(0, sum(packed.values()))]
        assert len(asked.blobs) == 1, "the large file alone"
        # Of the next release a third is new, side by side: those bytes and no others.
        news = {
            path: b"new" + data for path, data in files.items() if path.startswith("config/lib2")
        }
        news |= {path: b"new" + data for path, data in files.items() if path.endswith("lib1/1")}
        again = {**files, **news}
        bench.publish(release=made(bench, "2.0", again))
        asked = Asked(source())
        assert bench.poll(asked) == "committed"
        check_installed(bench, again)
        came = sum(limit for _, limit in asked.packs) + 3 + len(news["code/lib1/1"])
        assert len(asked.packs) <= 1 and came <= sum(map(len, news.values())) + 64


def flip(data: bytes) -> bytes:
    """One bit in the middle is another."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def swap(data: bytes) -> bytes:
    """The two halves have changed places."""
    return data[len(data) // 2 :] + data[: len(data) // 2]


SPOILS: dict[str, Spoil] = {
    "a wrong bit": flip,
    "blobs in another order": swap,
    "a byte less": lambda data: data[:-1],
    "a byte more": lambda data: data + b"x",
    "nothing": lambda _: b"",
    "half of it": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("how", SPOILS)
def test_a_bad_pack_never_fails_an_install(bench: SimInstaller, how: str) -> None:
    files = contents("one")
    bench.publish(release=made(bench, "1.0", files))
    asked = Asked(memory(bench), SPOILS[how])
    assert bench.poll(asked) == "committed"
    check_installed(bench, files)
    assert len(asked.packs) == 1, "it is not asked for again"


@pytest.mark.parametrize("problem", ["none", "gone"])
def test_a_source_without_packs_gives_blobs(bench: SimInstaller, problem: str) -> None:
    files = contents("one")
    bench.publish(release=made(bench, "1.0", files))
    source = MemorySource(bench.repo.files)  # knows no pack, and refuses the path
    asked = Asked(source)
    if problem == "gone":
        asked = Asked(memory(bench), lambda _: b"")
        asked.ends = NotFound("pack", expected="one", got="none")
    assert bench.poll(asked) == "committed"
    check_installed(bench, files)
    assert len(asked.blobs) == len(manifest_of(bench).blobs()) - 1, "an empty one has no bytes"


def test_a_broken_pack_goes_on_at_its_byte(bench: SimInstaller) -> None:
    files = contents("one")
    bench.publish(release=made(bench, "1.0", files))
    asked = Asked(memory(bench), lambda data: data[: len(data) // 2 + 7])
    asked.ends = asked.gone = Unavailable("line", expected="an open one", got="its end")
    assert bench.poll(asked) != "committed"
    packed = members(manifest_of(bench).blobs())
    whole = sum(packed.values())
    second = Asked(memory(bench))
    assert bench.poll(second) == "committed"
    check_installed(bench, files)
    large = len(files["code/large"])
    came = sum(limit for _, limit in second.packs)
    sizes = manifest_of(bench).blobs()
    came += sum(sizes[path.rpartition("/")[2]] - offset for path, offset in second.blobs)
    assert came == whole - (whole // 2 + 7) + large


@pytest.mark.misuse
def test_without_the_hash_of_each_blob_a_bad_pack_would_stop_an_install(
    bench: SimInstaller, ablation: Ablation
) -> None:
    files = contents("one")
    bench.publish(release=made(bench, "1.0", files))
    spoil: Spoil = lambda data: data.replace(b"one", b"two")  # noqa: E731  # a word for one test
    assert bench.poll(Asked(memory(bench), spoil)) == "committed"
    check_installed(bench, files)
    with ablation("the hash of each blob of a pack") as attack:
        attack.without("embrasure.bundle.store.check_bytes")
        more = {f"{path}x": data for path, data in contents("one and").items()}
        bench.publish(release=made(bench, "2.0", more))
        # A copy is read back, so nothing evil runs, but whoever spoils a pack stops us; a second
        # name is of bytes that were hashed as they came, and of nothing else.
        stops = bench.poll(Asked(memory(bench), spoil)) != "committed"
        attack.succeeded(
            stops or (bench.paths.current("shop") / "config/lib0/12x").read_bytes()[:3] == b"two"
        )
        print("stops" if stops else "evil runs")


def test_over_a_real_stream_one_want_brings_them_all(tmp_path: Path) -> None:
    """A node as it runs, in its own processes; then a gateway that spoils what it sends."""
    site = PushSite(tmp_path)

    def spoiled(want: wire.Want) -> Iterator[wire.FromGateway]:
        for answer in pieces(site.fleet.repository.files, want):
            if parse_pack(want.path) is not None and answer.WhichOneof("kind") == "data":
                answer.data.body = swap(answer.data.body)
            yield answer

    with site.run():
        said = site.deploy(release_of("1.0", files=FILES, size=20_000))
        wants = [want.path.partition("/")[0] for want in said.wants]
        assert (wants.count("packs"), wants.count("blobs")) == (1, 0)
        said = site.deploy(release_of("2.0", files=FILES, size=20_000), serve=spoiled)
        wants = [want.path.partition("/")[0] for want in said.wants]
        assert wants.count("packs") == 1 and wants.count("blobs") > FILES // 2
