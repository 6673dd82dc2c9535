"""Carries out what `recover` says, at every start and after every transaction that was cut off."""

from __future__ import annotations

import contextlib
from functools import partial
from logging import getLogger

from embrasure.errors import EmbrasureError, Failed
from embrasure.fs import Folder
from node import switch, units
from node.config import load_app
from node.deadline import Deadline, kept, left_s
from node.ground import Ground, Report, release_of
from node.install import STEPS
from node.journal import Entry
from node.paths import Paths
from node.recover import Act, Found, Recovery, recover
from node.releases import find_release, is_whole, load_release
from node.rollback import degraded, names_as_denied, next_try
from node.serving import app_config
from node.states import RESTING, Record, Release, State
from node.transaction import To, Transaction

LOG = getLogger(__name__)


def settle(ground: Ground, app: str, report: Report, *, forward: bool = True) -> Record | None:
    """Return the record of the app at rest: no transaction is open, `current` is whole and runs.

    forward: a release that was not committed may go on, and not only back
    Raises Unavailable (`stopping`), and what keeps a disk from being written; even then what was
    committed runs.
    """
    entry = ground.journal.read(app)
    try:
        return _settle(ground, app, entry, report, forward=forward)
    except EmbrasureError as problem:
        if problem.reason != "stopping":
            _keep_serving(ground, app, entry.record)
        raise


def typed(app: str, problem: Exception) -> EmbrasureError:
    """Return what keeps the app from its rest as an error of ours; a defect is logged whole."""
    if isinstance(problem, EmbrasureError):
        return problem
    LOG.error("%s: recovery failed", app, exc_info=problem)
    return Failed(f"recovery of {app}", expected="an app at rest", got=type(problem).__name__,
                  untouched="the other apps", reason="internal")  # fmt: skip


def _settle(
    ground: Ground, app: str, entry: Entry, report: Report, *, forward: bool
) -> Record | None:
    known = _known(ground, app, entry.record)
    found = look(ground, app, entry.record, damaged=entry.damaged, known=known)
    plan = recover(found)
    if entry.damaged and entry.record is None:
        ground.journal.set_aside(app)
    if plan.act is Act.AGAIN and not is_whole(ground.paths, app, known[plan.link or ""], deep=True):
        # The new release is about to run again: every byte of it was looked at first.
        plan = Recovery(Act.BACK, reason="power")
    if plan.act is Act.AGAIN and not forward:
        plan = Recovery(Act.BACK, reason="power")
    if plan.act is Act.NOTHING and found.committed not in (None, plan.link):
        LOG.warning(
            "%s: %s is damaged, %s runs instead: embrasure node verify",
            app, found.committed, plan.link or "nothing",
        )  # fmt: skip
    if plan.act not in (Act.AGAIN, Act.BACK) and plan.link is not None:
        serve(ground, app, known[plan.link])
    if entry.record is None or plan.act is Act.NOTHING:
        return entry.record
    return _finish(ground, entry.record, plan, report)


def _keep_serving(ground: Ground, app: str, record: Record | None) -> None:
    """A disk that takes no state must not also stop the service: what was committed runs.

    The link goes back to it; beside any open state that means "a lost switch", and recovery then
    ends it as an interruption. Data that was migrated already is not given to the old release.
    """
    name = linked(ground, app)
    is_open = record is not None and record.state not in RESTING and record.ending != "committed"
    if is_open and record is not None and record.migrated != "no":
        return
    if is_open and record is not None and name == record.to.id:
        name = record.back.id if record.back else None
    known = _known(ground, app, record)
    if name is None or name not in known:
        return
    with contextlib.suppress(EmbrasureError):
        if is_whole(ground.paths, app, known[name], deep=False):
            # A disk that has turned read-only does not take the link either: it runs all the same.
            with contextlib.suppress(EmbrasureError):
                _link(ground, app, known[name])
            _start(ground, app, known[name])


def serve_committed(ground: Ground, app: str) -> None:
    """What was committed runs, whatever the record says is open; no state is written."""
    entry = ground.journal.read(app)
    known = _known(ground, app, entry.record)
    plan = recover(look(ground, app, entry.record, damaged=entry.damaged, known=known))
    if plan.act in (Act.AGAIN, Act.BACK):
        _keep_serving(ground, app, entry.record)
    elif plan.link is not None:
        serve(ground, app, known[plan.link])


