"""What a source says that it has not: passed on with its timestamp, for the next want alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Unavailable
from embrasure.trust.foretold import Foretold
from node.asking import IpcSource
from node.ipc import Channel
from node.messages import FromFetch
from tests.unit.node.test_wants import TIMESTAMP, Held, run, whole

ROOT, OTHER = "metadata/2.root.json", "metadata/3.snapshot.json"


class Telling(Held):
    """A source that says beside its timestamp that it has no further root step."""

    def __init__(self) -> None:
        super().__init__({TIMESTAMP: [b"{}"], OTHER: [b"{}"]})
        self.word = ""

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        yield from super().fetch(path, offset=offset, limit=limit)
        self.word = ROOT if path == TIMESTAMP else ""

    def foretold(self) -> str:
        word, self.word = self.word, ""
        return word

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]


def absent(source: IpcSource) -> None:
    with pytest.raises(NotFound):
        whole(source, ROOT)


def test_what_was_foretold_is_not_wanted() -> None:
    telling = Telling()

    def work(source: IpcSource, _: Channel[FromFetch]) -> None:
        assert whole(source, TIMESTAMP) == b"{}"
        absent(source)
        assert whole(source, OTHER) == b"{}"

    run(telling, work)
    assert telling.paths == [TIMESTAMP, OTHER]


@pytest.mark.parametrize("between", [ROOT, OTHER])
def test_it_answers_the_next_want_alone(between: str) -> None:
    telling = Telling()

    def work(source: IpcSource, _: Channel[FromFetch]) -> None:
        whole(source, TIMESTAMP)
        if between == ROOT:
            absent(source)
        else:
            whole(source, OTHER)
        absent(source)

    run(telling, work)
    assert telling.paths[-1] == ROOT


def test_a_source_that_foretells_nothing_is_asked() -> None:
    held = Held({TIMESTAMP: [b"{}"]})

    def work(source: IpcSource, _: Channel[FromFetch]) -> None:
        whole(source, TIMESTAMP)
        absent(source)

    run(held, work)
    assert [path for path, _, _ in held.asked] == [TIMESTAMP, ROOT]


def test_nothing_is_answered_in_a_conversation_that_was_broken_off() -> None:
    def work(source: IpcSource, _: Channel[FromFetch]) -> None:
        whole(source, TIMESTAMP)
        source.give_way()
        with pytest.raises(Unavailable):
            whole(source, ROOT)

    with pytest.raises(EmbrasureError):
        run(Telling(), work)


def test_a_word_is_for_once_and_for_a_while() -> None:
    now = 0.0
    foretold = Foretold(lambda: now)
    assert foretold.take() == ""
    foretold.keep(ROOT)
    assert [foretold.take(), foretold.take()] == [ROOT, ""]
    foretold.keep(ROOT)
    now = float(limits.FORETOLD_SECONDS)
    assert foretold.take() == ROOT
    foretold.keep(ROOT)
    now += limits.FORETOLD_SECONDS + 0.001
    assert foretold.take() == ""
    foretold.keep(ROOT)
    foretold.keep("")
    assert foretold.take() == ""
