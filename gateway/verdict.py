"""How a roll-out ended, in one honest line and one exit code; nothing is merged that differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.rollout import Rollout
from gateway.states import ALARMS, AWAY, ENDED, FAILURES, IN_FLIGHT

# Shown in this order behind "partial".
_NOT_DONE = (*sorted(FAILURES), *sorted(ALARMS), *sorted(AWAY), *sorted(IN_FLIGHT))
STOPPED = frozenset({"halted"})  # no end state, but whoever follows is told


@dataclass(frozen=True, slots=True)
class Ending:
    """The line, and the exit code of a verb that follows the roll-out."""

    line: str
    exit: int


def is_settled(rollout: Rollout) -> bool:
    """Return whether somebody who follows this roll-out should stop waiting."""
    return rollout.state in ENDED | STOPPED


def ending(rollout: Rollout, found: Mapping[str, int]) -> Ending:
    """Return the verdict on `rollout` as it stands. found: state -> members that are in it."""
    rest = [f"{found[state]} {state}" for state in _NOT_DONE if found.get(state)]
    healthy = found.get("healthy", 0)
    if rollout.state == "succeeded":
        if not rest:
            return Ending(f"succeeded: seq {rollout.seq} healthy on {healthy} nodes", 0)
        return Ending(f"succeeded, partial: {healthy} healthy, {', '.join(rest)}", 6)
    why = f" ({rollout.reason})" if rollout.reason else ""
    if rollout.state == "rolled_back" and not healthy + found.get("checking", 0):
        return Ending(f"rolled back: seq {rollout.seq} runs nowhere{why}", 1)
    if rollout.state in ("halted", "failed", "aborted", "rolled_back"):
        told = f"{healthy} healthy" + "".join(f", {item}" for item in rest)
        return Ending(f"{rollout.state}{why}: {told}", 1)
    if rollout.state == "superseded":
        return Ending(f"superseded: {rollout.reason}", 1)
    return Ending(f"{rollout.state}{why}: {healthy} of {sum(found.values())} healthy", 5)
