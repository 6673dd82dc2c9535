"""The states of one install, which may follow which, and the record that survives a power cut.

The next state is on disk before its first action (`journal.py`); what a stored state means after a
crash is `recover.py`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from embrasure import limits
from embrasure.errors import Failed
from embrasure.trust.documents import AppName, Count, Digest, Document, Positive
from node.deadline import Deadline, Hex16


class State(StrEnum):
    """Where an install stands."""

    IDLE = "idle"
    OFFERED = "offered"
    RESERVED = "reserved"
    FETCHING = "fetching"
    VERIFIED = "verified"
    STAGED = "staged"
    WAITING = "waiting"
    PREPARING = "preparing"
    QUIESCING = "quiescing"
    SWITCHING = "switching"
    STARTING = "starting"
    PROBING = "probing"
    PROVISIONAL = "provisional"  # soaked; waits for its confirmation, if it needs one
    COMMITTED = "committed"
    CLEANING = "cleaning"
    REJECTED = "rejected"
    ROLLING_BACK = "rolling_back"
    ROLLBACK_PROBING = "rollback_probing"
    ROLLED_BACK = "rolled_back"
    DEGRADED = "degraded"  # a person, or a later plan, is needed


_S = State
# Before PREPARING nothing that runs is touched: a bad end there is REJECTED.
HARMLESS = frozenset(
    {_S.OFFERED, _S.RESERVED, _S.FETCHING, _S.VERIFIED, _S.STAGED, _S.WAITING, _S.REJECTED}
)
# Between two releases: every one of these must end in COMMITTED, ROLLED_BACK or DEGRADED.
OPEN = frozenset(
    {_S.PREPARING, _S.QUIESCING, _S.SWITCHING, _S.STARTING, _S.PROBING, _S.PROVISIONAL}
)
BACK = frozenset({_S.ROLLING_BACK, _S.ROLLBACK_PROBING})
RESTING = frozenset({_S.IDLE, _S.DEGRADED})

NEXT: dict[State, frozenset[State]] = {
    _S.IDLE: frozenset({_S.OFFERED, _S.DEGRADED}),
    _S.DEGRADED: frozenset({_S.OFFERED, _S.IDLE}),  # a later plan; a repair
    _S.OFFERED: frozenset({_S.RESERVED, _S.REJECTED}),
    _S.RESERVED: frozenset({_S.FETCHING, _S.REJECTED}),
    _S.FETCHING: frozenset({_S.VERIFIED, _S.REJECTED}),
    _S.VERIFIED: frozenset({_S.STAGED, _S.REJECTED}),
    _S.STAGED: frozenset({_S.WAITING, _S.REJECTED}),
    _S.WAITING: frozenset({_S.PREPARING, _S.REJECTED}),
    _S.PREPARING: frozenset({_S.QUIESCING, _S.ROLLED_BACK, _S.ROLLING_BACK}),
    _S.QUIESCING: frozenset({_S.SWITCHING, _S.ROLLING_BACK}),
    _S.SWITCHING: frozenset({_S.STARTING, _S.ROLLING_BACK}),
    _S.STARTING: frozenset({_S.STARTING, _S.PROBING, _S.ROLLING_BACK}),
    _S.PROBING: frozenset({_S.STARTING, _S.PROVISIONAL, _S.ROLLING_BACK}),
    _S.PROVISIONAL: frozenset({_S.STARTING, _S.COMMITTED, _S.ROLLING_BACK}),
    _S.COMMITTED: frozenset({_S.CLEANING, _S.DEGRADED}),
    _S.ROLLING_BACK: frozenset({_S.ROLLING_BACK, _S.ROLLBACK_PROBING, _S.ROLLED_BACK, _S.DEGRADED}),
    _S.ROLLBACK_PROBING: frozenset({_S.ROLLING_BACK, _S.ROLLED_BACK, _S.DEGRADED}),
    _S.ROLLED_BACK: frozenset({_S.CLEANING}),
    _S.REJECTED: frozenset({_S.CLEANING}),
    _S.CLEANING: frozenset({_S.IDLE}),
}
# These only finish what is decided; the cap on transitions must never stop them.
_FINISHING = frozenset(
    {_S.COMMITTED, _S.CLEANING, _S.IDLE, _S.ROLLED_BACK, _S.REJECTED, _S.DEGRADED}
)

Word = Literal[
    "", "probe", "crash-loop", "hook", "start", "no-space", "trust", "fetch", "power", "no-target",
    "internal", "transitions", "turn", "bad-hash", "no-secret", "no-systemd", "check", "no-confirm",
    "late",
]  # fmt: skip
# Only these say that the content itself is bad; they burn one of the node's tries.
BURNS_A_TRY = frozenset({"probe", "crash-loop", "hook"})
Ending = Literal["", "committed", "rolled_back", "interrupted", "rejected", "degraded"]
# Whose word a new release needs to stay: nobody's, the gateway's, or a mirror's.
Confirm = Literal["none", "gateway", "mirror"]
ReleaseName = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,15}-[0-9a-f]{16}$")]


def ending_of(reason: str) -> Ending:
    """Return what to call the end of a way back: bad content, or what is no one's fault."""
    return "rolled_back" if reason in BURNS_A_TRY else "interrupted"


