"""Posts what waits in the outbox to the letterbox: sealed, signed, one way. Nothing comes back.

A post that fails waits in the outbox; it never changes what is installed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from logging import getLogger

from embrasure import limits
from embrasure.errors import EmbrasureError, Refused
from embrasure.net.https import LetterboxClient
from embrasure.net.post import frame_post, post_path
from embrasure.net.trustbundle import Trust
from node.answering import Deaf, NoSource, converse
from node.config import Server
from node.confirm_messages import AwaitsNote
from node.ipc import Channel
from node.messages import (
    FromApply,
    OutboxAsk,
    PostedAsk,
    PostNote,
    ProgressNote,
    ReceiptNote,
    unpack,
)
from node.pull import pause

LOG = getLogger(__name__)
FILLED = "filled"
_IDLE_SECONDS = 30.0  # between looks that nobody asked for

Connect = Callable[[], Channel[FromApply]]


class Poster:
    """Empties the outbox into one letterbox; hears of new receipts from the puller."""

    def __init__(
        self,
        connect: Connect,
        trust: Callable[[], Trust],
        letterbox: Server,
        *,
        key: str,
        poll_s: int,
        stop: threading.Event,
    ) -> None:
        self._connect, self._trust, self._letterbox, self._key = connect, trust, letterbox, key
        self._poll_s, self._stop = poll_s, stop
        self._news = threading.Event()

    def receipt(self, note: ReceiptNote) -> None:
        """A receipt waits in the outbox: it is posted soon."""
        self._news.set()

    def progress(self, note: ProgressNote) -> None:
        """Not posted."""

    def awaits(self, note: AwaitsNote) -> None:
        """The puller brings that word."""

    def run(self) -> None:
        """Post whatever waits, until stopped."""
        failures = 0
        while not self._stop.is_set():
            self._news.clear()
            try:
                self.empty()
                failures = 0
                self._news.wait(_IDLE_SECONDS)
            except EmbrasureError as problem:
                LOG.warning("%s [%s]", problem, problem.word)
                failures += 1
                self._stop.wait(pause(failures, longest=self._poll_s))

    def wake(self) -> None:
        """`run` looks at once."""
        self._news.set()

    def empty(self) -> None:
        """Every receipt that waits is posted; raises Unavailable when the box takes no more now."""
        with closing(self._client()) as client:
            while posts := self._waiting():
                for post in posts:
                    self._post(client, post)

    def _client(self) -> LetterboxClient:
        box = self._letterbox
        return LetterboxClient(box.address, name=box.name, trust=self._trust(), newest=self._trust)

    def _waiting(self) -> list[PostNote]:
        with self._connect() as channel:
            ask = OutboxAsk(limit=limits.LETTERBOX_SLOTS_PER_KEY)
            return converse(channel, ask, NoSource(), Deaf()).posts

    def _post(self, client: LetterboxClient, post: PostNote) -> None:
        frame = frame_post(unpack(post.header), unpack(post.body))
        try:
            client.post(post_path(self._key, post.rseq), frame)
        except Refused as problem:
            # The slot was filled by an earlier post of this receipt whose answer was lost.
            if problem.reason != FILLED:
                raise
        with self._connect() as channel:
            converse(channel, PostedAsk(rseqs=(post.rseq,)), NoSource(), Deaf())
