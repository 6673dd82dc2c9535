"""The way forward, one function a state: fetch, build, switch, start, probe, commit, clean up."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from embrasure import limits
from embrasure.bundle.manifest import Manifest
from embrasure.errors import EmbrasureError, Failed
from embrasure.fs import Folder
from embrasure.trust.floors import AppFloor, Committed
from embrasure.trust.receipt import Kind, Outcome, Ran
from node import (
    collection,
    companions,
    confirming,
    credentials,
    fetching,
    rollback,
    space,
    spans,
    switch,
    tree,
    units,
)
from node.probe import Died
from node.releases import is_whole
from node.states import Release, State
from node.transaction import To, Transaction, offer_of
from node.waiting import waiting


def offered(tx: Transaction) -> To:
    """The owner of this node lets the release run here, and its secrets open here."""
    offer = offer_of(tx)
    units.check_allowed(offer.manifest, tx.config)
    companions.check(units.companions(offer.manifest, tx.config))
    spans.check_spans(offer.manifest)
    tx.ground.secrets.check(offer.manifest, offer.documents)
    return To(State.RESERVED)


def _user(tx: Transaction) -> int:
    """Whom the app runs as: what he could write to is never shared with another release."""
    user = tx.ground.isolation.user(tx.app, tx.config)
    return os.geteuid() if user is None else user.uid


def reserved(tx: Transaction) -> To:
    """There is room for all of it; old releases are collected first when there is not."""
    offer = offer_of(tx)
    ground = tx.ground
    with Folder.open(ground.paths.releases(tx.app), create=True) as releases:

        def check_room() -> space.Found:
            return space.check_all(
                offer.manifest, blobs=ground.blobs, releases=releases, user=_user(tx)
            )

        try:
            tx.found = check_room()
        except Failed:
            collection.make_room(tx, offer.manifest)
            tx.found = check_room()
    return To(State.FETCHING)


def verified(tx: Transaction) -> To:
    """The release is built beside the others, on disk and read back, without a name yet."""
    offer, record = offer_of(tx), tx.record
    with Folder.open(tx.ground.paths.releases(tx.app)) as releases:
        if not _is_there(tx, releases):
            try:
                tree.build(
                    releases, tx=record.tx, manifest=offer.manifest, documents=offer.documents,
                    blobs=tx.ground.blobs, user=_user(tx), came=tx.came,
                    placed=tx.placed,
                )  # fmt: skip
            except EmbrasureError as problem:
                if problem.reason == "bad-hash":
                    _forget_damaged(tx, offer.manifest)
                raise
    return To(State.STAGED)


def _is_there(tx: Transaction, releases: Folder) -> bool:
    """Whether an earlier attempt has built it already; one that is damaged is dropped."""
    name = tx.record.to.id
    if not releases.has(name):
        return False
    if is_whole(tx.ground.paths, tx.app, tx.record.to, deep=True):
        return True
    with Folder.open(tx.ground.paths.app(tx.app)) as app:
        if switch.current(app) == name:
            raise Failed(name, expected="to be whole", got="a damaged release that is linked",
                         reason="internal")  # fmt: skip
    releases.remove_tree(name)
    return False


def _forget_damaged(tx: Transaction, manifest: Manifest) -> None:
    """Blobs and twins whose bytes have changed on disk are gone, so that the next attempt fetches
    the ones and makes the others.
    """
    for digest in manifest.blobs():
        tx.ground.blobs.keep_good(digest, each=tx.beat)


def staged(tx: Transaction) -> To:
    """The release has its name."""
    with Folder.open(tx.ground.paths.releases(tx.app)) as releases:
        if not releases.has(tx.record.to.id):
            tree.name_release(releases, tx=tx.record.tx, release=tx.record.to.id)
    return To(State.WAITING)


def preparing(tx: Transaction) -> To:
    """The release has made itself ready while the old one serves."""
    tx.must(tx.installed(tx.record.to), "prepare")
    return To(State.QUIESCING)


def quiescing(tx: Transaction) -> To:
    """Nothing of the app runs, and its data is ready for the new release."""
    tx.ground.supervisor.stop(tx.app)
    installed = tx.installed(tx.record.to)
    if any(hook.point == "migrate" for hook in installed.manifest.hooks):
        tx.note(migrated="started")
        tx.must(installed, "migrate")
        tx.note(migrated="done")
    return To(State.SWITCHING)


def switching(tx: Transaction) -> To:
    """`current` is the new release, on disk."""
    with Folder.open(tx.ground.paths.app(tx.app)) as folder:
        switch.switch(folder, tx.record.to.id)
    return _one_start_less(tx)


def _one_start_less(tx: Transaction) -> To:
    """Counted before the start, so that a release that takes the node down with it runs out."""
    if tx.record.starts < 1:
        raise Died("app", expected="to run", got=f"{limits.STARTS} ends", reason="crash-loop")
    return To(State.STARTING, {"starts": tx.record.starts - 1})


def starting(tx: Transaction) -> To:
    """A new instance of the new release runs, and nothing else of the app."""
    tx.start(tx.installed(tx.record.to))
    return To(State.PROBING)


def probing(tx: Transaction) -> To:
    """Every probe has passed its number of times in a row, which is told; then none has failed
    once through the soak of this node's wave.
    """
    record = tx.record
    installed = tx.installed(record.to)
    try:
        tx.watch(installed).until_well()
    except Died:
        return _one_start_less(tx)
    tx.tell(Kind.HEALTHY, Outcome.OK, ran=Ran.MAIN, manifest=record.to.manifest)
    soak, began = installed.plan.waves[record.to.wave].soak_s, time.monotonic()
    tx.watch(installed).through(soak)
    soaked = max(soak, int(time.monotonic() - began))
    return To(State.PROVISIONAL, {"soaked_s": soaked})


def committed(tx: Transaction) -> To:
    """The floors say so, the app is kept alive, `soaked` is told. From here nothing goes back."""
    record = tx.record
    tx.ground.floors.change_app(tx.app, lambda floor: after_commit(floor, record.to))
    tx.ground.supervisor.keep(tx.app)
    with contextlib.suppress(EmbrasureError):
        tx.hook(tx.installed(record.to), "finish")  # reported only: a commit is final
    tx.tell(Kind.SOAKED, Outcome.OK, ran=Ran.MAIN, manifest=record.to.manifest)
    return To(State.CLEANING, {"interruptions": 0, "retry_at": 0})


def after_commit(floor: AppFloor, release: Release) -> AppFloor:
    """Return the floor once `release` is committed; doing it twice is doing it once."""
    new = Committed(
        plan=release.plan, seq=release.seq, ran="main", manifest=release.manifest, wave=release.wave
    )
    if floor.committed == new:
        return floor
    return msgspec.structs.replace(floor, committed=new, previous=floor.committed)


_TOLD = frozenset({"no-space", "no-secret", "no-systemd", "hook", "trust", "internal", "late"})


def rejected(tx: Transaction) -> To:
    """Nothing that runs was touched; what says something about release or node is told.

    A cut line or a closed gate says nothing: the next order or poll simply goes on. Only the
    release's own `check` counts against it; a full disk is this node's matter (`deferred`).
    """
    record, back = tx.record, tx.record.back
    if record.reason not in _TOLD:
        return To(State.CLEANING)
    rollback.burn_try(tx)
    tx.tell(
        Kind.STATUS,
        Outcome.ROLLED_BACK if record.reason == "hook" else Outcome.DEFERRED,
        ran=Ran.PREVIOUS if back else Ran.NONE,
        manifest=back.manifest if back else "",
        reason=record.reason,
    )
    return To(State.CLEANING, rollback.next_try(tx))


def cleaning(tx: Transaction) -> To:
    """Disk use is back within its bound."""
    with contextlib.suppress(EmbrasureError):
        # A release that did not come to run may have left its own: its hooks saw them.
        credentials.take_away(tx.ground.paths, tx.app, keep=collection.linked(tx))
        collection.clean(tx)
        tx.ground.journal.keep_ballast()
    return To(State.IDLE)


STEPS: Mapping[State, Callable[[Transaction], To]] = MappingProxyType(
    {
        State.OFFERED: offered,
        State.RESERVED: reserved,
        State.FETCHING: fetching.fetching,
        State.VERIFIED: verified,
        State.STAGED: staged,
        State.WAITING: waiting,
        State.PREPARING: preparing,
        State.QUIESCING: quiescing,
        State.SWITCHING: switching,
        State.STARTING: starting,
        State.PROBING: probing,
        State.PROVISIONAL: confirming.provisional,
        State.COMMITTED: committed,
        State.REJECTED: rejected,
        State.CLEANING: cleaning,
        State.ROLLING_BACK: rollback.rolling_back,
        State.ROLLBACK_PROBING: rollback.rollback_probing,
        State.ROLLED_BACK: rollback.rolled_back,
    }
)
