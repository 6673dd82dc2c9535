"""Wall-clock time as the signed documents write it, and the seam through which tests set it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def now() -> datetime:
    """Return the time now, in UTC, whole seconds (signed documents carry no fractions)."""
    return datetime.now(UTC).replace(microsecond=0)


def write_time(moment: datetime) -> str:
    """Return `moment` as `YYYY-MM-DDTHH:MM:SSZ`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_time(text: str) -> datetime:
    """Return the moment that `write_time` wrote; raises ValueError for any other form."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    if write_time(moment) != text:
        raise ValueError("not the one form of a time")
    return moment
