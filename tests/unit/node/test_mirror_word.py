"""`confirm = "mirror"`: a pull node's release stays only if the node can still look at a mirror."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from embrasure.bundle.manifest import Manifest
from embrasure.errors import EmbrasureError
from embrasure.trust.source import Source
from node.confirm_messages import AwaitsNote
from node.deadline import uptime_ms
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller, Told
from tests.simulate.sources import DeadSource, MemorySource


def by_mirror(manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, confirm="mirror")


@pytest.fixture
def pull(tmp_path: Path) -> Iterator[SimInstaller]:
    """A pull node that runs release 1.0."""
    found = SimInstaller(tmp_path)
    found.publish("1.0")
    assert found.poll() == "committed"
    yield found
    found.close()


class Looks(Told):
    """A report whose node looks at a mirror through a source; `said` is why it does not count."""

    def __init__(
        self, bench: SimInstaller, source: Source, opened: Callable[[], int] = uptime_ms
    ) -> None:
        super().__init__()
        self._bench, self._source, self._opened = bench, source, opened
        self.said = ""

    def awaits(self, note: AwaitsNote) -> None:
        assert note.by == "mirror"
        thread = threading.Thread(target=self._look)
        thread.start()

    def _look(self) -> None:
        try:
            self._bench.acceptor.look_again(self._source, opened_ms=self._opened())
        except EmbrasureError as problem:
            self.said = problem.reason


def install(bench: SimInstaller, version: str, report: Told) -> str:
    """Return how the install of a release ended that wants to be confirmed by a mirror."""
    bench.publish(release=bench.make(version, change=by_mirror))
    (answer,) = bench.acceptor.poll(bench.source(), report)
    return f"{answer.kind} {answer.reason}".strip()


def test_a_release_that_can_still_look_at_its_mirror_stays(pull: SimInstaller) -> None:
    assert install(pull, "2.0", Looks(pull, pull.source())) == "committed"
    assert pull.ask() == "2.0"


def test_a_release_without_the_wish_needs_no_mirror(pull: SimInstaller) -> None:
    pull.publish("2.0")
    assert pull.poll() == "committed"


def forged(bench: SimInstaller) -> Source:
    """Return a mirror whose timestamp is of nobody."""
    files = dict(bench.repo.files)
    raw = files["metadata/timestamp.json"]
    at = raw.index(b'"sig":"') + 7
    files["metadata/timestamp.json"] = raw[:at] + (b"1" if raw[at:at + 1] == b"0" else b"0") + (
        raw[at + 1:])  # fmt: skip
    return MemorySource(files)


@pytest.mark.misuse
def test_a_look_that_shows_nothing_verified_and_new_does_not_count(
    pull: SimInstaller, ablation: Ablation
) -> None:
    before = uptime_ms()
    pull.publish(release=pull.make("2.0", change=by_mirror))
    dead, liar = Looks(pull, DeadSource()), Looks(pull, forged(pull))
    old = Looks(pull, pull.source(), lambda: before)

    class All(Told):
        def awaits(self, note: AwaitsNote) -> None:
            for one in (dead, liar, old):
                one._look()

    pull.give_time(2)
    (answer,) = pull.acceptor.poll(pull.source(), All())
    assert (answer.kind, answer.reason, pull.ask()) == ("interrupted", "no-confirm", "1.0")
    assert dead.said and liar.said in ("threshold", "bad-metadata")
    assert old.said == "old-connection"
    with ablation("the check of what the mirror shows") as attack:
        attack.without("node.judge.Judge.refresh_top")
        pull.give_time(60)
        attack.succeeded(install(pull, "3.0", Looks(pull, forged(pull))) == "committed")
