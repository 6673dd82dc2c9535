"""The pull loop and the poster against servers that are static, down, full or forgetful."""

from __future__ import annotations

import math
import os
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest

from embrasure.errors import EmbrasureError, Misuse, Refused, Unavailable
from embrasure.trust.door import Taken
from embrasure.trust.source import Source
from node import desk, ipc
from node.answering import Deaf
from node.config import Server
from node.ground import Report
from node.installer import Answer
from node.messages import AppState, PostNote, ReceiptNote, SeenNote, StateNote, pack
from node.poster import Poster
from node.pull import Puller, in_turn, next_moment, pause
from tests.simulate.authority import Authority
from tests.simulate.badserver import bad_server
from tests.simulate.hooks import NOWHERE
from tests.simulate.listener import trust_from
from tests.simulate.nodes import fixed_node_id
from tests.simulate.running import until

ME = frozenset({os.geteuid()})
AUTHORITY = Authority()
NODE = fixed_node_id(0)
TRUST = trust_from(AUTHORITY)


class Looks:
    """A door that counts looks and wants one file at each."""

    def repair(self, app: str, source: Source, report: Report) -> Answer:
        return Answer("none", "whole", app)

    def trust(self, source: Source) -> Taken:
        return Taken({"root": 2})

    def __init__(self) -> None:
        self.looks = 0
        self.answers = [Answer("none", "", "shop")]  # one a look, the last one again and again

    def order(self, envelope: bytes, source: Source, report: Report) -> Answer:
        return Answer("none", "", "shop")

    def poll(self, source: Source, report: Report) -> list[Answer]:
        list(source.fetch("metadata/timestamp.json", offset=0, limit=100))
        self.looks += 1
        return [self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]]


class Waiting:
    """Records with some receipts that wait."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers
        self.taken: list[int] = []

    def state(self) -> StateNote:
        return StateNote(
            node=NODE, env="dev", mode="pull", epoch=1, oseq=0, rseq=0, timestamp=5,
            maintenance="", isolation=NOWHERE, trouble=(), network="", apps=(),
        )  # fmt: skip

    def seen(self, approval: str = "") -> SeenNote:
        return SeenNote(timestamp="", snapshot="")

    def posts(self, limit: int) -> list[PostNote]:
        return [PostNote(rseq=n, header=pack(b"head"), body=pack(b"body")) for n in self.numbers]

    def posted(self, *rseqs: int) -> None:
        for rseq in rseqs:
            self.numbers.remove(rseq)
        self.taken += rseqs

    def network(self, until: int, trouble: str) -> None:
        self.said = until, trouble


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.door, self.records = folder, Looks(), Waiting([1, 2, 3])
        self.connect = partial(ipc.connect, folder, ipc.SOCKET, ME)
        self.asked: Counter[str] = Counter()
        self.answers: dict[str, bytes] = {}
        self.stop = threading.Event()

    def answer(self, connection: ssl.SSLSocket, head: bytes) -> None:
        """Be the mirror or the letterbox: `answers` by the path's first word, else 404."""
        path = head.split(b" ")[1].decode()
        self.asked[path] += 1
        word = next((w for w in self.answers if path.startswith(w)), "")
        status = self.answers.get(word, b"404 Not Found\r\nContent-Length: 0\r\n\r\n")
        connection.sendall(b"HTTP/1.1 " + status)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    tmp_path.chmod(0o700)
    found, stop = Bench(tmp_path), threading.Event()
    serving = desk.Desk(found.door, found.records, allowed=ME)
    with closing(ipc.Listener(tmp_path, ipc.SOCKET)) as listener:
        thread = threading.Thread(target=serving.serve, args=(listener, stop))
        thread.start()
        yield found
        found.stop.set()
        stop.set()
        thread.join()


TIMESTAMP = {"/metadata/": b"200 OK\r\nContent-Length: 2\r\n\r\n{}"}


def before(name: str) -> str:
    """Return a mirror's name that the node of these tests asks before `name`."""
    names = (f"x{number}" for number in range(100))
    known = Server(name=name, address="127.0.0.1:1")
    return next(
        other
        for other in names
        if in_turn([known, Server(name=other, address="127.0.0.1:1")], NODE)[0].name == other
    )


def pull(bench: Bench, *mirrors: Server, poll_s: int = 1) -> threading.Thread:
    puller = Puller(
        bench.connect, lambda: TRUST, list, mirrors, poll_s=poll_s, hearer=Deaf(), stop=bench.stop
    )
    thread = threading.Thread(target=puller.run)
    thread.start()
    return thread


def test_a_static_server_is_polled_and_not_asked_to_watch_again(bench: Bench) -> None:
    bench.answers = TIMESTAMP
    with bad_server(AUTHORITY.leaf("mirror", "m1"), bench.folder, bench.answer) as port:
        thread = pull(bench, Server(name="m1", address=f"127.0.0.1:{port}"))
        until(lambda: bench.door.looks >= 2, what="a second look")
        bench.stop.set()
        thread.join(10)
    assert bench.asked["/v1/watch/5"] == 1


def test_the_next_mirror_is_asked_when_one_is_down(bench: Bench) -> None:
    bench.answers = TIMESTAMP
    with bad_server(AUTHORITY.leaf("mirror", "m1"), bench.folder, bench.answer) as port:
        dead = Server(name=before("m1"), address="127.0.0.1:9")
        thread = pull(bench, dead, Server(name="m1", address=f"127.0.0.1:{port}"))
        until(lambda: bench.door.looks >= 1, what="a look")
        bench.stop.set()
        thread.join(10)
    assert not thread.is_alive()


