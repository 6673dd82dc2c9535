"""A node of which something is damaged: what was committed runs, and nothing else is done.

No install, no order, no confirmation, no receipt, until it is repaired and started again. What runs
is what a whole start would run: linked or committed, whole on disk, as its own user.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from logging import getLogger

from embrasure.clock import Clock
from embrasure.errors import Denied, EmbrasureError
from embrasure.trust.source import Source
from node.accept import Acceptor
from node.config import MEND
from node.confirm_messages import AwaitsNote
from node.ground import Apps
from node.installer import Answer
from node.isolation import Isolation
from node.paths import Paths
from node.recovery import serve_committed, typed
from node.serving import Standing
from node.states import State

LOG = getLogger(__name__)


class ServeOnly(Acceptor):
    """The acceptor of a node that only serves."""

    def __init__(
        self,
        paths: Paths,
        standing: Standing,
        supervisor: Apps,
        *,
        clock: Clock,
        isolation: Isolation,
    ) -> None:
        """Hold this node's lock until `close`; nothing is started yet."""
        super().__init__(
            paths, standing.config, standing.identity, supervisor, clock=clock,
            isolation=isolation,
        )  # fmt: skip
        self._trouble = standing.trouble

    def recover(self) -> None:
        """Every app runs the release that was committed. No open install is ended or gone on with.

        The first error of an app is raised once all were tried.
        """
        for sentence in self._trouble:
            LOG.error("it only serves: %s; hint: %s", sentence, MEND)
        first: EmbrasureError | None = None
        with self._mutex:
            for app in self._apps():
                try:
                    serve_committed(self._ground, app)
                except Exception as problem:  # a defect, too: it is that app's alone
                    told = typed(app, problem)
                    LOG.error("%s: %s [%s]", app, told, told.word)
                    first = first or told
        if first is not None:
            raise first

    def go_back(self, app: str) -> State | None:
        """It is not known how the install was meant to end: raises Denied."""
        raise self._no()

    def awaited(self, opened_ms: int) -> AwaitsNote | None:
        """Nothing waits for a word here."""
        return None

    def confirm(self, envelope: bytes, source: Source, *, opened_ms: int) -> Answer:
        """Raises Denied."""
        raise self._no()

    def look_again(self, source: Source, *, opened_ms: int) -> None:
        """Raises Denied."""
        raise self._no()

    def enrol(self, answer: bytes, source: Source) -> None:
        """Raises Denied."""
        raise self._no()

    def watch_for_drift(self, stop: threading.Event) -> None:
        """Nothing is told without a receipt: `node verify` looks."""

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        if self._trouble:
            raise self._no()
        yield

    def _no(self) -> Denied:
        return Denied(
            "node", expected="a node that is whole", got=self._trouble[0],
            untouched="what was committed runs", hint=MEND, reason="serve-only",
        )  # fmt: skip


def acceptor_of(
    paths: Paths, standing: Standing, supervisor: Apps, *, clock: Clock, isolation: Isolation
) -> Acceptor:
    """Return what does the work of this node: all of it, or serving alone."""
    if not standing.is_whole:
        return ServeOnly(paths, standing, supervisor, clock=clock, isolation=isolation)
    return Acceptor(
        paths, standing.config, standing.identity, supervisor, clock=clock, isolation=isolation
    )
