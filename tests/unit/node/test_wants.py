"""Wants over the socket: every byte of a source arrives, and nothing fetch does can hurt apply."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.trust.layout import blob_file, parse_file
from embrasure.trust.receipt import Kind, Outcome, Ran, Reason, Receipt, sign_receipt
from embrasure.trust.source import Source
from node.answering import Deaf, Heard, Hearer, Hints, converse, serve
from node.asking import IpcReport, IpcSource, Pace
from node.confirm_messages import AwaitsNote
from node.ipc import Channel
from node.messages import (
    Done,
    End,
    FromApply,
    FromFetch,
    Message,
    Pipe,
    PollAsk,
    ProgressNote,
    ReceiptNote,
    Want,
    Whole,
    pack,
    parse_from_apply,
    parse_from_fetch,
    unpack,
)
from tests.ablation import Ablation
from tests.simulate.running import until

BLOB = blob_file("ab" * 32)
TIMESTAMP = "metadata/timestamp.json"
POLL = select.poll


class Held:
    """A source of files in memory; an error in place of bytes is raised at that point."""

    def __init__(self, files: dict[str, list[bytes | EmbrasureError]]) -> None:
        self.files = files
        self.asked: list[tuple[str, int, int]] = []

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        self.asked.append((path, offset, limit))
        if path not in self.files:
            raise NotFound(path, expected="a file", got="none")
        for piece in self.files[path]:
            if isinstance(piece, EmbrasureError):
                raise piece
            yield piece


class Loud:
    """Hears everything."""

    def __init__(self) -> None:
        self.receipts: list[int] = []
        self.states: list[str] = []

    @property
    def hints(self) -> int:
        return len(self.states)

    def receipt(self, note: ReceiptNote) -> None:
        self.receipts.append(note.rseq)

    def awaits(self, note: AwaitsNote) -> None:
        pass

    def progress(self, note: ProgressNote) -> None:
        self.states.append(note.state)


def run(
    source: Source,
    work: Callable[[IpcSource, Channel[FromFetch]], None],
    hearer: Hearer | None = None,
) -> Heard:
    """Let apply do `work` while fetch serves `source`; what goes wrong in apply is raised."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fetch = Channel(left, parse_from_apply)
    apply = Channel(right, parse_from_fetch)
    problems: list[BaseException] = []

    def half() -> None:
        with apply:
            try:
                assert apply.receive(seconds=5) == PollAsk()
                work(IpcSource(apply), apply)
                apply.send(Done())
            except BaseException as problem:
                problems.append(problem)

    thread = threading.Thread(target=half)
    thread.start()
    try:
        with fetch:
            return converse(fetch, PollAsk(), source, hearer or Deaf())
    except EmbrasureError:
        thread.join()
        if not problems:
            raise
        raise problems[0] from None
    finally:
        thread.join()
        assert not problems or isinstance(problems[0], EmbrasureError), problems


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def whole(source: IpcSource, path: str, *, offset: int = 0, limit: int = 1 << 30) -> bytes:
    return b"".join(source.fetch(path, offset=offset, limit=limit))


def test_every_byte_arrives_and_wants_follow_one_another() -> None:
    big = os.urandom(3 * limits.BUFFER_BYTES + 7)
    held = Held({BLOB: [big[:100], big[100:]], TIMESTAMP: [b"{}"]})
    got: list[bytes] = []

    def work(source: IpcSource, _: Channel[FromFetch]) -> None:
        got.extend([whole(source, BLOB, offset=5, limit=len(big)), whole(source, TIMESTAMP)])

    run(held, work)
    assert got == [big, b"{}"]
    assert held.asked[0] == (BLOB, 5, len(big))


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (NotFound("x", expected="a", got="b"), NotFound),
        (Unavailable("x", expected="a", got="b"), Unavailable),
        (Refused("x", expected="a", got="b"), Refused),
    ],
)
def test_what_stops_the_source_stops_apply_with_the_same_class(
    problem: EmbrasureError, kind: type[EmbrasureError]
) -> None:
    seen: list[bytes] = []

    def work(source: IpcSource, _: Channel[FromFetch]) -> None:
        with pytest.raises(EmbrasureError) as raised:
            seen.extend(source.fetch(BLOB, offset=0, limit=100))
        assert type(raised.value) is kind
        assert whole(source, TIMESTAMP) == b"{}"  # the conversation goes on

    run(Held({BLOB: [b"begin", problem], TIMESTAMP: [b"{}"]}), work)
    assert b"".join(seen) == b"begin"