def test_a_mirror_that_refuses_does_not_keep_the_node_from_the_next_one(bench: Bench) -> None:
    bench.answers = TIMESTAMP
    leaf = AUTHORITY.leaf("mirror", "m1")
    with (
        bad_server(AUTHORITY.leaf("mirror", "other"), bench.folder, bench.answer) as wrong,
        bad_server(leaf, bench.folder, bench.answer) as right,
    ):
        liar = Server(name=before("m1"), address=f"127.0.0.1:{wrong}")
        thread = pull(bench, liar, Server(name="m1", address=f"127.0.0.1:{right}"))
        until(lambda: bench.door.looks >= 1, what="a look")
        bench.stop.set()
        thread.join(10)


def test_a_mirror_that_does_not_serve_the_blobs_is_dropped_for_the_next_one(
    bench: Bench,
) -> None:
    bench.answers = TIMESTAMP
    first = before("m1")
    leaves = [AUTHORITY.leaf("mirror", name) for name in (first, "m1")]

    # The first mirror's line is too slow for the release.
    bench.door.answers.insert(0, Answer("rejected", "fetch", "shop"))
    with (
        bad_server(leaves[0], bench.folder, bench.answer) as slow,
        bad_server(leaves[1], bench.folder, bench.answer) as quick,
    ):
        began = time.monotonic()
        thread = pull(
            bench, Server(name=first, address=f"127.0.0.1:{slow}"),
            Server(name="m1", address=f"127.0.0.1:{quick}"), poll_s=60,
        )  # fmt: skip
        until(lambda: bench.door.looks >= 2, what="a look at the next mirror", seconds=30)
        assert time.monotonic() - began < 30, "at once, not after the period"
        bench.stop.set()
        thread.join(60)


def test_the_next_look_is_when_something_staged_may_go_on() -> None:
    def state(*untils: int) -> StateNote:
        apps = tuple(
            AppState(app=f"a{n}", state="waiting", seq=1, gseq=1, manifest="", detail="", hold="",
                     until=until)
            for n, until in enumerate(untils)
        )  # fmt: skip
        return msgspec.structs.replace(Waiting([]).state(), apps=apps)

    assert next_moment(state(), 1000) == math.inf
    assert next_moment(state(0, 900), 1000) == math.inf  # unknown, or over: the period counts
    assert next_moment(state(1600, 1030), 1000) == 30
    assert next_moment(state(1001), 1000.9) == 1


def test_a_pull_node_without_a_mirror_is_misuse(bench: Bench) -> None:
    with pytest.raises(Misuse):
        Puller(bench.connect, lambda: TRUST, list, [], poll_s=1, hearer=Deaf(), stop=bench.stop)


def test_nodes_spread_over_the_mirrors_and_each_keeps_its_order() -> None:
    mirrors = [Server(name=name, address="127.0.0.1:1") for name in ("a", "b", "c")]
    firsts = Counter(in_turn(mirrors, fixed_node_id(n))[0].name for n in range(300))
    assert all(60 <= count <= 140 for count in firsts.values())
    assert in_turn(mirrors, "n") == in_turn(list(reversed(mirrors)), "n")


@pytest.mark.parametrize("failures", [1, 3, 100])
def test_a_pause_never_outlasts_the_owners_period(failures: int) -> None:
    assert all(0 <= pause(failures, longest=2) <= 2 for _ in range(100))
    assert all(0 <= pause(failures, longest=60) <= 32 for _ in range(100))


def post(bench: Bench, status: bytes) -> EmbrasureError | None:
    """Return what emptying the outbox into a box that answers `status` ended with."""
    bench.answers = {"/v1/post/": status + b"\r\nContent-Length: 0\r\n\r\n"}
    with bad_server(AUTHORITY.leaf("letterbox", "l1"), bench.folder, bench.answer) as port:
        box = Server(name="l1", address=f"127.0.0.1:{port}")
        poster = Poster(bench.connect, lambda: TRUST, box, key="ab" * 32, poll_s=1, stop=bench.stop)
        try:
            poster.empty()
        except EmbrasureError as problem:
            return problem
    return None


@pytest.mark.parametrize("status", [b"204 No Content", b"409 Conflict"])
def test_what_the_box_has_is_never_posted_again(bench: Bench, status: bytes) -> None:
    # 409: an earlier post of the same receipt lies there, whose answer was lost.
    assert post(bench, status) is None
    assert bench.records.taken == [1, 2, 3]
    assert [bench.asked[f"/v1/post/{'ab' * 32}/{n}"] for n in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(b"429 Too Many", Unavailable), (b"403 Forbidden", Refused), (b"500 Bad", Unavailable)],
)
def test_what_the_box_does_not_take_stays_in_the_outbox(
    bench: Bench, status: bytes, kind: type[EmbrasureError]
) -> None:
    assert isinstance(post(bench, status), kind)
    assert bench.records.numbers == [1, 2, 3]


def test_a_new_receipt_wakes_the_poster(bench: Bench) -> None:
    bench.answers = {"/v1/post/": b"204 No Content\r\nContent-Length: 0\r\n\r\n"}
    with bad_server(AUTHORITY.leaf("letterbox", "l1"), bench.folder, bench.answer) as port:
        box = Server(name="l1", address=f"127.0.0.1:{port}")
        poster = Poster(bench.connect, lambda: TRUST, box, key="ab" * 32, poll_s=1, stop=bench.stop)
        thread = threading.Thread(target=poster.run)
        thread.start()
        until(lambda: bench.records.taken == [1, 2, 3], what="the first posts")
        bench.records.numbers.append(4)
        poster.receipt(ReceiptNote(rseq=4, signed="", body=""))
        until(lambda: bench.records.taken == [1, 2, 3, 4], what="the next post", seconds=5)
        bench.stop.set()
        poster.wake()
        thread.join(5)
    assert not thread.is_alive()
