"""The owner's maintenance windows: when an install may leave WAITING, and until when it waits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from embrasure import limits, weekly
from embrasure.bundle.manifest import Manifest
from embrasure.clock import write_time
from embrasure.errors import Misuse

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_UNITS = {"m": 60, "h": 3600, "d": 86400}


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[windows]]`: from `start` (wall clock of `zone`) for `length`, on each of `days`."""

    start: Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")]
    length: Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,3}[mhd]\Z")]
    days: tuple[Day, ...] = weekly.DAYS  # type: ignore[assignment]  # the same seven words
    zone: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}\Z")] = (
        "UTC"
    )

    def __post_init__(self) -> None:
        if not self.days or self.seconds > limits.WINDOW_SECONDS:
            raise ValueError("a window has a day and lasts at most 7 days")

    @property
    def seconds(self) -> int:
        """How long it is open."""
        number, unit = re.fullmatch(r"([0-9]+)([mhd])", self.length).groups()  # type: ignore[union-attr]  # by its pattern
        return int(number) * _UNITS[unit]

    def weekly(self) -> weekly.Weekly:
        """Return it as the calendar reads it."""
        return weekly.Weekly(
            days=frozenset(weekly.DAYS.index(day) for day in self.days),
            start=time.fromisoformat(self.start),
            length=timedelta(seconds=self.seconds),
            zone=self.zone,
        )


Windows = Annotated[tuple[Window, ...], Meta(max_length=limits.OWNER_WINDOWS)]


@dataclass(frozen=True, slots=True)
class Pause:
    """Why an install waits. reason: "" when it does not, else a word; until: Unix seconds, 0 when
    nobody knows; kind: `hold` when a person must act.
    """

    reason: str = ""
    detail: str = ""
    until: int = 0
    kind: Literal["wait", "hold"] = "wait"


def needed_seconds(manifest: Manifest, soak_s: int) -> int:
    """Return how long an install takes at most from WAITING to its commit, by its own time-outs."""
    hooks = sum(hook.timeout_s for hook in manifest.hooks if hook.point != "revert")
    starts = max((probe.start_s for probe in manifest.probes), default=0)
    return hooks + limits.STOP_SECONDS + starts + soak_s


def pause(windows: Sequence[Window], at: datetime, *, need_s: int) -> Pause:
    """Return why an install that needs `need_s` seconds may not begin at `at`.

    A zone that this machine does not know keeps the window shut: nobody can say when it opens.
    """
    try:
        found = weekly.opening([one.weekly() for one in windows], at, need_s=need_s)
    except Misuse as problem:
        return Pause("zone", f"a window of this node: {problem}", kind="hold")
    if found.state == "open":
        return Pause()
    if found.until is None:
        return Pause(
            "window_short",
            f"no window of this node is open for the {need_s} s that the release may need",
            kind="hold",
        )
    text = f"waits for a window with room for {need_s} s, which opens {write_time(found.until)}"
    return Pause("window", text, int(found.until.timestamp()))
