"""Time that is left, kept across crashes and boots.

Within one boot CLOCK_BOOTTIME counts, which no one sets and which runs on while a machine sleeps.
It begins anew at every boot, so after one the time that was left when the record was last stored
counts again: at least 30 s, for a booting machine is slow, and never more than in the beginning.
A wall clock has no say, whatever it shows.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from embrasure import kernel, limits
from embrasure.errors import Unavailable
from embrasure.trust.documents import Count, Document, Positive

Hex16 = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_BOOT_ID_BYTES = 64


class Deadline(Document, frozen=True, kw_only=True):
    """A time-out as a record holds it, in milliseconds.

    span_ms: what it was armed with. until_ms: its end on CLOCK_BOOTTIME, in the boot `boot`.
    left_ms: what was left of it when the record was stored.
    """

    boot: Hex16
    span_ms: Positive
    left_ms: Count
    until_ms: Count


class Late(Unavailable):
    """The time of a state as a whole is over. No one's fault: nothing is burnt."""

    default_reason = "late"


def boot_id() -> str:
    """Return the id of this boot, 32 hex digits; zeros where the kernel has none."""
    try:
        said = kernel.shown(str(_BOOT_ID), most=_BOOT_ID_BYTES)  # each state asks more than once
        return said.decode("ascii").strip().replace("-", "")
    except OSError:
        return "0" * 32


def uptime_ms() -> int:
    """Return CLOCK_BOOTTIME: milliseconds since the machine started, asleep or not."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def armed(seconds: float) -> Deadline:
    """Return a deadline that ends so many seconds from now."""
    span = max(1, int(seconds * 1000))
    return Deadline(boot=boot_id(), span_ms=span, left_ms=span, until_ms=uptime_ms() + span)


def left_s(deadline: Deadline) -> float:
    """Return the seconds that are left, 0 when it is over."""
    return _left_ms(deadline) / 1000


def is_over(deadline: Deadline) -> bool:
    """Return whether a deadline of this boot (`armed`, `kept`) has ended: one look at the clock."""
    return uptime_ms() >= deadline.until_ms


def _left_ms(deadline: Deadline) -> int:
    if deadline.boot == boot_id():
        # Never more than it began with, whatever became of the clock (a moved container).
        return max(0, min(deadline.span_ms, deadline.until_ms - uptime_ms()))
    return _again_ms(deadline)


def kept(deadline: Deadline) -> Deadline:
    """Return the same deadline as it is stored now, with what is left; armed again after a boot."""
    left = _left_ms(deadline)
    if deadline.boot == boot_id():
        return msgspec.structs.replace(deadline, left_ms=left)
    return _from_now(deadline, left)


def resumed(deadline: Deadline) -> Deadline:
    """Return the deadline armed again with what was left when it was kept, and 30 s at least.

    For what a restart has to do over again before it can wait on: that takes none of its time.
    """
    return _from_now(deadline, _again_ms(deadline))


def _again_ms(deadline: Deadline) -> int:
    return min(deadline.span_ms, max(deadline.left_ms, limits.REARM_SECONDS * 1000))


def _from_now(deadline: Deadline, left: int) -> Deadline:
    return Deadline(
        boot=boot_id(), span_ms=deadline.span_ms, left_ms=left, until_ms=uptime_ms() + left
    )
