"""Fetch's half of a conversation: it asks, gets the files apply wants, hears what happens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol, TypeVar

from embrasure import limits, memory
from embrasure.descriptor import write_all
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.pipes import widen
from embrasure.trust.layout import METADATA
from node.confirm_messages import AwaitsNote
from node.ipc import Channel
from node.messages import (
    AnswerNote,
    Done,
    End,
    EndStatus,
    Failure,
    FromApply,
    Message,
    Pipe,
    PostNote,
    ProgressNote,
    ProvedNote,
    ReceiptNote,
    SeenNote,
    StateNote,
    TrustNote,
    Want,
    Whole,
    error_of,
    pack,
    sentence,
)

P = TypeVar("P")

_HINT_SECONDS = 0.2  # a state that lasts shorter is no news


class Hearer(Protocol):
    """Who wants to know what happens while it happens."""

    def receipt(self, note: ReceiptNote) -> None:
        """Apply signed this receipt."""
        ...

    def progress(self, note: ProgressNote) -> None:
        """The install stands here."""
        ...

    def awaits(self, note: AwaitsNote) -> None:
        """The release stays only if a word comes over a connection that is made from now on."""
        ...


class Giver(Protocol):
    """A source whose pieces are only handed on: they may be a part of what came off the wire."""

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes | memoryview]:
        """See `embrasure.trust.source.Source`."""
        ...


class Deaf:
    """Nobody wants to know."""

    def receipt(self, note: ReceiptNote) -> None:
        """The outbox has it."""

    def progress(self, note: ProgressNote) -> None:
        """Not shown."""

    def awaits(self, note: AwaitsNote) -> None:
        """Somebody else brings the word."""


@dataclass(slots=True)
class Heard:
    """All that apply said in one conversation."""

    answers: list[AnswerNote] = field(default_factory=list)
    posts: list[PostNote] = field(default_factory=list)
    state: StateNote | None = None
    seen: SeenNote | None = None
    trusted: TrustNote | None = None
    proof: str = ""
    awaits: AwaitsNote | None = None


class NoSource:
    """For questions that need no file."""

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Raises NotFound."""
        raise NotFound(path, expected="a source", got="none")


def converse(channel: Channel[FromApply], ask: Message, source: Giver, hearer: Hearer) -> Heard:
    """Return what apply said to `ask`, after every file it wanted was got from `source`.

    Raises the error that apply ended with; Unavailable when apply is gone; Refused for nonsense.
    """
    channel.send(ask)
    heard, moved, hints = Heard(), 0, Hints(hearer)
    try:
        while True:
            if hints.is_held and not channel.is_waiting(seconds=_HINT_SECONDS):
                hints.tell()  # it stands there
            message = channel.receive()
            match message:
                case Want():
                    moved += serve(channel, message, source, hints)
                case ReceiptNote() | ProgressNote():
                    hints.hear(message)
                case AwaitsNote():
                    heard.awaits = message
                    hearer.awaits(message)
                case AnswerNote():
                    heard.answers.append(message)
                case PostNote():
                    heard.posts.append(message)
                case StateNote():
                    heard.state = message
                case SeenNote():
                    heard.seen = message
                case TrustNote():
                    heard.trusted = message
                case ProvedNote():
                    heard.proof = message.proof
                case Done():
                    return heard
                case Failure():
                    raise error_of(message)
    finally:
        # However it ends: a release that awaits its word is heard of over another connection.
        if moved > limits.MIB:
            memory.give_back()


class Hints:
    """Passes on what happens; of where an install stands the newest word, five times a second and
    before each receipt.

    A small install goes through all of its states in less. Each word would cost this process, and
    the gateway, as much as a file that is wanted.
    """

    def __init__(self, hearer: Hearer) -> None:
        self._hearer, self._told_at = hearer, time.monotonic()
        self._held: ProgressNote | None = None

    @property
    def is_held(self) -> bool:
        """Whether there is a word that nobody was told."""
        return self._held is not None

    def hear(self, note: ReceiptNote | ProgressNote) -> None:
        """The hearer knows what happened, or will."""
        if isinstance(note, ReceiptNote):
            if self.is_held:
                self.tell()  # in the order in which it happened
            self._hearer.receipt(note)
            return
        self._held = note
        if time.monotonic() - self._told_at >= _HINT_SECONDS:
            self.tell()

    def tell(self) -> None:
        """The hearer knows the newest word."""
        if self._held is not None:
            self._hearer.progress(self._held)
        self._held, self._told_at = None, time.monotonic()


