"""The owner, who stands before the node, comes before whoever speaks for the network.

Kept against: a stolen fetch that offers bytes and never sends them. It would hold the one slot, and
the door of trust files, whenever the owner installs, repairs or stops something by hand.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from embrasure.errors import Unavailable

LET_GO_SECONDS = 5.0  # until the owner is told `busy` by what does not wait for bytes


class Guest(Protocol):
    """What waits for bytes of the other side (`node.asking.IpcSource`)."""

    def give_way(self) -> None:
        """No byte of it is waited for any more."""
        ...


class Precedence:
    """Who of a node's callers waits for bytes of the network, and who comes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._guests: list[Guest] = []
        self._owners = 0

    @contextmanager
    def guest(self, source: Guest) -> Iterator[None]:
        """The network's turn; raises Unavailable (`busy`) while the owner has his."""
        with self._changed:
            if self._owners:
                raise Unavailable("node", expected="its turn", got="a command of the owner",
                                  reason="busy")  # fmt: skip
            self._guests.append(source)
        try:
            yield
        finally:
            with self._changed:
                self._guests.remove(source)
                self._changed.notify_all()

    @contextmanager
    def owner(self) -> Iterator[None]:
        """The owner's turn: what waited for bytes of the network was broken off, none begins."""
        with self._changed:
            self._owners += 1
            for source in self._guests:
                source.give_way()
            # An install that has its bytes goes on: it needs nobody, and has its own time.
            self._changed.wait_for(lambda: not self._guests, timeout=LET_GO_SECONDS)
        try:
            yield
        finally:
            with self._changed:
                self._owners -= 1
