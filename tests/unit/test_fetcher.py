"""Bytes from a source, bounded in length and time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pytest
from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError

from embrasure import limits
from embrasure.errors import Damaged, NotFound, Refused, Unavailable
from embrasure.trust.fetcher import SourceFetcher, fetch_whole, metadata_limit
from embrasure.trust.pace import paced, timed
from embrasure.trust.workflow.updater import check_library
from tests.ablation import Ablation
from tests.simulate.sources import EndlessSource, MemorySource

KIB = 1024


@dataclass
class Stopwatch:
    """Seconds that only move while a source is asked."""

    at: float = 0.0

    def __call__(self) -> float:
        return self.at

    def serve(self, *pieces: tuple[float, int]) -> Iterator[bytes]:
        """Each piece comes after some seconds and has some bytes."""
        for seconds, size in pieces:
            self.at += seconds
            yield bytes(size)


@dataclass
class Idle:
    """A caller that takes its time between two pieces."""

    watch: Stopwatch
    taken: list[int] = field(default_factory=list)

    def take(self, pieces: Iterable[bytes], *, seconds: float = 0) -> int:
        for piece in pieces:
            self.taken.append(len(piece))
            self.watch.at += seconds
        return sum(self.taken)


@pytest.mark.misuse
def test_a_blob_below_the_lowest_speed_is_given_up(ablation: Ablation) -> None:
    watch = Stopwatch()
    slow = [(29.0, 1)] * 10  # the gap alone would never be too long
    with pytest.raises(Unavailable) as found:
        Idle(watch).take(paced(watch.serve(*slow), what="blob", ticks=watch))
    assert found.value.reason == "slow"
    with ablation("the lowest speed") as attack:
        attack.succeeded(Idle(watch).take(watch.serve(*slow)) == 10)


def test_a_blob_at_the_lowest_speed_passes() -> None:
    watch = Stopwatch()
    least = limits.BLOB_BYTES_PER_SECOND
    steady = [(1.0, least)] * 120
    assert Idle(watch).take(paced(watch.serve(*steady), what="b", ticks=watch)) == 120 * least
    under = [(1.0, least - 1)] * 120
    with pytest.raises(Unavailable):
        Idle(watch).take(paced(watch.serve(*under), what="b", ticks=watch))


def test_a_slow_start_is_forgiven_and_a_slow_end_is_not() -> None:
    watch = Stopwatch()
    start = [(9.0, 1), *[(1.0, 64 * KIB)] * 60]
    Idle(watch).take(paced(watch.serve(*start), what="b", ticks=watch))
    end = [*[(0.01, limits.MIB)] * 50, *[(5.0, 10)] * 20]
    with pytest.raises(Unavailable):
        Idle(watch).take(paced(watch.serve(*end), what="b", ticks=watch))


def test_a_slow_disk_is_not_blamed_on_the_source() -> None:
    watch = Stopwatch()
    quick = [(0.1, 64 * KIB)] * 100
    taken = Idle(watch).take(paced(watch.serve(*quick), what="b", ticks=watch), seconds=60)
    assert taken == 100 * 64 * KIB
    metadata = watch.serve(*[(0.1, 10)] * 100)
    Idle(watch).take(timed(metadata, seconds=30, what="m", ticks=watch), seconds=60)


def test_a_metadata_file_has_thirty_seconds_in_all() -> None:
    watch = Stopwatch()
    pieces = watch.serve(*[(29.0, 1)] * 3)
    with pytest.raises(Unavailable) as found:
        Idle(watch).take(timed(pieces, seconds=limits.METADATA_SECONDS, what="m", ticks=watch))
    assert found.value.reason == "slow"
    late_end = watch.serve((1.0, 1), (60.0, 0))  # the end itself comes too late
    with pytest.raises(Unavailable):
        Idle(watch).take(timed(late_end, seconds=30, what="m", ticks=watch))


def test_the_limit_holds_whatever_the_source_thinks_of_it() -> None:
    path = "metadata/timestamp.json"
    source = MemorySource({path: b"x" * 100})
    assert fetch_whole(source, path, limit=100) == b"x" * 100
    endless = EndlessSource(source, path)
    with pytest.raises(Refused) as refused:
        fetch_whole(endless, path, limit=10_000)
    assert refused.value.reason == "limit"
    assert endless.sent < 20_000
    with pytest.raises(NotFound):
        fetch_whole(source, "metadata/1.root.json", limit=100)


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("metadata/timestamp.json", limits.TIMESTAMP_BYTES),
        ("metadata/12.root.json", limits.ROOT_BYTES),
        ("metadata/3.snapshot.json", limits.SNAPSHOT_BYTES),
        ("metadata/3.targets.json", limits.TARGETS_BYTES),
        ("metadata/3.prod-shop.json", limits.DELEGATED_BYTES),
        ("metadata/3.fleet-root.json", limits.DELEGATED_BYTES),
    ],
)
def test_each_role_has_its_own_limit(path: str, limit: int) -> None:
    assert metadata_limit(path) == limit


def test_python_tuf_is_told_what_it_understands() -> None:
    path = "metadata/timestamp.json"
    fetcher = SourceFetcher(MemorySource({path: b"x" * 10}))
    with pytest.raises(DownloadHTTPError) as missing:
        fetcher.download_bytes("metadata/2.root.json", 100)
    assert missing.value.status_code == 404
    with pytest.raises(DownloadLengthMismatchError):
        fetcher.download_bytes(path, 9)
    assert b"".join(fetcher.fetch(path)) == b"x" * 10
    assert fetcher.last == path
    with pytest.raises(Refused):
        fetcher.download_bytes("../x", 100)


def test_what_was_peeked_is_not_fetched_again_and_only_once_kept() -> None:
    path = "metadata/timestamp.json"
    source = MemorySource({path: b"1"})
    fetcher = SourceFetcher(source)
    assert (fetcher.peek(path), fetcher.peek("metadata/9.root.json")) == (b"1", None)
    source.files[path] = b"2"
    assert fetcher.download_bytes(path, 10) == b"1"
    assert fetcher.download_bytes(path, 10) == b"2"
    assert source.asked.count(path) == 2


@pytest.mark.parametrize("version", ["6.0.0", "7.0.0", "8.0.0", "9.1"])
def test_another_python_tuf_is_refused(version: str) -> None:
    with pytest.raises(Damaged):
        check_library(version)
    check_library("7.0.1")
    check_library("7.3.0")
