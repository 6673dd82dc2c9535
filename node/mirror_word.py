"""A pull node's side of `confirm = "mirror"`: a mirror is reached anew, and apply looks through it.

Whether what comes through holds is apply's matter, and so is the time that there is for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from logging import getLogger

from embrasure.errors import EmbrasureError
from embrasure.net.https import MirrorSource
from embrasure.net.trustbundle import Trust
from node.answering import Deaf, Hearer, NoSource, converse
from node.config import Server
from node.confirm_messages import AwaitedAsk, AwaitsNote, FreshAsk
from node.deadline import uptime_ms
from node.ipc import Channel
from node.messages import FromApply, ProgressNote, ReceiptNote

LOG = getLogger(__name__)
# Between looks that nobody asked for: after a restart apply waits, and has nobody to tell.
_IDLE_SECONDS = 5.0
_AGAIN_SECONDS = 1.0  # after a mirror that could not be reached, or did not hold

Connect = Callable[[], Channel[FromApply]]


class MirrorWord:
    """Hears that a release waits for a mirror, and brings its word; passes on all that it hears."""

    def __init__(
        self,
        connect: Connect,
        trust: Callable[[], Trust],
        mirrors: Sequence[Server],
        *,
        hearer: Hearer,
        stop: threading.Event,
    ) -> None:
        self._connect, self._trust, self._mirrors = connect, trust, tuple(mirrors)
        self._hearer, self._stop = hearer, stop
        self._news = threading.Event()

    def receipt(self, note: ReceiptNote) -> None:
        """Passed on."""
        self._hearer.receipt(note)

    def progress(self, note: ProgressNote) -> None:
        """Passed on."""
        self._hearer.progress(note)

    def awaits(self, note: AwaitsNote) -> None:
        """`run` looks at once."""
        self._news.set()

    def run(self) -> None:
        """Bring the word to whatever waits for it, until stopped."""
        while not self._stop.is_set():
            with suppress(EmbrasureError):  # apply is away; it waits on when it is back
                while self._is_awaited() and not self._bring():
                    self._stop.wait(_AGAIN_SECONDS)
            self._news.wait(_IDLE_SECONDS)
            self._news.clear()

    def _is_awaited(self) -> bool:
        if self._stop.is_set():
            return False
        with self._connect() as channel:
            found = converse(channel, AwaitedAsk(opened_ms=0), NoSource(), Deaf()).awaits
        return found is not None and found.by == "mirror"

    def _bring(self) -> bool:
        """Return whether a mirror was reached over a new connection, and apply was content."""
        for mirror in self._mirrors:
            opened_ms = uptime_ms()  # no connection of the source below is older
            try:
                source = MirrorSource(mirror.address, name=mirror.name, trust=self._trust())
                with closing(source), self._connect() as channel:
                    converse(channel, FreshAsk(opened_ms=opened_ms), source, Deaf())
            except EmbrasureError as problem:
                LOG.warning("mirror %s: %s [%s]", mirror.name, problem, problem.word)
            else:
                return True
        return False
