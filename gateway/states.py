"""The states of roll-outs, nodes and waves, and which may follow which: tables, no code.

An illegal move raises, so an unknown word in the database stops that roll-out and no other.
"""

from __future__ import annotations

from collections.abc import Mapping

from embrasure.errors import Damaged

Table = Mapping[str, frozenset[str]]


def _table(**rows: str) -> Table:
    return {name: frozenset(row.split()) for name, row in rows.items()}


# `soaking` may become `blocked`: what blocks is often found only when the next gate is due.
ROLLOUT: Table = _table(
    pending="running aborted",
    running="soaking blocked paused halted rolling_back",
    soaking="running succeeded blocked paused halted rolling_back",
    blocked="running paused halted rolling_back superseded",
    paused="running soaking rolling_back superseded",
    halted="running rolling_back failed superseded",
    # A higher seq ends an abort that waits for a silent node: its gate is halted for good.
    rolling_back="rolled_back failed superseded",
    succeeded="",
    rolled_back="",
    aborted="",
    failed="",
    superseded="",
)
ENDED = frozenset(name for name, row in ROLLOUT.items() if not row)
OPEN = frozenset(ROLLOUT) - ENDED
REPLACEABLE = frozenset(name for name, row in ROLLOUT.items() if "superseded" in row)
DIALLING = frozenset({"running", "soaking", "blocked"})  # new installs may begin

WAVE: Table = _table(
    waiting="open", open="soaking failed", soaking="open passed failed", failed="open", passed=""
)

# Where a node stands. A node that was away may come back with any word.
MOVING = frozenset({"pending", "fetching", "staged", "activating", "interrupted"})
SWITCHING = frozenset({"staged", "activating", "checking", "interrupted"})
IN_FLIGHT = MOVING | {"checking"}
AWAY = frozenset({"unreachable", "deferred", "held"})
DONE = frozenset({"healthy"})
FAILURES = frozenset({"rolled_back", "failed", "quarantined"})
ALARMS = frozenset({"refused", "drifted"})
NODE_STATES = IN_FLIGHT | AWAY | DONE | FAILURES | ALARMS

_ANY = " ".join(sorted(NODE_STATES))
NODE: Table = _table(
    pending=_ANY,
    fetching=_ANY,
    staged=_ANY,
    activating=_ANY,
    interrupted=_ANY,
    unreachable=_ANY,
    deferred=_ANY,
    held=_ANY,
    # The probes passed once: from here it commits, or says why not.
    checking=_ANY,
    # Committed. What it says of this plan afterwards contradicts its own receipt.
    healthy="drifted",
    # Only a retry (a higher attempt) tries again; late words about this attempt change the reason.
    rolled_back="pending failed quarantined drifted",
    failed="pending rolled_back drifted",
    quarantined="pending drifted",
    refused="pending checking healthy rolled_back failed drifted",
    drifted="pending checking healthy",
)


def check_move(table: Table, *, old: str, new: str, what: str) -> None:
    """Return only when `new` may follow `old` (or is the same); raises Damaged."""
    if old not in table or new not in table:
        raise Damaged(what, expected="a known state", got=f"{old} to {new}", reason="state")
    if new != old and new not in table[old]:
        raise Damaged(
            what, expected=f"one of {sorted(table[old])} after {old}", got=new, reason="state"
        )
