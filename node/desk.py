"""Where apply takes conversations: one install at a time, questions at any time.

Whoever asks, the same door answers; a peer that goes away in the middle changes nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from logging import getLogger
from typing import Protocol

from embrasure import limits
from embrasure.errors import EmbrasureError, Failed
from embrasure.trust.door import Taken
from embrasure.trust.source import Source
from node.asking import IpcReport, IpcSource
from node.confirm_messages import AwaitedAsk, AwaitsNote, ConfirmAsk, FreshAsk, LocalAsk, RepairAsk
from node.crew import Crew
from node.ground import Report
from node.installer import Answer
from node.ipc import Channel, Listener, check_peer
from node.logs import FIELDS
from node.messages import (
    AnswerNote,
    Done,
    EnrolAsk,
    FromFetch,
    Message,
    NetworkAsk,
    OrderAsk,
    OutboxAsk,
    PollAsk,
    PostedAsk,
    PostNote,
    ProveAsk,
    ProvedNote,
    SeenAsk,
    SeenNote,
    StateNote,
    StatusAsk,
    TrustAsk,
    TrustNote,
    failure_of,
    pack,
    sentence,
    unpack,
)
from node.precedence import Precedence

LOG = getLogger(__name__)
_QUIET = frozenset({"none", "wait", "hold"})  # asked again every minute, with nothing new
_LOOK_SECONDS = 0.1  # between looks whether to stop


class Door(Protocol):
    """The one door of all installs (`node.accept.Acceptor`)."""

    def order(self, envelope: bytes, source: Source, report: Report) -> Answer:
        """Obey a gateway's order, if it holds."""
        ...

    def poll(self, source: Source, report: Report) -> list[Answer]:
        """Install what the source has for this node, if it holds."""
        ...

    def repair(self, app: str, source: Source, report: Report) -> Answer:
        """Rebuild what differs of the app's committed release."""
        ...

    def trust(self, source: Source) -> Taken:
        """Take what `source` has of newer trust files."""
        ...


class Keeper(Protocol):
    """What brings a new release the word that it needs to stay, or does without."""

    def poll(self, source: Source, report: Report, *, is_local: bool) -> list[Answer]:
        """Install what the source has for this node."""
        ...

    def awaited(self, opened_ms: int) -> AwaitsNote | None:
        """Say what waits for a word."""
        ...

    def confirm(self, envelope: bytes, source: Source, *, opened_ms: int) -> Answer:
        """Let the release stay that the gateway's order confirms."""
        ...

    def look_again(self, source: Source, *, opened_ms: int) -> None:
        """Let the release stay that waits for a mirror, if its timestamp holds."""
        ...


class Records(Protocol):
    """What can be read of this node while an install runs."""

    def state(self) -> StateNote:
        """Where the node stands."""
        ...

    def seen(self, approval: str = "") -> SeenNote:
        """The newest timestamp that the node has verified, and the snapshot or this approval."""
        ...

    def posts(self, limit: int) -> list[PostNote]:
        """The oldest receipts that no letterbox has taken."""
        ...

    def posted(self, *rseqs: int) -> None:
        """A letterbox or the gateway has taken these receipts."""
        ...

    def network(self, until: int, trouble: str) -> None:
        """What fetch says of its certificate and of itself is shown from now on."""
        ...


class Joiner(Protocol):
    """What answers for this node until it is enrolled (`node.joining.Joiner`)."""

    def prove(self, challenge: bytes, *, gateway: str) -> bytes:
        """Return the signed answer to a challenge."""
        ...

    def take(self, answer: bytes, source: Source) -> None:
        """Take the security team's answer, if the trust files of `source` vouch for it."""
        ...


