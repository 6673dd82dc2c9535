"""PROVISIONAL: a new release stays only if its word comes over a connection made after the switch.

A release that cuts the node off cannot get that word, so it undoes itself. The time that it has is
in the record: neither a crash nor a boot makes it longer than it was.
"""

from __future__ import annotations

from embrasure.errors import Failed
from embrasure.trust.canonical import sha256_hex
from node.deadline import armed, left_s, resumed
from node.migration import is_one_way
from node.states import Record, State
from node.transaction import To, Transaction

COMMIT = To(
    State.COMMITTED,
    {"ending": "committed", "reason": "", "confirm_by": None, "nonce_hash": ""},
)


def needs_word(record: Record) -> bool:
    """Return whether the new release stays only if it is confirmed."""
    return record.confirm != "none"


def provisional(tx: Transaction) -> To:
    """The word has come, or none is needed; raises Failed (`no-confirm`) when none came in time."""
    record = tx.record
    if not needs_word(record) or is_one_way(tx):
        return COMMIT
    by = resumed(record.confirm_by) if record.confirm_by else armed(tx.ground.confirm_s)
    with tx.ground.waits.waiting(record) as wait:
        # On disk before anybody can be told what to confirm with.
        tx.note(confirm_by=by, nonce_hash=sha256_hex(bytes.fromhex(wait.nonce)))
        tx.report.awaits(wait.note())
        tx.watch(tx.installed(record.to)).while_waiting(wait.word, lambda: left_s(by))
    if wait.word.is_set():
        return COMMIT
    raise Failed(
        f"install of {tx.app}", expected=f"a word of the {wait.by} over a new connection",
        got=f"none in {by.span_ms // 1000} s", reason="no-confirm",
    )  # fmt: skip
