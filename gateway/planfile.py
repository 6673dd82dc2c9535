"""The plan file: the few lines in which an operator says what to roll out, and how carefully."""

from __future__ import annotations

import re

import msgspec

from embrasure import limits
from embrasure.errors import Misuse, NotSupported

DEADLINE_S = 600  # without any change in the wave
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class WaveRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wave as a person writes it; what is left out gets the default."""

    name: str
    percent: int
    soak_s: int | None = None
    max_parallel: int | None = None
    deadline_s: int | None = None
    match: dict[str, str] = msgspec.field(default_factory=dict)


class PlanFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The plan file (TOML). Durations are seconds or text such as "24h"."""

    app: str
    env: str
    title: str = ""
    comment: str = ""
    canary: tuple[str, ...] = ()
    canary_count: int | None = None
    canary_soak_s: int | None = None
    waves: tuple[WaveRequest, ...] = ()
    soak_s: int | None = None
    deadline_s: int = DEADLINE_S
    max_parallel: int | None = None
    approve_in: int | str | None = None
    start_in: int | str | None = None
    max_failed: int = 0
    max_failed_pct: int = 5
    min_reached_pct: int = 90
    max_attempts: int = limits.MAX_ATTEMPTS
    scope: str = "node"
    on_no_target: str = "stop"
    settings: dict[str, str] = msgspec.field(default_factory=dict)
    # Known words without a rule yet: refused by name, never ignored.
    fallback: object = None
    after: object = None
    windows: object = None
    overrides_freeze: object = None


def check_supported(request: PlanFile) -> None:
    """Return only when the file asks for nothing that has no rule yet; raises NotSupported."""
    asked = {
        "fallback": request.fallback,
        "after": request.after,
        "windows": request.windows,
        "overrides_freeze": request.overrides_freeze,
        'scope = "all"': request.scope == "all",
    }
    for name, value in asked.items():
        if value:
            raise NotSupported(
                "plan file",
                expected=f"no `{name}`",
                got="a value",
                hint=f"this version of embrasure has no rule for `{name}` and never ignores one",
            )
    if request.scope != "node":
        raise Misuse("plan file", expected='scope = "node"', got=request.scope)


def seconds(value: int | str, field: str) -> int:
    """Return a duration in seconds: 90, "90s", "15m", "24h", "3d"; raises Misuse."""
    if isinstance(value, bool) or (isinstance(value, int) and value <= 0):
        raise Misuse(f"plan file, {field}", expected="a duration above zero", got=value)
    if isinstance(value, int):
        return value
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", value)
    if found is None:
        raise Misuse(f"plan file, {field}", expected='seconds, or text such as "24h"', got=value)
    return int(found[1]) * _UNITS[found[2]]
