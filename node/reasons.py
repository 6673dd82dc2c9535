"""Why an install came out badly, as its record and its receipts say it: closed words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from embrasure.errors import EmbrasureError, shown
from embrasure.trust.receipt import Reason
from node.output import cleaned
from node.states import HARMLESS, State, Word

REASONS: Mapping[str, Reason] = MappingProxyType(
    {
        "": Reason.NONE,
        "probe": Reason.PROBE,
        "crash-loop": Reason.CRASH_LOOP,
        "hook": Reason.HOOK,
        "start": Reason.START,
        "no-space": Reason.NO_SPACE,
        "trust": Reason.TRUST,
        "fetch": Reason.FETCH,
        "bad-hash": Reason.FETCH,
        "power": Reason.POWER,
        "no-target": Reason.NO_TARGET,
        "no-secret": Reason.NO_SECRET,
        "no-systemd": Reason.START,
        "no-confirm": Reason.NO_CONFIRM,
        "late": Reason.LATE,
    }
)
_FORGED = frozenset({"bad-hash", "limit"})


def explain(problem: Exception, state: State) -> dict[str, str]:
    """Return reason and detail of a bad end, as the record keeps them."""
    reason: Word = "internal"
    word = problem.reason if isinstance(problem, EmbrasureError) else ""
    known: tuple[Word, ...] = (
        "probe",
        "crash-loop",
        "hook",
        "start",
        "no-space",
        "no-target",
        "no-secret",
        "no-systemd",
        "no-confirm",
        "late",
        "turn",
    )
    for name in known:
        if word == name:
            reason = name
    if word in _FORGED and state is State.FETCHING:
        reason = "bad-hash"  # a source gave other bytes than were signed: an attack, or a fault
    elif reason in ("internal", "late") and (state is State.FETCHING or word == "bad-hash"):
        reason = "fetch"  # also a blob that rotted on this disk: it is fetched again
    elif reason == "internal" and state in HARMLESS and word:
        reason = "trust"
    text = cleaned(shown(str(problem), 300).encode(), limit=380).replace("\n", " ")
    return {"reason": reason, "detail": text or type(problem).__name__}