def test_a_want_given_up_early_leaves_the_conversation_whole() -> None:
    def work(source: IpcSource, _: Channel[FromFetch]) -> None:
        pieces = source.fetch(BLOB, offset=0, limit=1 << 30)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]  # a generator
        assert whole(source, TIMESTAMP) == b"{}"

    run(Held({BLOB: [bytes(1 << 20)] * 8, TIMESTAMP: [b"{}"]}), work)


def test_hints_in_the_middle_of_a_want_never_stop_it_and_the_receipt_arrives() -> None:
    # Fetch fills the pipe and does not read; apply talks and does not read: neither may wait.
    heard = Loud()

    def work(source: IpcSource, channel: Channel[FromFetch]) -> None:
        report, count = IpcReport(channel), 0
        for piece in source.fetch(BLOB, offset=0, limit=1 << 30):
            count += len(piece)
            for step in range(200):
                report.progress("fetching", step, count)
        assert count == 8 << 20
        report.receipt(signed_receipt(rseq=1), b"body")

    run(Held({BLOB: [bytes(1 << 20)] * 8}), work, heard)
    assert heard.receipts == [1]
    assert heard.hints > 0


def test_a_state_that_lasts_is_told_and_one_that_does_not_is_no_news() -> None:
    heard = Loud()

    def work(source: IpcSource, channel: Channel[FromFetch]) -> None:
        report = IpcReport(channel)
        for state in ("offered", "reserved", "fetching"):
            report.progress(state, 0, 0)
        whole(source, TIMESTAMP)
        report.progress("probing", 0, 0)
        until = time.monotonic() + 5
        while not heard.states and time.monotonic() < until:
            time.sleep(0.01)  # nothing else is said meanwhile
        report.progress("committed", 0, 0)

    run(Held({TIMESTAMP: [b"{}"]}), work, heard)
    assert heard.states == ["probing"]


@pytest.mark.misuse
def test_a_path_that_is_no_repository_path_never_reaches_fetch(ablation: Ablation) -> None:
    held = Held({})

    def work(source: IpcSource, _: Channel[FromFetch]) -> None:
        with pytest.raises(Refused):
            whole(source, "../../etc/shadow")

    run(held, work)
    assert held.asked == []
    with ablation("the grammar of paths") as attack:
        attack.without("node.asking.parse_wanted", lambda _: parse_file(BLOB))
        with pytest.raises(NotFound):
            run(held, work)
        attack.succeeded([path for path, _, _ in held.asked] == ["../../etc/shadow"])


@pytest.mark.misuse
def test_more_bytes_than_wanted_are_refused(ablation: Ablation) -> None:
    def work(source: IpcSource, _: Channel[FromFetch]) -> None:
        with pytest.raises(Refused) as refused:
            whole(source, BLOB, limit=10)
        assert refused.value.reason == "limit"
        assert whole(source, TIMESTAMP) == b"{}"

    run(Held({BLOB: [bytes(11)], TIMESTAMP: [b"{}"]}), work)
    with ablation("the count of bytes") as attack:
        pieces = Held({BLOB: [bytes(11)]}).fetch(BLOB, offset=0, limit=10)
        attack.succeeded(len(b"".join(pieces)) == 11)


Fetch = Channel[FromApply]


@contextmanager
def hostile(answer: Callable[[Fetch], object]) -> Iterator[IpcSource]:
    """Apply's source, with `answer` as all that fetch does."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def half() -> None:
        with Channel(left, parse_from_apply) as fetch:
            fetch.receive(seconds=5)
            answer(fetch)

    thread = threading.Thread(target=half)
    thread.start()
    with Channel(right, parse_from_fetch) as apply:
        yield IpcSource(apply)
    thread.join()


def give(fetch: Fetch, message: Message, data: bytes, then: Message | None = None) -> None:
    """Send `message` with a pipe that holds `data` and ends."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    fetch.send(message, reading)
    os.close(reading)
    if then is not None:
        fetch.send(then)


def test_an_end_that_counts_other_bytes_than_came_is_not_success() -> None:
    def answer(fetch: Fetch) -> None:
        give(fetch, Pipe(id=1), b"short")
        fetch.send(End(id=1, status="ok", length=6, got=""))

    with hostile(answer) as source, pytest.raises(Unavailable):
        whole(source, BLOB)


@pytest.mark.parametrize(
    "turn",
    [
        lambda fetch: fetch.send(End(id=1, status="ok", length=0, got="")),
        lambda fetch: give(fetch, Pipe(id=2), b""),
        lambda fetch: fetch.send(Pipe(id=1)),
        lambda fetch: give(fetch, PollAsk(), b""),
        lambda fetch: fetch.send(PollAsk()),
        lambda fetch: None,
        lambda fetch: give(fetch, Pipe(id=1), b"x", then=PollAsk()),
    ],
    ids=["end first", "other want", "no pipe", "pipe elsewhere", "no answer", "gone", "no end"],
)
def test_an_answer_out_of_turn_ends_the_conversation_for_good(
    turn: Callable[[Fetch], None],
) -> None:
    before = descriptors()
    with hostile(turn) as source:
        with pytest.raises((Refused, Unavailable)):
            whole(source, BLOB)
        with pytest.raises(Unavailable, match="gone"):
            whole(source, BLOB)
    # The test's own other end closes in its own time.
    until(lambda: descriptors() <= before, what="every descriptor closed")


