"""The owner's hold: no new install of an app, or no order at all, for a while that always ends.

A file in the owner's folder, which the node only reads: nothing from the network can hold a node or
let it go. A hold stops installs; what runs, the way back and the metadata door go on.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from logging import getLogger
from typing import Annotated, Literal

from msgspec import Meta

from embrasure import clock, limits
from embrasure.clock import write_time
from embrasure.errors import EmbrasureError, Misuse, NotFound, shown
from embrasure.fs import lock, read_file, replace_file
from embrasure.trust.documents import Count, Document, Positive, read, write
from embrasure.trust.floors import FloorStore
from node.config import app_names
from node.paths import Paths

LOG = getLogger(__name__)
LOCK = "holds"
NODE = ""  # the hold that is a maintenance window: of the node, of no app
_DAMAGED = "holds.json cannot be read: nothing is installed (embrasure node unhold)"


class Hold(Document, frozen=True, kw_only=True):
    """No install of `app` from `since` to `until` (Unix seconds), and why."""

    app: Annotated[str, Meta(pattern=r"^([a-z][a-z0-9-]{0,47})?$")]
    since: Count
    until: Positive
    reason: Annotated[str, Meta(min_length=1, max_length=limits.HOLD_CHARACTERS)]

    @property
    def end(self) -> int:
        """When it ends, whatever was written: never later than the longest hold."""
        return min(self.until, self.since + limits.HOLD_SECONDS)

    def told(self) -> str:
        """Return what a person reads of it."""
        until = write_time(datetime.fromtimestamp(self.end, tz=UTC))
        return f"held until {until}: {shown(self.reason)}"


class Holds(Document, frozen=True, kw_only=True):
    """Every hold of a node, each app once."""

    v: Literal[1]
    holds: Annotated[tuple[Hold, ...], Meta(max_length=limits.HOLDS)]


def moment(paths: Paths) -> datetime:
    """Return the time now: the clock's, or the newest that verified files told, if it is later."""
    now = clock.now()
    try:
        told = FloorStore(paths.floors).load(repair=False).time
    except EmbrasureError:
        return now
    return max(now, datetime.fromtimestamp(told, tz=UTC))


def is_written(paths: Paths) -> bool:
    """Return whether there are holds, or what nobody can look at in their place."""
    try:
        os.lstat(paths.holds)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def load(paths: Paths) -> tuple[Hold, ...]:
    """Return what was written, ended holds too; raises Denied, Refused for what cannot be read."""
    if not is_written(paths):
        return ()  # every look asks, and an error costs more than a look
    try:
        raw = read_file(paths.holds, limit=limits.HOLDS_BYTES, unshared=True)
    except NotFound:
        return ()
    return read(raw, Holds, limit=limits.HOLDS_BYTES, document=paths.holds.name).holds


def held(paths: Paths, app: str, at: datetime) -> str:
    """Return why and until when `app` is held at `at`, "" when it is not.

    A file that cannot be read holds everything: who wrote it wanted some hold.
    """
    try:
        found = load(paths)
    except EmbrasureError as problem:
        LOG.warning("%s [%s]", problem, problem.word)
        return _DAMAGED
    live = (one for one in found if one.app == app and at.timestamp() < one.end)
    return next((one.told() for one in live), "")


def ends(paths: Paths, app: str, at: datetime) -> int:
    """Return when the hold of `app` ends (Unix seconds), 0 when nobody can say."""
    try:
        found = load(paths)
    except EmbrasureError:
        return 0
    return max((one.end for one in found if one.app == app and at.timestamp() < one.end), default=0)


def put(paths: Paths, app: str, *, seconds: float, reason: str) -> Hold:
    """Return the hold that is in force from now on, in place of an earlier one; raises Misuse."""
    at = moment(paths)
    if not 1 <= seconds <= limits.HOLD_SECONDS:
        raise Misuse(
            "--for", expected=f"1 s to {limits.HOLD_SECONDS // 86400} days", got=f"{seconds:g} s",
            hint="a hold always ends; hold again before it does", reason="limit",
        )  # fmt: skip
    if not 1 <= len(reason) <= limits.HOLD_CHARACTERS or not reason.isprintable():
        raise Misuse(
            "--reason",
            expected=f"1 to {limits.HOLD_CHARACTERS} printable characters",
            got=reason,
            hint="say in one line why: who reads the status must know whom to ask",
        )
    if app != NODE and app not in app_names(paths):
        raise Misuse("app", expected="one that this node may run (apps.d)", got=app,
                     hint="of the whole node: embrasure node maintenance on --for 2h")  # fmt: skip
    since = int(at.timestamp())
    made = Hold(app=app, since=since, until=since + int(seconds), reason=reason)
    with lock(paths.lock / LOCK, seconds=limits.LOCK_SECONDS):
        _save(paths, (*_others(paths, app, at), made))
    return made


def take_away(paths: Paths, app: str) -> bool:
    """Return whether `app` was held; it is not any more. A file that cannot be read is replaced."""
    at = moment(paths)
    was = bool(held(paths, app, at))
    with lock(paths.lock / LOCK, seconds=limits.LOCK_SECONDS):
        try:
            rest = _others(paths, app, at)
        except EmbrasureError:
            rest = ()
        _save(paths, rest)
    return was


def _others(paths: Paths, app: str, at: datetime) -> tuple[Hold, ...]:
    """Return the holds of the other apps that have not ended."""
    return tuple(one for one in load(paths) if one.app != app and at.timestamp() < one.end)


def _save(paths: Paths, holds: tuple[Hold, ...]) -> None:
    if len(holds) > limits.HOLDS:
        raise Misuse("holds", expected=f"at most {limits.HOLDS}", got=len(holds), reason="limit",
                     hint="let one go: embrasure node unhold APP")  # fmt: skip
    raw = write(Holds(v=1, holds=holds))
    replace_file(paths.config, paths.holds.name, raw, mode=0o644)
