"""How long each state of an install may take as a whole: what its own time-outs make, and a bound.

A release whose own time-outs need more than a state may have is refused before anything of it is
fetched: it could never be installed, and would be tried again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embrasure import limits
from embrasure.bundle.manifest import Manifest, Probe, SystemdProbe
from embrasure.errors import Refused
from node.states import State

# One deadline for both: the second state only ends what the first one began.
_SHARED = (
    frozenset({State.OFFERED, State.RESERVED}),
    frozenset({State.VERIFIED, State.STAGED}),
    frozenset({State.ROLLING_BACK, State.ROLLBACK_PROBING}),
)


@dataclass(frozen=True, slots=True)
class Content:
    """What a release says of its own time: its manifest, and the soak of this node's wave."""

    manifest: Manifest
    soak_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What the owner allows and the two releases ask for; None: cannot be read, the most counts."""

    fetch_s: float
    build_s: float
    to: Content | None
    back: Content | None


def is_shared(before: State, after: State) -> bool:
    """Return whether the second state lives on the time of the first."""
    return any(before in both and after in both for both in _SHARED)


def span_s(state: State, allowed: Allowed) -> float | None:
    """Return how long `state` may take, None where it has no end of its own.

    At rest there is none. PROVISIONAL has `confirm_by`. What only tells of an end that is decided
    already (REJECTED, ROLLED_BACK) must never be cut short.
    """
    to, back = allowed.to, allowed.back
    known = {
        State.OFFERED: limits.OFFER_SECONDS,
        State.RESERVED: limits.OFFER_SECONDS,
        State.FETCHING: allowed.fetch_s,
        State.VERIFIED: allowed.build_s,
        State.STAGED: allowed.build_s,
        # Of one look: every byte that was staged is hashed once more.
        State.WAITING: allowed.build_s + _hook_s(to, "check") + limits.SLACK_SECONDS,
        State.PREPARING: _hook_s(to, "prepare") + limits.SLACK_SECONDS,
        State.QUIESCING: _hook_s(to, "migrate") + _units_s(back) + limits.SLACK_SECONDS,
        State.SWITCHING: limits.SWITCH_SECONDS,
        State.STARTING: limits.START_STATE_SECONDS + _units_s(to),
        State.PROBING: _probing_s(to) + _soak_s(to) + limits.SLACK_SECONDS,
        State.COMMITTED: _hook_s(to, "finish") + limits.SLACK_SECONDS,
        State.CLEANING: limits.CLEANING_SECONDS,
    }
    # Every byte of the old release is hashed before it is linked again.
    way_back = allowed.build_s + _hook_s(to, "revert") + limits.SLACK_SECONDS
    start = limits.START_STATE_SECONDS + _units_s(to) + _units_s(back)
    way_back += limits.STARTS * (start + _probing_s(back))
    known |= dict.fromkeys((State.ROLLING_BACK, State.ROLLBACK_PROBING), way_back)
    return known.get(state)


def check_spans(manifest: Manifest) -> None:
    """Return only when every state of its install can end in time; raises Refused (`limit`)."""
    needed = needed_s(manifest.probes)
    if needed > limits.PROBING_SECONDS:
        raise Refused(
            f"release of {manifest.app}",
            expected=f"probes that pass within {limits.PROBING_SECONDS} s",
            got=f"start times, time-outs and intervals that make {needed} s",
            untouched="the release that runs", hint="fewer passes, or shorter intervals",
            reason="limit",
        )  # fmt: skip


def needed_s(probes: Sequence[Probe]) -> int:
    """Return how long probes may take that pass in the end, by their own time-outs.

    After its start time a probe must not fail any more. One is asked at a time, so each waits for
    all others; intervals pass side by side.
    """
    start = max((probe.start_s for probe in probes), default=0)
    asked = sum((probe.passes + 1) * probe.timeout_ms for probe in probes)
    pauses = max((probe.passes * probe.interval_ms for probe in probes), default=0)
    return start + -(-(asked + pauses) // 1000)


def _hook_s(content: Content | None, point: str) -> int:
    if content is None:
        return limits.HOOK_SECONDS
    return sum(hook.timeout_s for hook in content.manifest.hooks if hook.point == point)


def _units_s(content: Content | None) -> int:
    """Return what the units of systemd take that start and stop with the app."""
    probes = () if content is None else content.manifest.probes
    count = sum(isinstance(probe, SystemdProbe) for probe in probes)
    return limits.UNIT_SECONDS * (limits.PROBES if content is None else count)


def _probing_s(content: Content | None) -> int:
    needed = limits.PROBING_SECONDS if content is None else needed_s(content.manifest.probes)
    return min(needed, limits.PROBING_SECONDS)


def _soak_s(content: Content | None) -> int:
    return limits.SOAK_SECONDS if content is None else content.soak_s
