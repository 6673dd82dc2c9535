"""The way back: the last committed release again, whatever the new one left behind.

Each step looks before it acts, so a step that a crash cut off is simply done again.
"""

from __future__ import annotations

import contextlib
from functools import partial

import msgspec

from embrasure import limits
from embrasure.errors import EmbrasureError, Failed, Refused
from embrasure.fs import Folder
from embrasure.trust.floors import AppFloor
from embrasure.trust.policy import Policy
from embrasure.trust.receipt import Kind, Outcome, Ran
from node import switch
from node.ground import Ground
from node.migration import is_one_way
from node.probe import Died
from node.releases import Installed, is_whole
from node.states import BURNS_A_TRY, Release, State, ending_of
from node.transaction import To, Transaction
from node.untouched import is_untouched


def rolling_back(tx: Transaction) -> To:
    """What ran before is linked and started; after a first install nothing is."""
    burn_try(tx)
    back = tx.record.back
    if is_untouched(tx.ground, tx.record):
        return To(State.ROLLBACK_PROBING)
    tx.log = tx.ground.supervisor.tail(tx.app, limits.LOG_TAIL_BYTES)
    tx.ground.supervisor.stop(tx.app)
    _revert(tx)
    with Folder.open(tx.ground.paths.app(tx.app)) as folder:
        if back is None:
            switch.remove(folder)
            return To(State.ROLLED_BACK, {"ending": ending_of(tx.record.reason)})
        # Where it is still linked the switch was never made: it goes on, as it would at a boot.
        check_target(tx, back, is_linked=switch.current(folder) == back.id)
        tx.ground.journal.with_room(partial(switch.switch, folder, back.id))
    tx.start(tx.installed(back))
    return To(State.ROLLBACK_PROBING)


def burn_try(tx: Transaction) -> None:
    """The content has one try less on this node, on disk before anything is undone."""
    record = tx.record
    if record.reason in BURNS_A_TRY:

        def burn(floor: AppFloor) -> AppFloor:
            # Set, not added: a crash in between must not burn a second one.
            used = max(floor.tries.get(record.to.plan, 0), record.try_number)
            return msgspec.structs.replace(floor, tries={**floor.tries, record.to.plan: used})

        with contextlib.suppress(Refused):  # floors that are lost install nothing any more
            tx.ground.journal.with_room(partial(tx.ground.floors.change_app, tx.app, burn))


def _revert(tx: Transaction) -> None:
    """What the new release's `migrate` has changed is undone, and that is on disk.

    Raises Failed (`hook`; `no-target` when it cannot be undone).
    """
    if tx.record.migrated == "no":
        return
    if is_one_way(tx):
        raise Failed(
            f"roll-back of {tx.app}", expected="data that the old release knows",
            got="an irreversible migration that has begun", reason="no-target",
        )  # fmt: skip
    tx.must(tx.installed(tx.record.to), "revert")
    tx.note(migrated="no")


def check_target(tx: Transaction, back: Release, *, is_linked: bool) -> None:
    """Return only when the old release is whole, and not denied if it is to be linked anew.

    Raises Failed (`no-target`). A denial stops what would be installed, never what runs.
    """
    if not is_linked:
        check_denied(tx, back)
    if not is_whole(tx.ground.paths, tx.app, back, deep=True):
        raise _no_target(tx, "one that is damaged on disk")


def check_denied(tx: Transaction, back: Release) -> None:
    """Return only when nothing names the old release; raises Failed (`no-target`)."""
    if names_as_denied(tx.ground, tx.app, back, known=tx.record.back_denied):
        raise _no_target(tx, "one that was denied")


def names_as_denied(ground: Ground, app: str, release: Release, *, known: bool) -> bool:
    """Return whether a revocation, the policy or the lowest number names the release now.

    As they are now, not as they were when the install began. Trust that was lost closes no way
    back: then what was `known` at the beginning counts.
    """
    policy, revoked = None, False
    with contextlib.suppress(EmbrasureError):
        revoked = release.manifest in ground.floors.load().union.manifests
    with contextlib.suppress(EmbrasureError):
        policy = ground.policy()
    return revoked or (known if policy is None else is_denied(app, release, policy))


