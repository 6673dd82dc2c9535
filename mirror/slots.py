"""A letterbox's posts on disk: one slot a number of a key, written once, bounded in every way.

Drill: a breached node floods the box; a stolen box only delays.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.fs import Folder
from embrasure.net.pace import Seconds
from embrasure.net.post import MAX_FRAME, split_post
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.layout import DIGEST

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """Where a post lies. key: id of a receipt key; rseq: its number."""

    key: str
    rseq: int


class Bucket:
    """Posts that a key may make: a burst, then one each few seconds."""

    def __init__(self, steady: Seconds) -> None:
        self._steady = steady
        self._left = float(limits.LETTERBOX_BURST)
        self._at = steady()

    def take(self) -> bool:
        """Return whether one more post may be made now; if so it is counted."""
        moment = self._steady()
        gained = (moment - self._at) / limits.LETTERBOX_REFILL_SECONDS
        self._left = min(float(limits.LETTERBOX_BURST), self._left + gained)
        self._at = moment
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Slots:
    """All uncollected posts. One process; its threads may share it."""

    def __init__(
        self, folder: Path, *, clock: Clock = now, steady: Seconds = time.monotonic
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._steady = steady
        self._mutex = threading.Lock()
        self._buckets: dict[str, Bucket] = {}
        self._posts: dict[Slot, int] = {}  # slot -> bytes, oldest first
        self._count: Counter[str] = Counter()  # posts of a key
        self._bytes: Counter[str] = Counter()  # bytes of a key
        self._total = 0
        Folder.open(folder, create=True).close()
        self._scan()

    def put(self, slot: Slot, frame: bytes) -> bool:
        """Return whether `frame` is new in its slot; False for a repeat of the same body.

        The caller has checked the header's signature, so a stranger uses up nobody's quota.
        Raises Refused (`filled`), Unavailable (`busy`: quota).
        """
        with self._mutex:
            if slot in self._posts:
                check_same_body(self._read(slot), frame)
                return False
            self._check_room(slot.key, len(frame))
            self._check_pace(slot.key)
            with Folder.open(self._folder) as held, held.ensure(slot.key) as box:
                box.create(str(slot.rseq), frame)
            self._add(slot, len(frame))
            return True

    def oldest(self, count: int) -> list[tuple[Slot, bytes]]:
        """Return up to `count` posts, oldest first; they stay until they are freed."""
        with self._mutex:
            slots = list(self._posts)[:count]
            return [(slot, self._read(slot)) for slot in slots]

    def free(self, slots: list[Slot]) -> int:
        """Return how many of `slots` held a post; they hold none any more."""
        with self._mutex:
            return sum(self._drop(slot) for slot in slots)

    def sweep(self) -> int:
        """Return how many posts nobody claimed in time; they are gone."""
        oldest = self._clock().timestamp() - limits.LETTERBOX_KEEP_SECONDS
        with self._mutex:
            stale = [slot for slot in self._posts if self._arrived(slot) < oldest]
            return sum(self._drop(slot) for slot in stale)

    def _check_room(self, key: str, count: int) -> None:
        """Return only when one more post of `count` bytes fits, for its key and in all."""
        if self._count[key] >= limits.LETTERBOX_SLOTS_PER_KEY:
            raise _full("uncollected posts of this key", limits.LETTERBOX_SLOTS_PER_KEY)
        if self._bytes[key] + count > limits.LETTERBOX_BYTES_PER_KEY:
            raise _full("uncollected bytes of this key", limits.LETTERBOX_BYTES_PER_KEY)
        if self._total + count > limits.LETTERBOX_BYTES:
            raise _full("uncollected bytes", limits.LETTERBOX_BYTES)
        if (self._total + count) * 100 > limits.LETTERBOX_BYTES * limits.LETTERBOX_ALARM_PERCENT:
            LOG.error("the letterbox is nearly full: %d bytes", self._total)

    def _check_pace(self, key: str) -> None:
        """Return only when the key has not posted too much just now."""
        bucket = self._buckets.setdefault(key, Bucket(self._steady))
        if not bucket.take():
            raise _full("posts at once", limits.LETTERBOX_BURST)

    def _read(self, slot: Slot) -> bytes:
        with Folder.open(self._folder) as held:
            return held.read(f"{slot.key}/{slot.rseq}", limit=MAX_FRAME)

    def _arrived(self, slot: Slot) -> float:
        try:
            with Folder.open(self._folder) as held, held.child(slot.key) as box:
                return box.stat(str(slot.rseq)).st_mtime
        except NotFound:
            return 0.0

    def _drop(self, slot: Slot) -> bool:
        size = self._posts.pop(slot, None)
        if size is None:
            return False
        self._total -= size
        self._count[slot.key] -= 1
        self._bytes[slot.key] -= size
        with Folder.open(self._folder) as held, held.child(slot.key) as box:
            box.unlink(str(slot.rseq), missing_ok=True)
        return True

    def _scan(self) -> None:
        """Know what an earlier process left, in the order it came."""
        found: list[tuple[int, Slot, int]] = []
        with Folder.open(self._folder) as held:
            for key in (name for name in held.list() if DIGEST.fullmatch(name)):
                with held.child(key) as box:
                    box.remove_unfinished()
                    for name in (name for name in box.list() if name.isdecimal()):
                        status = box.stat(name)
                        found.append((status.st_mtime_ns, Slot(key, int(name)), status.st_size))
        for _, slot, size in sorted(found):
            self._add(slot, size)

    def _add(self, slot: Slot, size: int) -> None:
        self._posts[slot] = size
        self._total += size
        self._count[slot.key] += 1
        self._bytes[slot.key] += size


def check_same_body(held: bytes, offered: bytes) -> None:
    """Return only when both posts have one body; raises Refused (`filled`): a slot is final."""
    if sha256_hex(split_post(held)[1]) != sha256_hex(split_post(offered)[1]):
        raise Refused("slot", expected="the bytes it has", got="other bytes", reason="filled")


def _full(what: str, most: int) -> EmbrasureError:
    return Unavailable("letterbox", expected=f"at most {most} {what}", got="more", reason="busy")
