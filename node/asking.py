"""Apply's half of a conversation: files are wanted over the socket, their bytes come out of pipes.

Fetch is not believed: a want has a size, a lowest speed and an end, whatever fetch does.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.pipes import Drain
from embrasure.trust.foretold import Foretold
from embrasure.trust.layout import parse_wanted
from embrasure.trust.receipt import read_record
from node.ahead import Ahead, Held
from node.confirm_messages import AwaitsNote
from node.ipc import Channel
from node.messages import (
    End,
    EndStatus,
    FromFetch,
    Message,
    Pipe,
    ProgressNote,
    ReceiptNote,
    Want,
    Whole,
    pack,
    sentence,
    unpack,
)

Tick = Callable[[], float]
_LOOK_SECONDS = 1.0  # until a conversation that was broken off is noticed


class Pace:
    """How long one want may still wait; only waiting counts, not what we do with the bytes.

    whole_seconds: for the whole file, or None for the lowest speed of blobs
    """

    def __init__(self, *, whole_seconds: float | None) -> None:
        self._whole = whole_seconds
        self._left = limits.BLOB_GRACE_SECONDS if whole_seconds is None else whole_seconds
        self._left += limits.BLOB_WINDOW_SECONDS if whole_seconds is None else 0
        self._count = 0

    @property
    def left(self) -> float:
        """Seconds that the next byte may take."""
        return max(0.0, self._left)

    def note(self, *, waited: float, count: int) -> None:
        """`count` bytes came after `waited` seconds; raises Unavailable (`slow`) when too few."""
        self._left -= waited
        self._count += count
        if self._left > 0:
            return
        needed = limits.BLOB_BYTES_PER_SECOND * limits.BLOB_WINDOW_SECONDS
        if self._whole is not None or self._count < needed:
            raise Unavailable(
                "source",
                expected=f"{limits.BLOB_BYTES_PER_SECOND} bytes a second",
                got=f"{self._count} bytes in the last period",
                reason="slow",
            )
        self._left, self._count = float(limits.BLOB_WINDOW_SECONDS), 0


class IpcSource:
    """A Source whose files fetch gets; untrusted, as every source."""

    def __init__(self, channel: Channel[FromFetch], *, tick: Tick = time.monotonic) -> None:
        self._channel, self._tick = channel, tick
        self._id, self._is_broken = 0, False
        self._foretold, self._ahead = Foretold(tick), Held(tick)

    def came_along(self, files: Iterable[Ahead]) -> None:
        """Each of the files that came with an order answers the first want of its path."""
        self._ahead.keep(files)

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` on; one want at a time.

        Raises NotFound, Unavailable, Refused; after a broken conversation always Unavailable.
        """
        kind = parse_wanted(path)
        if self._foretold.take() == path:
            self._check_whole()
            raise NotFound(path, expected="a file of the source", got="none, as it said")
        if not offset and (file := self._ahead.take(path)) is not None:
            self._check_whole()
            if body := said(file, limit):
                yield body
            return
        pace = Pace(whole_seconds=limits.METADATA_SECONDS if kind.metadata else None)
        answer, pipe = self._open(path, offset=offset, limit=limit)
        if isinstance(answer, Whole):
            yield from self._body(answer, path, limit)
            return
        count = 0
        try:
            for piece in self._pieces(pipe, limit, pace):
                count += len(piece)
                yield piece
        except BaseException:
            os.close(pipe)
            with suppress(EmbrasureError):
                self._end()  # so that the next want starts clean
            raise
        os.close(pipe)
        end = self._end()
        check_end(path, end.status, end.length, count, end.got)

    def _check_whole(self) -> None:
        if self._is_broken:
            raise Unavailable("source", expected="fetch", got="it is gone", reason="ipc-closed")

    def _open(self, path: str, *, offset: int, limit: int) -> tuple[Whole | Pipe, int]:
        self._check_whole()
        self._id += 1
        want = Want(id=self._id, path=path, offset=offset, limit=limit)
        with self._breaking():
            self._channel.send(want)
            answer, pipe = self._answer(limits.METADATA_SECONDS)
            if isinstance(answer, Pipe) and answer.id == self._id and pipe is not None:
                return answer, pipe
            if isinstance(answer, Whole) and answer.id == self._id and pipe is None:
                return answer, -1
            if pipe is not None:
                os.close(pipe)
            raise Refused("ipc", expected="an answer to the want", got=answer, reason="bad-schema")

    def _answer(self, seconds: float) -> tuple[FromFetch, int | None]:
        until = self._tick() + seconds
        try:
            return self._channel.receive_with(seconds=seconds)
        except Unavailable:
            if self._tick() < until:
                raise
            # Fetch gathers what is little before it answers.
            raise Unavailable("source", expected=f"all of it in {seconds:g} s",
                              got="a slower source", reason="slow") from None  # fmt: skip

    def _body(self, answer: Whole, path: str, limit: int) -> Iterator[bytes]:
        with self._breaking():
            body = unpack(answer.body)
            check_little(body, limit)
        if body:
            yield body
        check_end(path, answer.status, len(body), len(body), answer.got)
        self._foretold.keep(answer.absent)

    def _pieces(self, pipe: int, limit: int, pace: Pace) -> Iterator[bytes]:
        waiting = select.poll()
        waiting.register(pipe, select.POLLIN)
        rest = limit
        with Drain(pipe) as drain:
            while True:
                began = self._tick()
                ready = drain.held or waiting.poll(int(min(pace.left, _LOOK_SECONDS) * 1000) + 1)
                self._check_whole()
                # One byte more than allowed is read, so that too much is seen and not cut off.
                piece = drain.take(min(limits.BUFFER_BYTES, rest + 1)) if ready else None
                pace.note(waited=self._tick() - began, count=len(piece or b""))
                if piece is None:
                    continue
                if not piece:
                    return
                rest -= len(piece)
                if rest < 0:
                    raise Refused("source", expected=f"{limit} bytes", got="more", reason="limit")
                yield piece

    def _end(self) -> End:
        with self._breaking():
            answer = self._channel.receive(seconds=limits.METADATA_SECONDS)
            if isinstance(answer, End) and answer.id == self._id:
                return answer
            raise Refused("ipc", expected="the end of the want", got=answer, reason="bad-schema")

    def _breaking(self) -> _Breaking:
        return _Breaking(self)

    def give_way(self) -> None:
        """No byte is waited for any more. From any thread: the descriptor stays its thread's."""
        self._is_broken = True
        self._channel.hang_up()

    def break_off(self) -> None:
        """No want is answered any more: the two sides have lost each other."""
        self._is_broken = True
        self._channel.close()


