"""The last state before anything that runs is touched: staged, and waiting for its moment."""

from __future__ import annotations

from datetime import UTC, datetime

from embrasure import limits
from embrasure.clock import write_time
from embrasure.errors import Failed, shown
from node.releases import is_whole
from node.states import State
from node.transaction import To, Transaction, offer_of
from node.windows import Pause

_TRY_LATER = 75  # EX_TEMPFAIL: the app itself says "not now"


def waiting(tx: Transaction) -> To:
    """Gate, window and owner let it go on at this very moment, and the app has no objection."""
    record, at = tx.record, int(tx.ground.clock().timestamp())
    tx.waits = offer_of(tx).again()
    if not tx.waits.reason:
        tx.waits = _check_is_due(tx, at)
    if tx.waits.reason:
        return _wait(tx)
    if tx.is_resumed and not is_whole(tx.ground.paths, tx.app, record.to, deep=True):
        # It lay here for hours or days: every byte of it is looked at once more.
        raise Failed(record.to.id, expected="what was staged", got="other bytes", reason="bad-hash")
    ended = tx.hook(tx.installed(record.to), "check")
    if ended is not None and ended.code == _TRY_LATER:
        again = at + limits.CHECK_AGAIN_SECONDS
        tx.waits = Pause("check", f"its hook check says not now; again at {_time(again)}", again)
        return _wait(tx)
    if ended is not None and not ended.is_good:
        raise Failed("hook check", expected="yes", got="no", reason="hook")
    began = at if tx.is_resumed else record.began
    return To(State.PREPARING, {"reason": "", "detail": "", "retry_at": 0, "began": began})


def _wait(tx: Transaction) -> To:
    """It stays staged; the record says why, and until when."""
    waits = tx.waits
    reason = "check" if waits.reason == "check" else ""
    detail = shown(waits.detail, 380)
    return To(State.WAITING, {"reason": reason, "detail": detail, "retry_at": waits.until})


def _check_is_due(tx: Transaction, at: int) -> Pause:
    """The hook `check` is not asked again within a minute; a clock set back must not hold it."""
    record = tx.record
    if record.reason == "check" and 0 < record.retry_at - at <= limits.CHECK_AGAIN_SECONDS:
        return Pause("check", record.detail, record.retry_at)
    return Pause()


def _time(seconds: int) -> str:
    return write_time(datetime.fromtimestamp(seconds, tz=UTC))
