"""Whom to dial next: pure. In waves, in bucket order, never more at once than the plan says."""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import groupby

from embrasure.trust.waves import bucket
from gateway.rollout import Member
from gateway.rows import Stored
from gateway.states import ALARMS, DIALLING, DONE, FAILURES

_OVER = DONE | FAILURES | ALARMS
# Not in service on this node: counted against `max_parallel` with those that are being dialled.
_UP = _OVER | {"checking"}
_BUSY = frozenset({"fetching", "staged", "activating", "interrupted"})


def due(
    stored: Stored, *, live: Container[str], after: Mapping[str, float], now: float
) -> list[str]:
    """Return the push nodes to dial now, canary first.

    live: nodes whose stream is open; after: node -> time before which it is left alone.
    A roll-out that succeeded still dials those who were away; a stopped one dials only nodes that
    are between two releases, to hear how it went.
    """
    found: list[str] = []
    state = stored.rollout.state
    opened = [m for m in stored.members if m.mode == "push" and m.wave <= stored.rollout.open_wave]
    opened.sort(key=lambda m: (m.wave, bucket(stored.plan, m.node)))
    for wave, members in groupby(opened, key=lambda member: member.wave):
        mine = list(members)
        taken = sum(m.state in _BUSY or (m.node in live and m.state not in _UP) for m in mine)
        free = stored.plan.waves[wave].max_parallel - taken
        for member in mine:
            if member.node in live or member.state in _OVER or after.get(member.node, 0) > now:
                continue
            if member.state in _BUSY or member.state == "checking":
                # It is counted already; its stream broke, or the gateway was started again.
                found.append(member.node)
            elif free > 0 and (state in DIALLING or state == "succeeded"):
                found.append(member.node)
                free -= 1
    return found


def pause_s(failures: int, *, first: float, most: float) -> float:
    """Return how long to leave a node alone after it was not reached `failures` times in a row."""
    return float(min(most, first * 2 ** min(max(failures - 1, 0), 16)))


def is_waiting(member: Member) -> bool:
    """Return whether this push node still has something to say."""
    return member.mode == "push" and member.state not in _OVER
