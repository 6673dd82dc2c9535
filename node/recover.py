"""What a stored state means after a crash: a pure function, the same at every start.

Nothing is looked at but the record, where `current` points, which releases are whole, what was
committed and what is denied. Doing what it says twice is doing it once: the second time it sees the
end of the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from node.states import BACK, HARMLESS, OPEN, Record, Release, State


class Act(StrEnum):
    """What recovery does first."""

    NOTHING = "nothing"  # rest; `link` is started if there is one
    DISCARD = "discard"  # nothing that runs was touched: drop staging, forget the attempt
    FINISH = "finish"  # committed or rolled back already: say so and clean up
    AGAIN = "again"  # the new release is linked and has starts left: start and probe it
    BACK = "back"  # go back to the last committed release
    HEALED = "healed"  # what was committed is whole again: it runs, and nothing is wrong any more
    STRANDED = "stranded"  # nothing here can run: a person, or a later plan, is needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is on disk. current: the release that the link names, None when absent or dangling.

    whole: names of complete release folders. committed, previous: from the floors. denied: of those
    that could take the place of a lost one, what must not run anew. is_late: the time of the
    record's state is over; in PROVISIONAL that in which a word had to come.
    """

    record: Record | None
    damaged: bool
    current: str | None
    whole: frozenset[str]
    committed: str | None
    previous: str | None
    denied: frozenset[str] = frozenset()
    is_late: bool = False

    def may_run(self, name: str | None) -> bool:
        """Return whether the release is whole, and not denied if it is to be linked anew.

        A denial stops what would be installed, never what was committed or runs.
        """
        if name is None or name not in self.whole:
            return False
        return name in (self.committed, self.current) or name not in self.denied


@dataclass(frozen=True, slots=True)
class Recovery:
    """The first act; `link`: what `current` must name first, None to leave it or have none.

    reason: why an attempt ends, a word of `states`.
    """

    act: Act
    link: str | None = None
    reason: str = ""


def recover(found: Found) -> Recovery:
    """Return how the node comes to rest, or goes on, from what a crash left behind."""
    record = found.record
    if record is None:
        return _rest(found)
    if record.state in HARMLESS:
        return Recovery(Act.DISCARD, _way_back(found, record.back))
    if record.state in OPEN:
        return _open(found, record)
    if record.state in BACK:
        return Recovery(Act.BACK, reason=record.reason or "power")
    if record.state is State.COMMITTED:
        if record.to.id in found.whole:
            return Recovery(Act.FINISH, record.to.id)
        # Its disk was destroyed after the commit: that is never told as a success.
        back = record.back if record.migrated == "no" else None
        return Recovery(Act.STRANDED, _way_back(found, back))
    if record.state in (State.ROLLED_BACK, State.CLEANING):
        return Recovery(Act.FINISH, _rest(found).link)
    if record.state is State.DEGRADED:
        if record.to.id == found.committed and record.to.id in found.whole:
            # It was committed, and a disk that could not be read is well again.
            return Recovery(Act.HEALED, record.to.id)
        # Why it was left so is a person's matter; what is linked and whole is started again.
        link = found.current if found.current in found.whole else None
        return Recovery(Act.STRANDED, link)
    return _rest(found)


def _open(found: Found, record: Record) -> Recovery:
    """Between PREPARING and PROVISIONAL: forward only with the new release linked and whole."""
    is_new = found.current == record.to.id and record.to.id in found.whole
    switched = record.state not in (State.PREPARING, State.QUIESCING)
    if not (is_new and switched):
        # A lost switch is never done again: the order that asked for it is long gone.
        return Recovery(Act.BACK, reason="power")
    if found.is_late:
        # What would have ended it then ends it now: nobody was there to do it.
        is_unconfirmed = record.state is State.PROVISIONAL
        return Recovery(Act.BACK, reason="no-confirm" if is_unconfirmed else "late")
    if record.starts > 1:
        return Recovery(Act.AGAIN, record.to.id)
    # Once it was told healthy it is untouched by blame; else it never once passed its probes.
    was_well = record.state is State.PROVISIONAL or record.final > record.since
    return Recovery(Act.BACK, reason="power" if was_well else "crash-loop")


def _way_back(found: Found, back: Release | None) -> str | None:
    if back is not None and found.may_run(back.id):
        return back.id
    return _rest(found).link


def _rest(found: Found) -> Recovery:
    """No transaction: `current` is the last committed release that is whole.

    The one before it only when the data are still its own.
    """
    record = found.record
    has_changed = record is not None and record.migrated != "no" and record.to.id == found.committed
    for name in (found.committed, None if has_changed else found.previous):
        if found.may_run(name):
            return Recovery(Act.NOTHING, name)
    # Lost floors stop new installs, never what is linked and whole.
    if found.current in found.whole and not (has_changed and found.current == found.previous):
        return Recovery(Act.NOTHING, found.current)
    if found.committed is None and not found.damaged:
        return Recovery(Act.NOTHING)
    return Recovery(Act.STRANDED)