class Release(Document, frozen=True, kw_only=True):
    """An installed release: the name of its folder and what it is."""

    id: ReleaseName
    plan: Digest
    seq: Positive
    manifest: Digest
    wave: Annotated[int, Meta(ge=0, lt=limits.WAVES)]


def release_name(seq: int, manifest: str) -> str:
    """Return the name of the folder of a release."""
    return f"{seq}-{manifest[:16]}"


class Record(Document, frozen=True, kw_only=True):
    """One transaction of one app, as the journal holds it.

    back: the last committed release, None at a first install; back_denied: the policy of that time
    forbids it to run again if it is ever stopped. confirm: whose word `to` needs to stay;
    confirm_by: how long it waits for that; nonce_hash: SHA-256 of what that word must name.
    starts: how often `to` may still be started before it is committed. try_number: what `tries`
    becomes when this attempt fails. ending, reason, detail: how it came out and why; while it
    waits, what for, and `retry_at` until when. since, final: numbers of the last receipt before
    this transaction and of the last one about it. Times are Unix seconds. by: when this state must
    have ended, None for one that has no end of its own; records of version 1 did not know it.
    """

    v: Literal[1, 2]
    app: AppName
    tx: Hex16
    state: State
    transitions: Count
    starts: Count
    to: Release
    back: Release | None
    back_denied: bool
    attempt: Annotated[int, Meta(ge=1, le=limits.MAX_ATTEMPTS)]
    try_number: Positive
    gseq: Positive
    nonce: Hex16
    collect: Digest
    confirm: Confirm
    confirm_by: Deadline | None
    nonce_hash: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
    migrated: Literal["no", "started", "done"]
    began: Count
    boot: Hex16
    soaked_s: Count
    ending: Ending
    reason: Word
    detail: Annotated[str, Meta(max_length=400)]
    interruptions: Count
    retry_at: Count
    since: Count
    final: Count
    by: Deadline | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        # Each version has one form only: a version 1 reads back as the bytes that it was.
        if (self.v == 1) != (self.by is UNSET):
            raise ValueError("a record of version 2 has `by`, one of version 1 has none")


# Kept for the way back, so that reaching the cap on the way forward leaves room to return.


def advance(record: Record, to: State, **changes: object) -> Record:
    """Return the record of the next state; raises Failed for a step that the table does not have.

    Its deadline is the caller's to arm. A transaction has `limits.TRANSITIONS` steps, the last
    `STEPS_BACK` of them for the way back only; then it can only end: that way, or DEGRADED. A loop
    of crashes cannot keep a node between two releases for ever.
    """
    if to not in NEXT[record.state]:
        raise Failed(
            f"install of {record.app}", expected=f"a state after {record.state}", got=to,
            reason="internal",
        )  # fmt: skip
    cap = limits.TRANSITIONS if to in BACK else limits.TRANSITIONS - limits.STEPS_BACK
    if record.transitions >= cap and to not in _FINISHING:
        ended = _end_of(record)
        if ended != to:
            to, changes = ended, {**changes, "reason": record.reason or "transitions"}
    return msgspec.structs.replace(
        record,
        **{"v": 2, "by": None, **changes, "state": to, "transitions": record.transitions + 1},
    )


def _end_of(record: Record) -> State:
    """Where a transaction that has used up its steps goes."""
    if record.state in HARMLESS:
        return State.REJECTED
    return State.DEGRADED if record.state in BACK else State.ROLLING_BACK
