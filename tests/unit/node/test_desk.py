"""The desk in apply: who is served, who waits, and that no question stops it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from embrasure import limits
from embrasure.errors import Damaged, EmbrasureError, Failed, Refused, Unavailable
from embrasure.trust.door import Taken
from embrasure.trust.source import Source
from node import desk, ipc
from node.answering import Deaf, NoSource, converse
from node.confirm_messages import RepairAsk
from node.ground import Report
from node.installer import Answer
from node.messages import (
    FromApply,
    OrderAsk,
    Pipe,
    PollAsk,
    PostNote,
    SeenNote,
    StateNote,
    StatusAsk,
    pack,
)
from tests.ablation import Ablation
from tests.simulate.hooks import NOWHERE
from tests.unit.node.test_wants import signed_receipt

ME = frozenset({os.geteuid()})
FILE = "metadata/timestamp.json"


class Slow:
    """A door that works until it is let go, or fails as it is told to."""

    def repair(self, app: str, source: Source, report: Report) -> Answer:
        return Answer("none", "whole", app)

    def trust(self, source: Source) -> Taken:
        return Taken({"root": 2})

    def __init__(self) -> None:
        self.go = threading.Event()
        self.started = threading.Event()
        self.problem: Exception | None = None
        self.orders: list[bytes] = []

    def order(self, envelope: bytes, source: Source, report: Report) -> Answer:
        self.orders.append(envelope)
        return self.poll(source, report)[0]

    def poll(self, source: Source, report: Report) -> list[Answer]:
        self.started.set()
        self.go.wait(10)
        if self.problem is not None:
            raise self.problem
        told = ((signed_receipt(rseq=1), b"body"),)
        return [Answer("committed", "", "shop", told), Answer("wait", "turn", "blog", floor=3)]


class Hungry(Slow):
    """A door that wants a file of whoever asks."""

    def poll(self, source: Source, report: Report) -> list[Answer]:
        self.started.set()
        return [Answer("none", str(len(list(source.fetch(FILE, offset=0, limit=9)))), "")]


class Still:
    """Records of a node on which nothing happens."""

    def state(self) -> StateNote:
        return StateNote(
            node="n",
            env="dev",
            mode="pull",
            epoch=1,
            oseq=0,
            rseq=0,
            timestamp=0,
            maintenance="",
            isolation=NOWHERE,
            trouble=(),
            network="",
            apps=(),
        )

    def seen(self, approval: str = "") -> SeenNote:
        return SeenNote(timestamp="", snapshot="")

    def posts(self, limit: int) -> list[PostNote]:
        raise Damaged("outbox", expected="a disk", got="none")

    def posted(self, *rseqs: int) -> None:
        raise ValueError("a mistake of ours")

    def network(self, until: int, trouble: str) -> None:
        self.said = until, trouble


class Bench:
    def __init__(self, folder: Path, door: Slow) -> None:
        self.folder, self.door = folder, door
        self.desk = desk.Desk(door, Still(), allowed=ME)

    def connect(self) -> ipc.Channel[FromApply]:
        return ipc.connect(self.folder, ipc.SOCKET, ME)

    def ask(self, question: OrderAsk | PollAsk | StatusAsk) -> list[tuple[str, str, int]]:
        with self.connect() as channel:
            heard = converse(channel, question, NoSource(), Deaf())
        return [(one.app, one.kind, one.floor) for one in heard.answers]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    tmp_path.chmod(0o700)
    found, stop = Bench(tmp_path, Slow()), threading.Event()
    with closing(ipc.Listener(tmp_path, ipc.SOCKET)) as listener:
        thread = threading.Thread(target=found.desk.serve, args=(listener, stop))
        thread.start()
        yield found
        found.door.go.set()
        stop.set()
        thread.join()


def test_orders_and_polls_are_answered_for_each_app(bench: Bench) -> None:
    bench.door.go.set()
    both = [("shop", "committed", 0), ("blog", "wait", 3)]
    assert bench.ask(PollAsk()) == both
    assert bench.ask(OrderAsk(envelope=pack(b"order"))) == both[:1]
    assert bench.door.orders == [b"order"]


def test_one_install_at_a_time_and_questions_meanwhile(bench: Bench) -> None:
    with bench.connect() as first:
        first.send(PollAsk())
        bench.door.started.wait(5)
        assert bench.ask(PollAsk()) == [("", "wait", 0)]
        assert bench.ask(StatusAsk()) == []
        bench.door.go.set()


def test_orders_wait_while_a_crash_is_cleared_up(bench: Bench) -> None:
    bench.door.go.set()
    seen: list[list[tuple[str, str, int]]] = []
    bench.desk.alone(lambda: seen.append(bench.ask(PollAsk())))
    assert seen == [[("", "wait", 0)]]
    assert len(bench.ask(PollAsk())) == 2


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (Refused("x", expected="a", got="b", reason="replay"), Refused),
        (RuntimeError("a mistake of ours"), Failed),
    ],
)
def test_an_error_is_told_and_the_next_one_is_served(
    bench: Bench, problem: Exception, kind: type[EmbrasureError]
) -> None:
    bench.door.go.set()
    bench.door.problem = problem
    with pytest.raises(kind) as told:
        bench.ask(PollAsk())
    assert "mistake" not in str(told.value)
    bench.door.problem = None
    assert len(bench.ask(PollAsk())) == 2


def test_a_peer_that_goes_away_changes_nothing(bench: Bench) -> None:
    bench.connect().close()
    with bench.connect() as channel:
        channel.send(PollAsk())
        bench.door.started.wait(5)
    bench.door.go.set()
    end = time.monotonic() + 5
    while len(bench.ask(PollAsk())) != 2:
        assert time.monotonic() < end


def test_what_is_no_question_is_refused(bench: Bench) -> None:
    with pytest.raises(Failed), bench.connect() as channel:
        converse(channel, Pipe(id=1), NoSource(), Deaf())


@pytest.mark.misuse
def test_a_silent_crowd_is_hung_up_on_and_goes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    with ablation("the time for a first word") as attack, ExitStack() as crowd:
        attack.without("embrasure.limits.FIRST_WORD_SECONDS", 1000)
        for _ in range(limits.CONVERSATIONS):
            crowd.enter_context(bench.connect())
        time.sleep(2)  # longer than they are given below
        with pytest.raises(Unavailable) as refused:
            bench.ask(StatusAsk())
        attack.succeeded(refused.value)
    wait_for_room(bench)
    monkeypatch.setattr("embrasure.limits.FIRST_WORD_SECONDS", 1.5)
    with ExitStack() as crowd:
        for _ in range(limits.CONVERSATIONS):
            crowd.enter_context(bench.connect())
        with pytest.raises(Unavailable):
            bench.ask(StatusAsk())  # no room
        wait_for_room(bench)  # the silent ones had their time


def test_a_host_without_room_for_a_thread_does_not_make_apply_deaf(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app that has used up all process numbers must not end the thread that takes calls."""

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        for _ in range(limits.CONVERSATIONS + 1):
            with pytest.raises(Unavailable):
                bench.ask(StatusAsk())
    assert bench.ask(StatusAsk()) == []


