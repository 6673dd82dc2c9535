"""A node without its agent keeps no release that was not committed.

The agent is started again as often as it ends; this is for the case that it cannot start.
"""

from __future__ import annotations

from dataclasses import dataclass

from embrasure.errors import Unavailable
from node.apply_main import opened
from node.deadline import left_s
from node.journal import Journal
from node.paths import Paths
from node.states import BACK, OPEN, Record, State


@dataclass(frozen=True, slots=True)
class Undone:
    """What was done. undone: apps whose open install is over; left: those that still have time."""

    is_running: bool = False
    undone: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return the body of `embrasure.node.recover/1`."""
        return {
            "agent": "running" if self.is_running else "not running",
            "undone": list(self.undone),
            "left": list(self.left),
            "degraded": list(self.degraded),
        }

    def text(self) -> str:
        """Return it as a person reads it."""
        if self.is_running:
            return "the agent runs: it does that itself"
        lines = [f"{app}: back to the release before" for app in self.undone]
        lines += [f"{app}: needs a person" for app in self.degraded]
        lines += [f"{app}: left to the agent, which may still come back" for app in self.left]
        return "\n".join(lines) or "no install is open"


def is_open(record: Record | None) -> bool:
    """Return whether this install is between two releases."""
    return record is not None and record.state in OPEN | BACK


def has_time(record: Record) -> bool:
    """Return whether its agent could still come back and hear that it may stay."""
    by = record.confirm_by
    return record.state is State.PROVISIONAL and by is not None and left_s(by) > 0


def undo(paths: Paths) -> Undone:
    """Return what was undone of what a dead agent left open; nothing when one runs."""
    journal = Journal(paths)
    # A kill between the two renames of a record leaves the one before it alone.
    found = {one.app: one for one in journal.records() if is_open(one)}
    left = tuple(app for app, record in found.items() if has_time(record))
    ours = [app for app in found if app not in left]
    if not ours:
        return Undone(left=left)
    try:
        with opened(paths) as acceptor:
            ends = {app: acceptor.go_back(app) for app in ours}
    except Unavailable as problem:
        if problem.reason != "busy":
            raise
        return Undone(is_running=True)
    lost = tuple(app for app, state in ends.items() if state is State.DEGRADED)
    undone = tuple(app for app in ours if app not in lost)
    return Undone(undone=undone, left=left, degraded=lost)