@pytest.mark.parametrize(
    "turn",
    [
        lambda fetch: fetch.send(Whole(id=2, status="ok", body="", got="")),
        lambda fetch: give(fetch, Whole(id=1, status="ok", body="", got=""), b""),
        lambda fetch: fetch.send(Whole(id=1, status="ok", body="A", got="")),
    ],
    ids=["other want", "a pipe beside it", "no base64"],
)
def test_a_whole_answer_of_another_form_ends_the_conversation(
    turn: Callable[[Fetch], None],
) -> None:
    before = descriptors()
    with hostile(turn) as source:
        with pytest.raises(Refused):
            whole(source, TIMESTAMP)
        with pytest.raises(Unavailable, match="gone"):
            whole(source, TIMESTAMP)
    until(lambda: descriptors() <= before, what="every descriptor closed")


@pytest.mark.misuse
def test_a_whole_answer_is_no_longer_than_was_wanted(ablation: Ablation) -> None:
    def turn(fetch: Fetch) -> None:
        fetch.send(Whole(id=1, status="ok", body=pack(b"x" * 11), got=""))

    with hostile(turn) as source, pytest.raises(Refused) as refused:
        whole(source, TIMESTAMP, limit=10)
    assert refused.value.reason == "limit"
    with ablation("the size of a want") as attack, hostile(turn) as source:
        attack.without("node.asking.check_little", lambda *_: None)
        attack.succeeded(len(whole(source, TIMESTAMP, limit=10)) == 11)