class Desk:
    """Serves conversations, each in a thread that holds no other at the time."""

    def __init__(
        self,
        door: Door,
        records: Records,
        *,
        allowed: frozenset[int],
        joiner: Joiner | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._door, self._records, self._allowed = door, records, allowed
        self._joiner, self._keeper = joiner, keeper
        # Each user has room of its own: fetch's user must not be able to lock the owner out.
        self._rooms = {uid: threading.BoundedSemaphore(limits.CONVERSATIONS) for uid in allowed}
        self._crew = Crew()
        self._working = threading.Lock()
        self._precedence = Precedence()

    def serve(self, listener: Listener, stop: threading.Event) -> None:
        """Conversations are taken until `stop` is set."""
        with closing(self._crew):
            while not stop.is_set():
                channel = listener.accept(self._allowed, seconds=_LOOK_SECONDS)
                if channel is not None:
                    self._take(channel)

    def _take(self, channel: Channel[FromFetch]) -> None:
        uid = channel.peer().uid
        if not self._rooms[uid].acquire(blocking=False):
            channel.close()
            return
        try:
            self._crew.do(partial(self._converse, channel, uid))
        except RuntimeError:  # no thread is to be had now: that must not end this one
            LOG.error("a conversation has no thread: too many processes on this host")
            channel.close()
            self._rooms[uid].release()

    def alone(self, work: Callable[[], None]) -> None:
        """`work` is done while every order is answered `wait busy`."""
        with self._working:
            work()

    def _converse(self, channel: Channel[FromFetch], uid: int) -> None:
        try:
            with channel, suppress(EmbrasureError):  # the peer is gone: nobody to tell
                channel.send(self._last_word(channel, uid))
        finally:
            self._rooms[uid].release()

    def _last_word(self, channel: Channel[FromFetch], uid: int) -> Message:
        try:
            self._answer(channel, channel.receive(seconds=limits.FIRST_WORD_SECONDS), uid)
        except EmbrasureError as problem:
            LOG.warning("%s [%s]", problem, problem.word)
            return failure_of(problem)
        except Exception:
            LOG.exception("a conversation failed")
            return failure_of(Failed("apply", expected="an answer", got="an internal error"))
        return Done()

    def _answer(self, channel: Channel[FromFetch], ask: FromFetch, uid: int) -> None:
        source, report = IpcSource(channel), IpcReport(channel)
        match ask:
            case LocalAsk() | RepairAsk():
                check_peer(channel.peer(), frozenset({os.geteuid()}))
                with self._precedence.owner():
                    is_mine = self._working.acquire(blocking=False)
                self._work(ask, source, report, is_mine=is_mine)
            case OrderAsk() | PollAsk():
                source.came_along(ask.ahead if isinstance(ask, OrderAsk) else ())
                with self._precedence.guest(source):
                    is_mine = self._working.acquire(blocking=False)
                    self._work(ask, source, report, is_mine=is_mine)
            case TrustAsk():
                # Beside an install, not behind it: a stop must not wait for a soak.
                with self._turn(source, uid):
                    report.tell(trusted(self._door.trust(source)))
            case ConfirmAsk() if self._keeper:
                # Beside the install that waits for it.
                with self._precedence.guest(source):
                    envelope = unpack(ask.envelope)
                    tell(report, self._keeper.confirm(envelope, source, opened_ms=ask.opened_ms))
            case FreshAsk() if self._keeper:
                with self._precedence.guest(source):
                    self._keeper.look_again(source, opened_ms=ask.opened_ms)
            case AwaitedAsk() if self._keeper:
                note = self._keeper.awaited(ask.opened_ms)
                if note is not None:
                    channel.send(note)
            case StatusAsk():
                channel.send(self._records.state())
            case SeenAsk():
                channel.send(self._records.seen(ask.approval))
            case OutboxAsk():
                for post in self._records.posts(ask.limit):
                    channel.send(post)
            case PostedAsk():
                self._records.posted(*ask.rseqs)
            case NetworkAsk():
                self._records.network(ask.until, ask.trouble)
            case ProveAsk() if self._joiner:
                proof = self._joiner.prove(unpack(ask.challenge), gateway=ask.gateway)
                channel.send(ProvedNote(proof=pack(proof)))
            case EnrolAsk() if self._joiner:
                with self._precedence.guest(source):
                    self._joiner.take(unpack(ask.answer), source)
            case _:
                raise Failed("ipc", expected="a question", got=type(ask).__name__)

    def _turn(self, source: IpcSource, uid: int) -> AbstractContextManager[None]:
        """Return whose turn a delivery of trust files is: the owner's by his user. In development
        fetch has the same one.
        """
        if uid == os.geteuid() and len(self._rooms) > 1:
            return self._precedence.owner()
        return self._precedence.guest(source)

    def _work(
        self,
        ask: OrderAsk | PollAsk | LocalAsk | RepairAsk,
        source: IpcSource,
        report: IpcReport,
        *,
        is_mine: bool,
    ) -> None:
        """is_mine: whether the one slot was taken for this; it is free again afterwards."""
        if not is_mine:
            report.tell(AnswerNote(kind="wait", reason="busy", app="", floor=0))
            return
        try:
            if isinstance(ask, OrderAsk):
                answers = [self._door.order(unpack(ask.envelope), source, report)]
            elif isinstance(ask, LocalAsk) and self._keeper:
                answers = self._keeper.poll(source, report, is_local=True)
            elif isinstance(ask, RepairAsk):
                answers = [self._door.repair(ask.app, source, report)]
            else:
                answers = self._door.poll(source, report)
        finally:
            self._working.release()
        for answer in answers:
            if answer.kind not in _QUIET:
                told = {"app": answer.app, "kind": answer.kind, "why": answer.reason or "none"}
                LOG.info("install answered", extra={FIELDS: told})
            tell(report, answer)


def tell(report: IpcReport, answer: Answer) -> None:
    """Fetch knows `answer` and every receipt in it that it did not hear before."""
    for signed, body in answer.receipts:
        report.receipt(signed, body)
    report.tell(note_of(answer))


def trusted(found: Taken) -> TrustNote:
    """Return the message that carries what became of trust files."""
    return TrustNote(
        taken=dict(found.roles),
        missing=tuple(sentence(path) for path in found.missing[:32]),
        refused={role: problem.word for role, problem in found.refused.items()},
    )


def note_of(answer: Answer) -> AnswerNote:
    """Return the message that carries `answer`."""
    return AnswerNote(
        kind=answer.kind, reason=sentence(answer.reason), app=answer.app, floor=answer.floor
    )
