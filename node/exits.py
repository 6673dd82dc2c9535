"""How the node's own verbs end: a finer table than the other verbs have, for scripts on a host."""

from __future__ import annotations

from collections.abc import Iterable

from embrasure.errors import Denied, EmbrasureError, NotFound, Refused, Unavailable
from node.messages import AnswerNote, StateNote

DONE, FAILED = 0, 1
REJECTED, TOO_OLD = 10, 11
ROLLED_BACK, DEGRADED = 20, 21
NO_SPACE, BUSY, WAITING = 30, 31, 32
DRIFT = 40
UNREACHABLE, NOT_RUNNING = 50, 51
MISSING, DAMAGED = 60, 61

_PLAIN = {
    REJECTED: 4, TOO_OLD: 4, ROLLED_BACK: 1, DEGRADED: 1, NO_SPACE: 1, DRIFT: 1, MISSING: 1,
    DAMAGED: 1, WAITING: 3, BUSY: 5, UNREACHABLE: 5, NOT_RUNNING: 5,
}  # fmt: skip
# Of several apps the one that needs a person most gives the code.
_WORST_FIRST = (
    FAILED, DAMAGED, DEGRADED, ROLLED_BACK, REJECTED, TOO_OLD, MISSING, NO_SPACE,
    UNREACHABLE, NOT_RUNNING, BUSY, WAITING, DONE,
)  # fmt: skip
_OLD = frozenset(
    {"stale", "replay", "rollback", "expired", "denied", "quarantine", "equivocation", "min_seq"}
)
_BY_REASON = {
    "busy": BUSY, "no-space": NO_SPACE, "agent-not-running": NOT_RUNNING, "fetch": UNREACHABLE,
    "no-secret": MISSING, "no-systemd": MISSING, "no-sandbox": MISSING, "not-root": MISSING,
    "no-user": MISSING, "open-keys": MISSING, "behind": WAITING, "turn": TOO_OLD,
    "serve-only": DAMAGED, "no-key": DAMAGED,
}  # fmt: skip


def plain(code: int) -> int:
    """Return the exit code of the common table that `code` refines."""
    return _PLAIN.get(code, code)


def exit_of(answer: AnswerNote) -> int:
    """Return the exit code that says what became of one app."""
    word = answer.reason.partition(":")[0]
    match answer.kind:
        case "committed" | "none" | "repaired":
            return DONE
        case "rolled_back" | "interrupted":
            return ROLLED_BACK
        case "degraded":
            return DEGRADED
        case "wait":
            return BUSY if word == "busy" else WAITING
        case "hold":
            return TOO_OLD if word in _OLD else WAITING
        case _:
            return _BY_REASON.get(word, TOO_OLD if word in _OLD else REJECTED)


def worst(answers: Iterable[AnswerNote]) -> int:
    """Return one exit code for several apps; 0 when there is none."""
    codes = {exit_of(answer) for answer in answers}
    return next((code for code in _WORST_FIRST if code in codes), DONE)


def exit_of_state(state: StateNote) -> int:
    """Return `DAMAGED` for a node that only serves, `DONE` for any other."""
    return DAMAGED if state.trouble else DONE


def exit_of_error(problem: EmbrasureError, *, is_plain: bool = False) -> int:
    """Return the exit code for an error of one of the node's own verbs."""
    return problem.exit_code if is_plain else _fine(problem)


def _fine(problem: EmbrasureError) -> int:
    if problem.reason in _BY_REASON:
        return _BY_REASON[problem.reason]
    if problem.reason in _OLD:
        return TOO_OLD
    if isinstance(problem, NotFound | Unavailable):
        return UNREACHABLE
    if isinstance(problem, Refused | Denied):
        return REJECTED
    return problem.exit_code