def _finish(ground: Ground, record: Record, plan: Recovery, report: Report) -> Record:
    config = load_app(ground.paths, record.app)
    tx = Transaction(ground, record, config, report, STEPS)
    if plan.act is Act.DISCARD and record.state is not State.REJECTED:
        # What waited for its moment was at rest: nothing was cut off.
        again = {"retry_at": 0} if record.state is State.WAITING else next_try(tx)
        changes = {"ending": "rejected", "reason": "power", "detail": "", **again}
        tx.enter(To(State.REJECTED, changes))
    elif plan.act is Act.AGAIN:
        by = kept(record.confirm_by) if record.confirm_by else None
        tx.enter(To(State.STARTING, {"starts": record.starts - 1, "confirm_by": by}))
    elif plan.act is Act.BACK:
        tx.enter(To(State.ROLLING_BACK, {"reason": plan.reason}))
    elif plan.act is Act.HEALED:
        tx.enter(To(State.IDLE, {"reason": "", "detail": ""}))
    elif plan.act is Act.STRANDED and record.state is not State.DEGRADED:
        tx.enter(To(State.DEGRADED, {"ending": "degraded", "reason": "no-target"}))
    tx.run()
    if tx.record.state is State.DEGRADED:
        degraded(tx)
    return tx.record


def look(
    ground: Ground,
    app: str,
    record: Record | None,
    *,
    damaged: bool,
    known: dict[str, Release],
) -> Found:
    """Return what is on disk of the app."""
    floor = None
    with contextlib.suppress(EmbrasureError):
        floor = ground.floors.load().app(app)
    committed = release_of(floor.committed) if floor else None
    previous = release_of(floor.previous) if floor else None
    whole = frozenset(
        name for name, release in known.items() if is_whole(ground.paths, app, release, deep=False)
    )
    # Asked only when something must take the place of what was committed.
    is_lost = committed is not None and committed.id not in whole
    return Found(
        record=record,
        damaged=damaged,
        current=linked(ground, app),
        whole=whole,
        committed=committed.id if committed else None,
        previous=previous.id if previous else None,
        denied=_denied(ground, app, record, known) if is_lost else frozenset(),
        is_late=_is_late(record),
    )


def _denied(
    ground: Ground, app: str, record: Record | None, known: dict[str, Release]
) -> frozenset[str]:
    """Return those of the `known` releases that a revocation, policy or lowest number names."""
    at_the_beginning = record is not None and record.back_denied
    back = record.back if record is not None else None
    return frozenset(
        name
        for name, release in known.items()
        if names_as_denied(ground, app, release, known=at_the_beginning and release == back)
    )


def _is_late(record: Record | None) -> bool:
    """Whether the time of its state is over: in PROVISIONAL, that for its word."""
    if record is None:
        return False
    # A word's time goes on while a release that waited for it is started once more: not its fault.
    by = record.confirm_by if record.state is State.PROVISIONAL else record.by
    return isinstance(by, Deadline) and left_s(by) <= 0


def _known(ground: Ground, app: str, record: Record | None) -> dict[str, Release]:
    """Return every release that something names, by the name of its folder."""
    found: list[Release | None] = []
    current = linked(ground, app)
    if current is not None:
        found.append(find_release(ground.paths, app, current))
    with contextlib.suppress(EmbrasureError):
        floor = ground.floors.load().app(app)
        found += [release_of(floor.previous), release_of(floor.committed)]
    if record is not None:
        found += [record.back, record.to]
    return {release.id: release for release in found if release is not None}


def linked(ground: Ground, app: str) -> str | None:
    """Return the release that `current` names, None when there is none."""
    return linked_in(ground.paths, app)


def linked_in(paths: Paths, app: str) -> str | None:
    """Return the release that `current` names below these paths."""
    try:
        with Folder.open(paths.app(app)) as folder:
            return switch.current(folder)
    except EmbrasureError:
        return None


def serve(ground: Ground, app: str, release: Release) -> None:
    """`current` names the release, and it runs and is kept alive."""
    _link(ground, app, release)
    _start(ground, app, release)


def _link(ground: Ground, app: str, release: Release) -> None:
    if linked(ground, app) != release.id:
        with Folder.open(ground.paths.app(app)) as folder:
            ground.journal.with_room(partial(switch.switch, folder, release.id))


def _start(ground: Ground, app: str, release: Release) -> None:
    running = ground.supervisor.running(app)
    if running is None or running.unit.release != release.id:
        installed = load_release(ground.paths, app, release)
        config, _ = app_config(ground.paths, app)  # a damaged file of the owner stops no service
        unit = units.unit_of(ground.paths, installed, config, ground.isolation)
        ground.supervisor.stop(app)
        ground.secrets.place(installed, unit.user)
        ground.supervisor.start(unit)
    ground.supervisor.keep(app)