def is_denied(app: str, release: Release, policy: Policy) -> bool:
    """Return whether policy forbids to go back to this release."""
    return release.manifest in policy.denied.manifests or release.seq < policy.min_seq.get(app, 0)


def _no_target(tx: Transaction, got: str) -> Failed:
    return Failed(
        f"roll-back of {tx.app}", expected="a release to go back to", got=got, reason="no-target"
    )


def rollback_probing(tx: Transaction) -> To:
    """The old release is well again; raises Failed when it is not."""
    back = tx.record.back
    if back is None:
        return To(State.ROLLED_BACK, {"ending": ending_of(tx.record.reason)})
    installed = tx.installed(back)
    for left in reversed(range(limits.STARTS)):
        try:
            tx.watch(installed).until_well()
            break
        except Died:
            if not left:
                raise
            tx.start(installed)
    return To(State.ROLLED_BACK, {"ending": ending_of(tx.record.reason)})


def rolled_back(tx: Transaction) -> To:
    """The roll-back is told, the old release is kept alive, and the next try has its time."""
    burn_try(tx)  # PREPARING comes straight here
    record, back = tx.record, tx.record.back
    tx.ground.supervisor.keep(tx.app)
    is_bad = record.reason in BURNS_A_TRY
    tx.tell(
        Kind.STATUS,
        Outcome.ROLLED_BACK if is_bad else Outcome.INTERRUPTED,
        ran=Ran.PREVIOUS if back else Ran.NONE,
        manifest=back.manifest if back else "",
        reason=record.reason,
    )
    if is_bad:
        return To(State.CLEANING, {"interruptions": 0, "retry_at": 0})
    return To(State.CLEANING, next_try(tx))


def next_try(tx: Transaction) -> dict[str, object]:
    """Return what the record says of the next try: after 1 min, doubling to 1 h."""
    count = tx.record.interruptions + 1
    wait = min(limits.RETRY_LONGEST_SECONDS, limits.RETRY_FIRST_SECONDS * 2 ** min(count - 1, 10))
    at = int(tx.ground.clock().timestamp()) + wait
    return {"interruptions": count, "retry_at": at}


def degraded(tx: Transaction) -> None:
    """A node that found no way back has said so, and runs what still can run.

    Nothing to go back to: what failed is stopped, or stays when its plan says `keep`. An old
    release that does not pass its probes stays up: it is the best there is. No release runs on
    data that another one has changed, not at the next boot either.
    """
    record = tx.record
    is_failed = _linked(tx) == record.to.id
    stays = is_failed and _on_no_target(tx, record.to) == "keep" and not is_one_way(tx)
    if not stays and (is_failed or record.migrated != "no"):
        tx.ground.supervisor.stop(tx.app)
        with Folder.open(tx.ground.paths.app(tx.app)) as folder:
            switch.remove(folder)
    tx.ground.supervisor.keep(tx.app)
    linked = _linked(tx)
    known = {one.id: one for one in (record.back, record.to) if one is not None}
    runs = known.get(linked or "")
    ran = Ran.MAIN if runs == record.to else Ran.PREVIOUS
    tx.tell(
        Kind.STATUS,
        Outcome.FAILED,
        ran=ran if runs else Ran.NONE,
        manifest=runs.manifest if runs else "",
        reason="no-target",
    )


def _linked(tx: Transaction) -> str | None:
    with Folder.open(tx.ground.paths.app(tx.app)) as folder:
        return switch.current(folder)


def _on_no_target(tx: Transaction, release: Release) -> str:
    installed: Installed | None = None
    with contextlib.suppress(EmbrasureError):
        installed = tx.installed(release)
    return installed.plan.failure.on_no_target if installed else "stop"
