"""Looks again at what is installed: at every start and once a day, in the background, gently.

Nothing is changed by a look. What differs is logged, told in a receipt once, and shown by `node
status`; `node verify` names each file, `node repair` rebuilds.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from logging import getLogger
from typing import Annotated, Literal

from msgspec import Meta

from embrasure import kernel, limits
from embrasure.clock import write_time
from embrasure.errors import EmbrasureError, Unavailable, shown
from embrasure.fs import Folder, read_file
from embrasure.trust.documents import AppName, Count, Document, read, write
from embrasure.trust.floors import Committed
from embrasure.trust.receipt import Kind, Outcome, Ran, Reason
from node.ground import Ground, release_of
from node.orders import Last
from node.paths import Paths
from node.receipts import Event
from node.recovery import linked
from node.states import RESTING, State
from node.tree import gently
from node.verify import Verified, verify, verify_kept

LOG = getLogger(__name__)
FILE, TOLD = "verified.json", "drifts.json"


class Look(Document, frozen=True, kw_only=True):
    """One app: when it was looked at (Unix seconds), as which release, how much differs, and the
    first of it.
    """

    at: Count
    release: Annotated[str, Meta(max_length=64)]
    drift: Count
    first: Annotated[str, Meta(max_length=256)]


class Looks(Document, frozen=True, kw_only=True):
    """The last look at each app."""

    v: Literal[1]
    apps: Annotated[dict[AppName, Look], Meta(max_length=64)]


def last_look(paths: Paths, app: str) -> Look | None:
    """Return what the last look at the app found, None when there was none."""
    return _load(paths).get(app)


def _load(paths: Paths) -> dict[str, Look]:
    try:
        raw = read_file(paths.state / FILE, limit=limits.DRIFT_LOOKS_BYTES)
        return dict(read(raw, Looks, limit=limits.DRIFT_LOOKS_BYTES, document=FILE).apps)
    except EmbrasureError:
        return {}  # the next look writes it anew


def told(paths: Paths, app: str, committed: Committed | None) -> str:
    """Return what a person reads of a look that found something, "" for any other."""
    look, release = last_look(paths, app), release_of(committed)
    if look is None or not look.drift or look.release != (release.id if release else ""):
        return ""
    at = write_time(datetime.fromtimestamp(look.at, tz=UTC))
    return f"{look.drift} differ ({look.first}), seen {at}: embrasure node verify"


class Pace:
    """Lets so many bytes a second pass; raises Unavailable (`stopping`) once `stop` is set."""

    def __init__(self, per_second: int, stop: threading.Event) -> None:
        self._per_second, self._stop = per_second, stop
        self._began, self._done = time.monotonic(), 0

    def __call__(self, count: int) -> None:
        """`count` bytes more were read."""
        self._done += count
        ahead = self._done / self._per_second - (time.monotonic() - self._began)
        if self._stop.wait(max(0.0, ahead)):
            raise Unavailable("drift", expected="a node that runs on", got="its own end",
                              reason="stopping")  # fmt: skip


def look(ground: Ground, mutex: threading.RLock, stop: threading.Event) -> tuple[Verified, ...]:
    """Return what every app of this node is like; what differs is told.

    Installs go on meanwhile: the one slot is taken only to tell. Raises Unavailable (`stopping`).
    """
    with gently(Pace(limits.DRIFT_BYTES_PER_SECOND, stop)):
        found = verify(ground.paths)
        waiting = [one for one in verify_kept(ground.paths) if one.drift]
    for one in waiting:
        LOG.error(
            "%s: release %s, kept for a way back or by a pin, differs: embrasure node repair %s",
            one.app, one.release, one.app,
        )  # fmt: skip
    with mutex:
        held = [one for one in found if _still_holds(ground, one)]
        for one in held:
            _tell(ground, one)
        _keep(ground, held)
    return tuple(held)


def _still_holds(ground: Ground, found: Verified) -> bool:
    """Whether no install has begun or ended since: it would have been looked at half-way."""
    record = ground.journal.read(found.app).record
    release = release_of(ground.floors.load().app(found.app).committed)
    is_quiet = record is None or record.state in RESTING or record.state is State.WAITING
    return is_quiet and found.release == (release.id if release else "")


def _tell(ground: Ground, found: Verified) -> None:
    """The receipt is made, once for the same differences."""
    last, said = Last(ground.paths, TOLD), repr(found.drift).encode()
    committed = ground.floors.load().app(found.app).committed
    if last.is_last(found.app, said) or committed is None:
        return
    last.keep(found.app, said)
    if not found.drift:
        return
    first = _first(found)
    LOG.error("%s: %d differ, first %s: embrasure node verify", found.app, len(found.drift), first)
    release = release_of(committed)
    is_linked = release is not None and linked(ground, found.app) == release.id
    record = ground.journal.read(found.app).record
    is_same = record is not None and record.to.plan == committed.plan
    ground.receipts.emit(
        Event(
            app=found.app,
            plan=committed.plan,
            seq=committed.seq,
            wave=committed.wave,
            attempt=record.attempt if record is not None and is_same else 1,
            gseq=record.gseq if record is not None and is_same else 0,
            nonce="0" * 32,
            collect=record.collect if record is not None else "",
            kind=Kind.STATUS,
            outcome=Outcome.DRIFTED,
            ran=Ran.MAIN if is_linked else Ran.NONE,
            reason=Reason.DRIFT,
            manifest=committed.manifest if is_linked else "",
            took_s=0,
            soaked_s=0,
            state=record.state if record is not None else State.IDLE,
            detail=f"{len(found.drift)} differ, first: {first}",
            log=b"",
        )
    )


def _first(found: Verified) -> str:
    text = shown(f"{found.drift[0].what} {found.drift[0].path}", 120) if found.drift else ""
    return text.encode("ascii", "backslashreplace").decode("ascii")[:256]


def _keep(ground: Ground, found: list[Verified]) -> None:
    at = int(ground.clock().timestamp())
    _write(
        ground,
        {
            one.app: Look(at=at, release=one.release, drift=len(one.drift), first=_first(one))
            for one in found[:64]
        },
    )


def _write(ground: Ground, apps: dict[str, Look]) -> None:
    with Folder.open(ground.paths.state) as folder:
        folder.replace(FILE, write(Looks(v=1, apps=apps)))


def forget(ground: Ground, app: str) -> None:
    """What the last look found of the app is over: it was repaired."""
    _write(ground, {one: look for one, look in _load(ground.paths).items() if one != app})


def watch(ground: Ground, mutex: threading.RLock, stop: threading.Event) -> None:
    """A look at the start and every `limits.DRIFT_SECONDS`, until `stop` is set."""
    kernel.last_at_the_disk()
    while not stop.is_set():
        try:
            look(ground, mutex, stop)
        except EmbrasureError as problem:
            if problem.reason == "stopping":
                return
            LOG.warning("%s [%s]", problem, problem.word)
        stop.wait(limits.DRIFT_SECONDS)
