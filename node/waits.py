"""What awaits its word now, and which word counts: named, once, over a new connection."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Literal

from embrasure.errors import Refused
from embrasure.trust.order import Order, check_action
from node.confirm_messages import AwaitsNote
from node.deadline import uptime_ms
from node.states import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """One release that waits for its word. nonce: in this process's memory only.

    since_ms: CLOCK_BOOTTIME of its beginning
    """

    app: str
    tx: str
    plan: str
    by: Literal["gateway", "mirror"]
    nonce: str
    since_ms: int
    word: threading.Event = field(default_factory=threading.Event)

    def note(self, *, nonce: str = "") -> AwaitsNote:
        """Return what fetch is told."""
        return AwaitsNote(app=self.app, tx=self.tx, plan=self.plan, by=self.by, nonce=nonce)


class Waits:
    """What awaits its word now: one install at a time works, so at most one does."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._open: Wait | None = None

    @contextmanager
    def waiting(self, record: Record) -> Iterator[Wait]:
        """Yield a new wait with a fresh nonce; no word counts before or after."""
        by: Literal["gateway", "mirror"] = "mirror" if record.confirm == "mirror" else "gateway"
        wait = Wait(
            app=record.app, tx=record.tx, plan=record.to.plan, by=by,
            nonce=secrets.token_hex(32), since_ms=uptime_ms(),
        )  # fmt: skip
        with self._mutex:
            self._open = wait
        try:
            yield wait
        finally:
            with self._mutex:
                self._open = None

    def shown(self, opened_ms: int) -> AwaitsNote | None:
        """Return what waits, with its nonce only for connections made after the switch."""
        with self._mutex:
            wait = self._open
        if wait is None:
            return None
        return wait.note(nonce=wait.nonce if is_new(wait, opened_ms) else "")

    def of(self, by: str, opened_ms: int) -> Wait:
        """Return the wait for this word; raises Refused when there is none, or the line is old."""
        with self._mutex:
            wait = self._open
        if wait is None or wait.by != by:
            raise Refused("confirmation", expected="a release that waits for it", got="none",
                          reason="nothing-waits")  # fmt: skip
        if not is_new(wait, opened_ms):
            raise Refused("confirmation", expected="a connection made after the switch",
                          got="an older one", reason="old-connection")  # fmt: skip
        return wait

    def confirm(self, wait: Wait) -> None:
        """The release stays; raises Refused when its time was over meanwhile."""
        with self._mutex:
            if self._open is not wait:
                raise Refused("confirmation", expected="a release that still waits", got="none",
                              reason="nothing-waits")  # fmt: skip
            wait.word.set()


def is_new(wait: Wait, opened_ms: int) -> bool:
    """Return whether what was opened then can only have connections made after the switch."""
    return opened_ms >= wait.since_ms


def check_names(order: Order, wait: Wait) -> None:
    """Return only when the order confirms exactly this wait; raises Refused."""
    check_action(order, "confirm")
    if (order.app, order.plan, order.tx) != (wait.app, wait.plan, wait.tx):
        raise Refused("confirmation", expected=f"{wait.app} {wait.tx}", got=order.tx,
                      reason="not-mine")  # fmt: skip
    check_nonce(order, wait)


def check_nonce(order: Order, wait: Wait) -> None:
    """Return only when the order names the nonce that was shown over the new connection."""
    if not compare_digest(order.node_nonce or "", wait.nonce):
        raise Refused("confirmation", expected="the nonce of this wait", got="another",
                      reason="bad-nonce")  # fmt: skip