def serve(channel: Channel[FromApply], want: Want, source: Giver, hints: Hints) -> int:
    """Return how many bytes of `want` apply got, in one message or through a pipe; it was told how
    that ended.
    """
    if want.path.startswith(METADATA):  # small, as a rule
        with _closing(_Told(source, want)) as told:
            head = bytearray()
            for piece in told:
                head += piece
                if len(head) > limits.INLINE_BYTES:
                    return _serve_by_pipe(channel, want, told, bytes(head), hints)
                _listen(channel, hints)  # who has hung up waits for no drip
            body = pack(bytes(head)) if told.status == "ok" else ""
            absent = foretold_by(source)
            channel.send(
                Whole(id=want.id, status=told.status, body=body, got=told.got, absent=absent)
            )
            return len(head)
    with _closing(_Told(source, want)) as told:
        return _serve_by_pipe(channel, want, told, b"", hints)


def foretold_by(source: Giver) -> str:
    """Return the path that the source said it has not, empty for a source that says nothing."""
    foretold: Callable[[], str] | None = getattr(source, "foretold", None)
    return foretold() if foretold is not None else ""


def _serve_by_pipe(
    channel: Channel[FromApply], want: Want, told: _Told, head: bytes, hints: Hints
) -> int:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    if want.limit > limits.BUFFER_BYTES:
        widen(writing, limits.MESSAGE_BYTES)  # a message is written in one go
    try:
        channel.send(Pipe(id=want.id), reading)
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    status, length, got = _pour(writing, head, told, lambda: _listen(channel, hints))
    channel.send(End(id=want.id, status=status, length=length, got=got))
    return length


def _listen(channel: Channel[FromApply], hints: Hints) -> None:
    """What apply noted meanwhile is heard, so that its messages do not pile up."""
    while channel.is_waiting():
        message = channel.receive()
        if not isinstance(message, ReceiptNote | ProgressNote):
            raise Refused("ipc", expected="a note during a want", got=message, reason="bad-schema")
        hints.hear(message)


def _pour(
    writing: int, head: bytes, told: _Told, listen: Callable[[], None]
) -> tuple[EndStatus, int, str]:
    length = 0
    try:
        for piece in chain([head] if head else [], told):
            write_all(writing, piece)
            length += len(piece)
            listen()
    except BrokenPipeError:
        return "refused", length, "apply wants no more of it"
    finally:
        os.close(writing)
    return told.status, length, told.got


class _Told:
    """The pieces of a want, and at their end how it ended: `status`, and `got` in words."""

    def __init__(self, source: Giver, want: Want) -> None:
        self.status: EndStatus = "ok"
        self.got = ""
        self._pieces = self._read(source, want)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield what the source gives; what it raises is the end."""
        return self._pieces

    def close(self) -> None:
        """The source gives no more."""
        self._pieces.close()

    def _read(self, source: Giver, want: Want) -> Generator[bytes | memoryview, None, None]:
        try:
            with _closing(source.fetch(want.path, offset=want.offset, limit=want.limit)) as pieces:
                yield from pieces
        except NotFound as problem:
            self.status, self.got = "not-found", sentence(str(problem))
        except Unavailable as problem:
            self.status, self.got = "unavailable", sentence(str(problem))
        except EmbrasureError as problem:
            self.status, self.got = "refused", sentence(str(problem))


@contextmanager
def _closing(pieces: P) -> Iterator[P]:
    # A source that is not read to its end must give back its connection now, not some day.
    try:
        yield pieces
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
