"""The pull node's loop: wait for news at a mirror, then let apply look; mirrors are only sources.

A mirror's watch is a hint. Whatever it says or fails to say, the node looks again after `poll_s`,
or when the watch that runs then has ended.
"""

from __future__ import annotations

import hashlib
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from logging import getLogger

from cryptography import x509

from embrasure import limits
from embrasure.errors import EmbrasureError, Misuse, NotFound, Unavailable
from embrasure.net.https import MirrorSource
from embrasure.net.trustbundle import Trust
from node.answering import Hearer, NoSource, converse
from node.config import Server
from node.ipc import Channel
from node.messages import FromApply, PollAsk, StateNote, StatusAsk
from node.trust_bringer import TrustBringer

LOG = getLogger(__name__)
_FIRST_WAIT_SECONDS = 0.5
_UNWATCHED_SECONDS = 3600.0  # before a server without a watch is asked again whether it has one

# A tx that ended so met a source that does not serve what was signed.
_NOT_SERVED = frozenset({"fetch", "bad-hash"})

Connect = Callable[[], Channel[FromApply]]


def in_turn(mirrors: Sequence[Server], node: str) -> list[Server]:
    """Return the mirrors in this node's order: nodes spread, and each has its own first one."""
    return sorted(mirrors, key=lambda one: hashlib.sha256(f"{node}\0{one.name}".encode()).digest())


def pause(failures: int, *, longest: float) -> float:
    """Return how many seconds to wait after so many failures in a row, at most `longest`.

    Full jitter: a thousand nodes that lost one mirror do not come back together.
    """
    most = min(longest, _FIRST_WAIT_SECONDS * 2 ** min(failures, 6))
    return random.uniform(0, most)  # noqa: S311  # no secret


def next_moment(state: StateNote, now: float) -> float:
    """Return in how many seconds the first app may leave WAITING; infinity when none says when."""
    moments = (app.until - now for app in state.apps if app.until > now)
    return max(1.0, min(moments, default=math.inf))


class Puller:
    """Polls for one node until it is stopped."""

    def __init__(
        self,
        connect: Connect,
        trust: Callable[[], Trust],
        roots: Callable[[], Sequence[x509.Certificate]],
        mirrors: Sequence[Server],
        *,
        poll_s: int,
        hearer: Hearer,
        stop: threading.Event,
    ) -> None:
        if not mirrors:
            raise Misuse(
                "node.toml",
                expected="a mirror for a pull node",
                got="none",
                hint='add to it: `[[mirrors]]`, `name = "m1"`, `address = "HOST:PORT"`',
            )
        self._connect, self._trust, self._mirrors = connect, trust, mirrors
        self._bringer = TrustBringer(connect, trust, roots)
        self._poll_s, self._hearer, self._stop = poll_s, hearer, stop
        self._unwatched: dict[str, float] = {}

    def run(self) -> None:
        """Look, wait for news, look again, until stopped."""
        failures = 0
        while not self._stop.is_set():
            try:
                state = self._state()
                self._round(in_turn(self._mirrors, state.node), state)
                failures = 0
            except EmbrasureError as problem:
                LOG.warning("%s [%s]", problem, problem.word)
                failures += 1
                self._stop.wait(pause(failures, longest=self._poll_s))

    def _round(self, mirrors: Sequence[Server], state: StateNote) -> None:
        """One look at the first mirror that serves us well, then one wait for its news.

        Raises what the last one did: a mirror that lies must not keep us from an honest one.
        """
        for mirror in mirrors:
            try:
                with closing(self._open(mirror)) as source:
                    # Before anything is installed: a stop may be among them.
                    self._bringer.bring(mirror, source)
                    self._poll(source)
                    self._wait(mirror, source)
                return
            except EmbrasureError as problem:
                self._bringer.bring_all_the_same(mirror, problem)
                if mirror is mirrors[-1] or self._stop.is_set():
                    raise
                LOG.warning("mirror %s: %s [%s]", mirror.name, problem, problem.word)

    def _open(self, mirror: Server) -> MirrorSource:
        return MirrorSource(
            mirror.address, name=mirror.name, trust=self._trust(), newest=self._trust
        )

    def _state(self) -> StateNote:
        with self._connect() as channel:
            state = converse(channel, StatusAsk(), NoSource(), self._hearer).state
        if state is None:
            raise Unavailable("apply", expected="the node's state", got="none")
        return state

    def _poll(self, source: MirrorSource) -> None:
        with self._bringing(), self._connect() as channel:
            answers = converse(channel, PollAsk(), source, self._hearer).answers
        for answer in answers:
            LOG.info("%s: %s %s", answer.app, answer.kind, answer.reason)
            if answer.kind == "rejected" and answer.reason in _NOT_SERVED:
                # Too slow, cut off, or other bytes than were signed: the next one may be honest.
                raise Unavailable(
                    f"blobs of {answer.app}", expected="a source that serves them",
                    got="another", untouched="what runs keeps running", reason=answer.reason,
                )  # fmt: skip

    @contextmanager
    def _bringing(self) -> Iterator[None]:
        """While the block runs, trust files of every mirror are asked for each `poll_s` seconds.

        A download can take hours, and the mirror that drips it may be the one that was denied.
        """
        done = threading.Event()

        def bring() -> None:
            while not done.wait(self._poll_s) and not self._stop.is_set():
                for mirror in self._mirrors:
                    self._bringer.bring_alone(mirror)

        threading.Thread(target=bring, name="bringing", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _wait(self, mirror: Server, source: MirrorSource) -> None:
        """Return when the mirror has news, or after `poll_s` and a little; or when something that
        is staged may go on.
        """
        state = self._state()
        little = random.uniform(0, min(limits.POLL_JITTER_SECONDS, self._poll_s))  # noqa: S311  # no secret
        until = time.monotonic() + little + min(self._poll_s, next_moment(state, time.time()))
        version = state.timestamp
        while (left := until - time.monotonic()) > 0 and not self._stop.is_set():
            if time.monotonic() < self._unwatched.get(mirror.name, 0.0):
                self._stop.wait(left)
            elif self._has_news(mirror, source, version):
                return

    def _has_news(self, mirror: Server, source: MirrorSource, version: int) -> bool:
        try:
            return source.watch(version) is not None
        except NotFound:
            self._unwatched[mirror.name] = time.monotonic() + _UNWATCHED_SECONDS
            return False
