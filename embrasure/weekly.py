"""Hours of a week in a time zone: whether they are open now, long enough, and when they open next.

A window begins at a wall-clock time of its zone and lasts real minutes. A start that a jump of the
clock skips is the moment which the old offset gives it; one that comes twice counts once, the first
time. Windows that touch or overlap are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo

from embrasure import limits
from embrasure.errors import Misuse

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_AHEAD = timedelta(days=15)  # two of every weekday


@dataclass(frozen=True, slots=True)
class Weekly:
    """One window. days: as in `datetime.weekday`; start: wall clock; zone: an IANA name."""

    days: frozenset[int]
    start: time
    length: timedelta
    zone: str


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether there is room now. until: the next moment at which there is, None when never.

    state: `short` when no window is ever long enough.
    """

    state: Literal["open", "shut", "short"]
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` on, before `end`; both in UTC."""

    start: datetime
    end: datetime


def zone_of(name: str) -> tzinfo:
    """Return the time zone; raises Misuse (`zone`) for one that this machine does not know."""
    if name == "UTC":
        return UTC  # needs no database
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # unknown; unreadable; no zone
        raise Misuse(
            "time zone", expected="a name of the IANA database of this machine", got=name,
            hint="such as Europe/Berlin; the package is tzdata", reason="zone",
        ) from None  # fmt: skip


def opening(windows: Sequence[Weekly], at: datetime, *, need_s: float) -> Opening:
    """Return whether `need_s` seconds from `at` on lie within the windows; none means always.

    Raises Misuse (`zone`).
    """
    if not windows:
        return Opening("open")
    need = timedelta(seconds=need_s)
    later = [span for span in spans(windows, at) if span.end - max(span.start, at) >= need]
    if not later:
        return Opening("short")
    first = later[0]
    return Opening("open") if first.start <= at else Opening("shut", first.start)


def spans(windows: Sequence[Weekly], at: datetime) -> list[Span]:
    """Return the open times around and after `at`, in order, none touching the next."""
    found = sorted(
        (span for window in windows for span in _spans(window, at) if span.end > at),
        key=lambda span: span.start,
    )
    merged: list[Span] = []
    for span in found:
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def _spans(window: Weekly, at: datetime) -> list[Span]:
    zone = zone_of(window.zone)
    back = timedelta(seconds=limits.WINDOW_SECONDS) + timedelta(days=1)
    day: date = (at - back).astimezone(zone).date()
    last = (at + _AHEAD).astimezone(zone).date()
    found = []
    while day <= last:
        if day.weekday() in window.days:
            start = datetime.combine(day, window.start, tzinfo=zone).astimezone(UTC)
            found.append(Span(start, start + window.length))
        day += timedelta(days=1)
    return found
