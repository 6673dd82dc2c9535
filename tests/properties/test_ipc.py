"""Whatever comes over the socket: a side reads its own messages, everything else is Refused."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.errors import EmbrasureError, Refused
from embrasure.trust.layout import blob_file
from node.ahead import Ahead
from node.asking import IpcSource
from node.ipc import Channel
from node.messages import (
    AnswerNote,
    AppState,
    Done,
    End,
    Message,
    OrderAsk,
    OutboxAsk,
    Pipe,
    PollAsk,
    PostedAsk,
    PostNote,
    ProgressNote,
    ReceiptNote,
    Separation,
    StateNote,
    StatusAsk,
    Want,
    Whole,
    pack,
    parse_from_apply,
    parse_from_fetch,
    sentence,
    unpack,
    write_message,
)
from tests.simulate.running import until

COUNT = st.integers(0, limits.MAX_INTEGER)
ID = st.integers(1, limits.MAX_INTEGER)
BYTES = st.binary(max_size=512).map(pack)
TEXT = st.text(max_size=600).map(sentence)
HOLD = TEXT.map(lambda t: t[:160])
WORD = st.from_regex(r"[A-Za-z][A-Za-z0-9:_.-]{0,20}", fullmatch=True)
APP = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
STATUS = st.sampled_from(["ok", "not-found", "unavailable", "refused"])
DIGEST = st.binary(min_size=32, max_size=32).map(bytes.hex)

AHEAD = st.builds(Ahead, path=TEXT.map(lambda t: t[:400]), absent=st.booleans(), body=BYTES)
FROM_FETCH: st.SearchStrategy[Message] = st.one_of(
    st.builds(OrderAsk, envelope=BYTES, ahead=st.lists(AHEAD, max_size=3).map(tuple)),
    st.just(PollAsk()),
    st.just(StatusAsk()),
    st.builds(OutboxAsk, limit=st.integers(1, limits.LETTERBOX_SLOTS_PER_KEY)),
    st.builds(PostedAsk, rseqs=st.lists(ID, max_size=3).map(tuple)),
    st.builds(Pipe, id=ID),
    st.builds(End, id=ID, status=STATUS, length=COUNT, got=TEXT),
    st.builds(
        Whole, id=ID, status=STATUS, body=BYTES, got=TEXT, absent=TEXT.map(lambda t: t[:400])
    ),
)
STATES = st.builds(
    AppState, app=APP, state=WORD, seq=COUNT, gseq=COUNT, manifest=DIGEST, detail=TEXT, hold=HOLD,
    until=COUNT,
)  # fmt: skip
SEPARATION = st.builds(
    Separation, production=st.booleans(), sandbox=WORD, level=COUNT, landlock=COUNT, sync=WORD
)
FROM_APPLY: st.SearchStrategy[Message] = st.one_of(
    st.builds(Want, id=ID, path=TEXT.map(lambda t: t[:400]), offset=COUNT, limit=COUNT),
    st.builds(ReceiptNote, rseq=ID, signed=BYTES, body=BYTES),
    st.builds(ProgressNote, state=WORD, done=COUNT, total=COUNT),
    st.builds(AnswerNote, kind=WORD, reason=TEXT, app=APP, floor=COUNT),
    st.builds(PostNote, rseq=ID, header=BYTES, body=BYTES),
    st.builds(
        StateNote,
        node=APP, env=st.just("prod"), mode=st.sampled_from(["push", "pull"]), epoch=COUNT,
        oseq=COUNT, rseq=COUNT, timestamp=COUNT, maintenance=HOLD,
        isolation=SEPARATION, trouble=st.lists(TEXT, max_size=3).map(tuple), network=TEXT,
        apps=st.lists(STATES, max_size=3).map(tuple),
    ),
    st.just(Done()),
)  # fmt: skip


@given(FROM_FETCH)
def test_what_fetch_writes_apply_reads(message: Message) -> None:
    assert parse_from_fetch(write_message(message)) == message


@given(FROM_APPLY)
def test_what_apply_writes_fetch_reads(message: Message) -> None:
    assert parse_from_apply(write_message(message)) == message


@given(st.binary(max_size=300) | FROM_APPLY.map(write_message))
def test_apply_reads_only_messages_of_fetch_or_refuses(raw: bytes) -> None:
    try:
        message = parse_from_fetch(raw)
    except Refused:
        return
    assert write_message(message) == raw


@given(st.data(), FROM_FETCH | FROM_APPLY)
def test_one_changed_byte_is_another_message_or_refused(data: st.DataObject, good: Message) -> None:
    raw = bytearray(write_message(good))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for parse in (parse_from_fetch, parse_from_apply):
        try:
            message: Message = parse(bytes(raw))
        except Refused:
            continue
        assert write_message(message) == bytes(raw)


@given(st.binary(max_size=2000))
def test_bytes_come_back_as_they_were_packed(data: bytes) -> None:
    assert unpack(pack(data)) == data


@given(st.text())
def test_any_text_becomes_a_sentence_that_a_message_may_carry(text: str) -> None:
    found = sentence(text)
    assert found.isascii()
    assert len(found) <= 512
    assert parse_from_fetch(write_message(End(id=1, status="refused", length=0, got=found))) == End(
        id=1, status="refused", length=0, got=found
    )


TURN = st.tuples(
    st.one_of(FROM_FETCH, st.just(Pipe(id=1)), st.just(End(id=1, status="ok", length=3, got=""))),
    st.sampled_from([None, b"", b"abc", b"abcd"]),
)


def play(end: socket.socket, turns: list[tuple[Message, bytes | None]]) -> None:
    """Be a fetch that says `turns`, some with a pipe that holds bytes, and then hangs up."""
    with Channel(end, parse_from_apply) as fetch:
        fetch.receive(seconds=5)
        for message, data in turns:
            reading, writing = os.pipe()
            try:
                os.write(writing, data or b"")
                os.close(writing)
                fetch.send(message, reading if data is not None else None)
            except EmbrasureError:
                return
            finally:
                os.close(reading)


def open_ends() -> set[str]:
    """Return the pipes and sockets that this process holds, each by a number of its own."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return {name for name in found if name.startswith(("pipe:", "socket:"))}


@given(st.lists(TURN, max_size=4))
def test_no_behaviour_of_fetch_gives_apply_more_than_it_asked_for_or_another_error(
    turns: list[tuple[Message, bytes | None]],
) -> None:
    before = open_ends()
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=play, args=(left, turns))
    thread.start()
    with Channel(right, parse_from_fetch) as apply:
        got = b""
        try:
            for piece in IpcSource(apply).fetch(blob_file("00" * 32), offset=0, limit=3):
                got += piece
        except EmbrasureError:
            pass
        else:
            little = (message for message, _ in turns if isinstance(message, Whole))
            assert got in {b"abc", *(unpack(message.body) for message in little)}
        assert len(got) <= 3
    thread.join()
    # Whatever else lives in this process may hold one for a moment, but nothing is held for good.
    until(lambda: open_ends() <= before, what="the end of every pipe and socket")
