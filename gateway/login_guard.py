"""What stands before a log-in: nonces that count once, and sources that fail too often.

A source is paused, never a person: nobody can lock an operator out by failing in his name.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embrasure import limits
from embrasure.errors import Refused, Unavailable

Seconds = Callable[[], float]
NONCE_BYTES = 32
_MAC_BYTES = 16


class Nonces:
    """Nonces that this process made: valid for a minute, taken once.

    Nothing is kept of one that was only asked for: asking costs an attacker more than us. Only a
    nonce under a valid signature is remembered, until it is too old anyway.
    """

    def __init__(self, steady: Seconds = time.monotonic) -> None:
        self._steady = steady
        self._secret = secrets.token_bytes(32)
        self._taken: dict[bytes, float] = {}
        self._lock = threading.Lock()

    def fresh(self) -> bytes:
        """Return a new nonce: its end in milliseconds, 8 random bytes, and our own MAC."""
        end = math.ceil((self._steady() + limits.LOGIN_SECONDS) * 1000)
        head = end.to_bytes(8, "big") + secrets.token_bytes(8)
        return head + self._mac(head)

    def take(self, nonce: bytes) -> None:
        """`nonce` was ours, young and untaken, and is taken now; raises Refused (`nonce`)."""
        self.check_ours(nonce)
        end = int.from_bytes(nonce[:8], "big") / 1000
        now = self._steady()
        check_age(end, now)
        with self._lock:
            self._taken = {known: until for known, until in self._taken.items() if until > now}
            check_untaken(nonce in self._taken)
            self._taken[nonce] = end

    def check_ours(self, nonce: bytes) -> None:
        """Return only when this process made `nonce`."""
        head, mac = nonce[:-_MAC_BYTES], nonce[-_MAC_BYTES:]
        if len(nonce) != NONCE_BYTES or not hmac.compare_digest(mac, self._mac(head)):
            raise _nonce("one of this gateway", "another")

    def _mac(self, head: bytes) -> bytes:
        return hmac.digest(self._secret, head, hashlib.sha256)[:_MAC_BYTES]


def check_age(end: float, now: float) -> None:
    """Return only before the end of a nonce."""
    if now >= end:
        raise _nonce(f"one of the last {limits.LOGIN_SECONDS} s", "an older one")


def check_untaken(taken: bool) -> None:
    """Return only for a nonce that nobody has used."""
    if taken:
        raise _nonce("one that was not used", "a used one")


def _nonce(expected: str, got: str) -> Refused:
    return Refused("nonce", expected=expected, got=got, reason="nonce")


class Sources:
    """Counts the failures of each source address; too many in a minute pause that address."""

    def __init__(self, steady: Seconds = time.monotonic) -> None:
        self._steady = steady
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        self._paused: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()
        self.refused = 0
        self.paused = 0

    def check(self, source: str) -> None:
        """Return only while `source` may try; raises Unavailable (`paused`)."""
        with self._lock:
            left = self._paused.get(source, 0.0) - self._steady()
        if left > 0:
            self.paused += 1
            raise Unavailable(
                "log-in",
                expected=f"at most {limits.LOGIN_FAILURES} failures a minute from one address",
                got=f"more; this address waits {math.ceil(left)} s",
                hint="another address is not affected, nor is anybody's account",
                reason="paused",
            )

    @contextmanager
    def attempt(self, source: str) -> Iterator[None]:
        """Count one attempt of `source`, as failed unless the block ends well.

        It counts from its start, so that many at once are as many as one after the other.
        """
        self.check(source)
        at = self._steady()
        with self._lock:
            found = self._failed.setdefault(source, deque())
            self._failed.move_to_end(source)
            while found and found[0] <= at - limits.LOGIN_WINDOW_SECONDS:
                found.popleft()
            found.append(at)
            if len(found) >= limits.LOGIN_FAILURES:
                self._paused[source] = at + limits.LOGIN_PAUSE_SECONDS
            self._forget()
        try:
            yield
        except BaseException:
            self.refused += 1
            raise
        with self._lock:
            # Who is let in has shown a key: what failed before was a slip.
            self._failed.pop(source, None)
            self._paused.pop(source, None)

    def _forget(self) -> None:
        """Memory is bounded: the addresses that were quiet the longest go first."""
        for held in (self._failed, self._paused):
            while len(held) > limits.LOGIN_SOURCES:
                held.popitem(last=False)