@pytest.mark.misuse
def test_who_offers_bytes_and_sends_none_does_not_keep_the_owner_waiting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    monkeypatch.setattr("node.precedence.LET_GO_SECONDS", 3.0)
    door = bench.door = bench.desk._door = Hungry()

    def repaired(meanwhile: ExitStack) -> tuple[str, str]:
        door.started.clear()
        thief = meanwhile.enter_context(bench.connect())
        thief.send(PollAsk())
        door.started.wait(5)
        reading, writing = os.pipe()
        meanwhile.callback(os.close, writing)
        thief.send(Pipe(id=1), reading)
        os.close(reading)
        with bench.connect() as owner:
            (answer,) = converse(owner, RepairAsk(app="shop"), NoSource(), Deaf()).answers
        return answer.kind, answer.reason

    with ExitStack() as meanwhile:
        assert repaired(meanwhile) == ("none", "whole")
    with ablation("his precedence") as attack, ExitStack() as meanwhile:
        monkeypatch.setattr("node.precedence.LET_GO_SECONDS", 0.1)
        attack.without("node.asking.IpcSource.give_way")
        attack.succeeded(repaired(meanwhile) == ("wait", "busy"))


def wait_for_room(bench: Bench) -> None:
    end = time.monotonic() + 5
    while True:
        try:
            assert bench.ask(StatusAsk()) == []
            return
        except Unavailable:
            assert time.monotonic() < end