def said(file: Ahead, limit: int) -> bytes:
    """Return the bytes of a file that came along; raises NotFound, Refused (`limit`)."""
    body = unpack(file.body)
    if len(body) > limit:
        raise Refused("source", expected=f"{limit} bytes", got="more", reason="limit")
    status: EndStatus = "not-found" if file.absent else "ok"
    check_end(file.path, status, len(body), len(body), "none, as it said")
    return body


def check_little(body: bytes, limit: int) -> None:
    """Return only when a whole answer is no more than was wanted; raises Refused (`limit`)."""
    most = min(limit, limits.INLINE_BYTES)
    if len(body) > most:
        raise Refused("source", expected=f"{most} bytes", got="more", reason="limit")


def check_end(path: str, status: EndStatus, length: int, count: int, got: str) -> None:
    """Return only when all came: `count` bytes of the `length` that were given; raises NotFound,
    Refused, Unavailable.
    """
    if status == "not-found":
        raise NotFound(path, expected="a file of the source", got=got or "none")
    if status == "refused":
        raise Refused(path, expected="a source that gives it", got=got, reason="source")
    if status == "unavailable" or length != count:
        got = got or f"{count} of {length} bytes"
        raise Unavailable(path, expected="all its bytes", got=got, reason="source")


class _Breaking:
    """Whatever goes wrong inside ends the conversation: a wrong turn cannot be taken back."""

    def __init__(self, source: IpcSource) -> None:
        self._source = source

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._source.break_off()


class IpcReport:
    """Tells fetch what happens; a lost peer changes nothing, so nothing here raises."""

    def __init__(self, channel: Channel[FromFetch]) -> None:
        self._channel = channel
        self._told: set[bytes] = set()
        self._is_lost = False

    def receipt(self, signed: bytes, body: bytes) -> None:
        """Fetch knows this receipt, once, or is gone."""
        if signed in self._told:
            return
        self._told.add(signed)
        rseq = read_record(signed[: limits.RECEIPT_RECORD_BYTES]).rseq
        self.tell(ReceiptNote(rseq=rseq, signed=pack(signed), body=pack(body)))

    def progress(self, state: str, done: int, total: int) -> None:
        """Fetch knows where the install stands, unless it is busy or gone: a hint never waits.

        While fetch fills a pipe that we do not empty, a message that waits for it waits for ever.
        """
        if self._is_lost:
            return
        try:
            self._channel.offer(ProgressNote(state=sentence(state), done=done, total=total))
        except EmbrasureError:
            self._is_lost = True

    def awaits(self, note: AwaitsNote) -> None:
        """Fetch knows that a word is needed, or is gone and asks once it is back."""
        self.tell(note)

    def tell(self, message: Message) -> None:
        """Fetch got `message`, or is gone."""
        if self._is_lost:
            return
        try:
            self._channel.send(message)
        except EmbrasureError:
            self._is_lost = True