@pytest.mark.misuse
def test_an_answer_that_never_comes_is_given_up_as_slow(
    monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    monkeypatch.setattr("embrasure.limits.METADATA_SECONDS", 0.1)
    done = threading.Event()
    with hostile(lambda _: done.wait(5)) as source:
        with pytest.raises(Unavailable) as slow:
            whole(source, TIMESTAMP)
        assert slow.value.reason == "slow"
        done.set()
    done.clear()
    with ablation("the time for an answer") as attack, hostile(lambda _: done.wait(5)) as source:
        attack.without("node.asking.IpcSource._answer", lambda one, _: one._channel.receive_with())
        ended = threading.Event()

        def want() -> None:
            with pytest.raises(Unavailable):
                whole(source, TIMESTAMP)
            ended.set()

        waiting = threading.Thread(target=want)
        waiting.start()
        attack.succeeded(not ended.wait(0.5))
        done.set()
        waiting.join()


@pytest.mark.misuse
def test_fetch_hears_that_apply_has_hung_up_while_a_source_drips(ablation: Ablation) -> None:
    """Else a gateway that drips holds one of the few orders that a node takes at a time."""

    def pieces() -> int:
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        count = 0

        class Drip:
            def fetch(self, _path: str, *, offset: int, limit: int) -> Iterator[bytes]:
                nonlocal count
                del offset, limit
                while True:
                    count += 1
                    if count == 3:
                        right.close()  # apply has waited long enough
                    yield b"x"

        with Channel(left, parse_from_apply) as fetch, suppress(Unavailable):
            serve(fetch, Want(id=1, path=TIMESTAMP, offset=0, limit=65536), Drip(), Hints(Deaf()))
        return count

    assert pieces() <= 4
    with ablation("a look at who waits, at each piece") as attack:
        attack.without("node.answering._listen", lambda *_: None)
        attack.succeeded(pieces() > limits.INLINE_BYTES)


def test_little_comes_in_the_answer_and_much_through_a_pipe() -> None:
    for size in (0, 1, limits.INLINE_BYTES, limits.INLINE_BYTES + 1, 3 * limits.INLINE_BYTES):
        data = b"t" * size

        def work(source: IpcSource, _: Channel[FromFetch], data: bytes = data) -> None:
            assert whole(source, TIMESTAMP) == data

        run(Held({TIMESTAMP: [data[:9], data[9:]]}), work)


@pytest.mark.misuse
def test_a_pipe_that_never_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    monkeypatch.setattr("embrasure.limits.METADATA_SECONDS", 0.1)
    reading, writing = os.pipe()
    with (
        hostile(lambda fetch: fetch.send(Pipe(id=1), reading)) as source,
        pytest.raises(Unavailable) as slow,
    ):
        whole(source, TIMESTAMP)
    assert slow.value.reason == "slow"
    os.close(reading)
    os.close(writing)
    with ablation("the time for a whole file") as attack:
        monkeypatch.setattr("embrasure.limits.METADATA_SECONDS", 1000)
        reading, writing = os.pipe()
        with hostile(lambda fetch: fetch.send(Pipe(id=1), reading)) as source:
            threading.Timer(0.5, os.close, (writing,)).start()
            began = time.monotonic()
            with pytest.raises(Unavailable):
                whole(source, TIMESTAMP)  # held until the other side pleased to end it
            attack.succeeded(time.monotonic() - began > 0.4)
        os.close(reading)


class Thief:
    """Looks as `select.poll` does, and takes the bytes away between that look and the read."""

    def __init__(self, kept: int) -> None:
        self._poll = POLL()
        self._kept, self.takes = kept, 1

    def register(self, fd: int, events: int) -> None:
        self._poll.register(fd, events)

    def poll(self, milliseconds: int) -> list[tuple[int, int]]:
        ready = self._poll.poll(milliseconds)
        if ready and self.takes:
            self.takes -= 1
            os.read(self._kept, 1)
        return ready


@pytest.mark.misuse
def test_a_pipe_whose_bytes_are_taken_back_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    ended = threading.Event()

    def want() -> None:
        with hostile(lambda fetch: fetch.send(Pipe(id=1), reading)) as source:
            with pytest.raises(Unavailable):
                whole(source, TIMESTAMP)
            ended.set()

    monkeypatch.setattr("embrasure.limits.METADATA_SECONDS", 0.3)
    reading, writing = os.pipe()
    os.write(writing, b"x")
    monkeypatch.setattr("node.asking.select.poll", lambda: Thief(reading))
    want()
    assert ended.is_set()
    ended.clear()
    with ablation("the read that does not wait") as attack:
        attack.without("embrasure.pipes.Drain.take", lambda self, most: os.read(self._fd, most))
        os.write(writing, b"x")
        held = threading.Thread(target=want)
        held.start()
        attack.succeeded(not ended.wait(1))  # long after its time was over
        os.close(writing)
        held.join()
    os.close(reading)


def test_pace_counts_waiting_only_and_asks_for_the_lowest_speed() -> None:
    enough = limits.BLOB_BYTES_PER_SECOND * limits.BLOB_WINDOW_SECONDS
    first = limits.BLOB_GRACE_SECONDS + limits.BLOB_WINDOW_SECONDS
    pace = Pace(whole_seconds=None)
    for _ in range(50):
        pace.note(waited=0.0, count=1)  # slow because of us: no reason to give up
    pace.note(waited=first, count=enough)
    assert pace.left == limits.BLOB_WINDOW_SECONDS
    with pytest.raises(Unavailable) as slow:
        pace.note(waited=limits.BLOB_WINDOW_SECONDS, count=enough - 1)
    assert slow.value.reason == "slow"


def test_pace_of_metadata_is_one_time_for_the_whole_file() -> None:
    pace = Pace(whole_seconds=30.0)
    pace.note(waited=29.0, count=1 << 20)
    with pytest.raises(Unavailable):
        pace.note(waited=1.0, count=1 << 30)


def signed_receipt(*, rseq: int) -> bytes:
    zero = bytes(32)
    return sign_receipt(
        Receipt(
            scope=bytes(16), seq=1, plan=zero, manifest=zero, node="n-" + "a" * 26, previous=zero,
            body=zero, boot=bytes(16), nonce=bytes(16), rseq=rseq, finished=1, took_s=1,
            soaked_s=1, epoch=1, gseq=1, wave=0, attempt=1, kind=Kind.SOAKED, outcome=Outcome.OK,
            ran=Ran.MAIN, isolation=0, reason=Reason.NONE,
        ),
        SigningKey.generate(),
    )  # fmt: skip


def test_a_report_tells_each_receipt_once_and_outlives_its_peer() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fetch, apply = Channel(left, parse_from_apply), Channel(right, parse_from_fetch)
    report = IpcReport(apply)
    signed = signed_receipt(rseq=7)
    report.receipt(signed, b"body")
    report.receipt(signed, b"body")
    report.progress("probing", 1, 3)
    note = fetch.receive(seconds=1)
    assert isinstance(note, ReceiptNote)
    assert (note.rseq, unpack(note.signed)) == (7, signed)
    assert fetch.receive(seconds=1) == ProgressNote(state="probing", done=1, total=3)
    fetch.close()
    report.receipt(signed_receipt(rseq=8), b"body")
    report.progress("probing", 2, 3)
    apply.close()
