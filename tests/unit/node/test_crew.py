"""The threads of apply: kept for the next conversation, few, and never one for two at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from embrasure import limits
from node.crew import Crew


@pytest.fixture
def crew() -> Iterator[Crew]:
    with closing(Crew()) as found:
        yield found


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_one_thread_does_one_piece_after_another(crew: Crew) -> None:
    seen = list[int]()
    for _ in range(5):
        crew.do(lambda: seen.append(threading.get_ident()))
        until(lambda: crew._idle == 1)
    assert len(seen) == 5
    assert len(set(seen)) == 1


def test_none_waits_for_another_and_few_are_kept(crew: Crew) -> None:
    many, go = 2 * limits.IDLE_THREADS + 1, threading.Event()
    seen = set[int]()

    def work() -> None:
        seen.add(threading.get_ident())
        go.wait(5)

    for _ in range(many):
        crew.do(work)
    until(lambda: len(seen) == many)  # each has begun, and none has ended
    before = threading.active_count()
    go.set()
    until(lambda: threading.active_count() == before - many + limits.IDLE_THREADS)
    assert crew._idle == limits.IDLE_THREADS


def test_at_the_end_no_thread_is_kept_and_work_under_way_is_done() -> None:
    crew, begun, go, done = Crew(), threading.Event(), threading.Event(), threading.Event()
    crew.do(lambda: None)
    until(lambda: crew._idle == 1)
    idle = threading.active_count()

    def work() -> None:
        begun.set()
        go.wait(5)
        done.set()

    crew.do(work)
    assert begun.wait(5)
    crew.close()
    go.set()
    assert done.wait(5)
    until(lambda: threading.active_count() == idle - 1)


def test_an_idle_thread_holds_nothing_of_what_it_did(crew: Crew) -> None:
    class Held:
        def __init__(self, gone: threading.Event) -> None:
            self.gone = gone

        def __call__(self) -> None:
            """Work."""

        def __del__(self) -> None:
            self.gone.set()

    gone = threading.Event()
    crew.do(Held(gone))
    assert gone.wait(5)


def test_a_host_without_room_for_a_thread_says_so(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError):
            crew.do(lambda: None)
    done = threading.Event()
    crew.do(done.set)
    assert done.wait(5)
