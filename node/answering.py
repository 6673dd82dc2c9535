"""Fetch's half of a conversation: it asks, gets the files apply wants, hears what happens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from embrasure import limits, memory
from embrasure.descriptor import write_all
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.pipes import widen
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
    error_of,
    sentence,
)

T = TypeVar("T")

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
                if moved > limits.MIB:
                    memory.give_back()
                return heard
            case Failure():
                raise error_of(message)


class Hints:
    """Passes on what happens; of where an install stands the newest word, five times a second.

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
    """Return how many bytes of `want` apply got through a pipe; it was told how that ended."""
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
    status, length, got = _pour(writing, want, source, lambda: _listen(channel, hints))
    channel.send(End(id=want.id, status=status, length=length, got=sentence(got)))
    return length


def _listen(channel: Channel[FromApply], hints: Hints) -> None:
    """What apply noted meanwhile is heard, so that its messages do not pile up."""
    while channel.is_waiting():
        message = channel.receive()
        if not isinstance(message, ReceiptNote | ProgressNote):
            raise Refused("ipc", expected="a note during a want", got=message, reason="bad-schema")
        hints.hear(message)


def _pour(
    writing: int, want: Want, source: Giver, listen: Callable[[], None]
) -> tuple[EndStatus, int, str]:
    length = 0
    try:
        with _closing(source.fetch(want.path, offset=want.offset, limit=want.limit)) as pieces:
            for piece in pieces:
                write_all(writing, piece)
                length += len(piece)
                listen()
    except BrokenPipeError:
        return "refused", length, "apply wants no more of it"
    except NotFound as problem:
        return "not-found", length, str(problem)
    except Unavailable as problem:
        return "unavailable", length, str(problem)
    except EmbrasureError as problem:
        return "refused", length, str(problem)
    finally:
        os.close(writing)
    return "ok", length, ""


@contextmanager
def _closing(pieces: Iterator[T]) -> Iterator[Iterator[T]]:
    # A source that is not read to its end must give back its connection now, not some day.
    try:
        yield pieces
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
