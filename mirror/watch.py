"""Long polls: who waits for a newer timestamp is told at once, in bounded number and time."""

from __future__ import annotations

import asyncio

from embrasure import limits
from embrasure.errors import Unavailable


class Watchers:
    """Those who wait for a timestamp above the one they hold. Lives in one event loop.

    What they are told is a hint: a normal, verified refresh follows on their side.
    """

    def __init__(self, version: int = 0, *, most: int = limits.WATCHERS) -> None:
        self.version = version
        self._most = most
        self._waiting = 0
        self._closed = False
        self._stirs = 0
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Everybody who waits is answered now, and nobody waits any more: the mirror ends."""
        self._closed = True
        self._changed.set()

    def show(self, version: int) -> None:
        """`version` is visible; everybody who waits for it wakes up. Never goes back."""
        if version <= self.version:
            return
        self.version = version
        self._changed.set()
        self._changed = asyncio.Event()

    def stir(self) -> None:
        """Everybody who waits looks again now: there is news that no timestamp tells."""
        self._stirs += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, known: int, *, seconds: float = limits.WATCH_SECONDS) -> int | None:
        """Return the version once it is above `known`, or once there is other news; None after
        `seconds`.

        Raises Unavailable (`busy`) when too many wait already.
        """
        if self.version > known:
            return self.version
        if self._waiting >= self._most:
            raise Unavailable(
                "watch", expected=f"at most {self._most} waiting", got="more", reason="busy"
            )
        self._waiting += 1
        stirs = self._stirs
        try:
            async with asyncio.timeout(seconds):
                # Before anything is shown there is no news that a waiter could use.
                while (
                    self.version <= known
                    and not self._closed
                    and (self._stirs == stirs or self.version == 0)
                ):
                    await self._changed.wait()
        except TimeoutError:
            return None
        finally:
            self._waiting -= 1
        is_news = self.version > known or (self._stirs > stirs and self.version > 0)
        return self.version if is_news else None
