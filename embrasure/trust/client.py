"""The trust client: from an anchor and an untrusted source to a verified view, and its targets.

Drill: a source that replays, freezes, mixes, truncates, never ends.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Snapshot, Targets

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import EmbrasureError, Misuse, NotFound, Refused, Unavailable
from embrasure.trust import layout
from embrasure.trust.anchor import root_id_of
from embrasure.trust.cache import DocumentCache
from embrasure.trust.fetcher import SourceFetcher, fetch_whole
from embrasure.trust.pace import Ticks
from embrasure.trust.source import Source
from embrasure.trust.view import View
from embrasure.trust.workflow.session import Verified, Workflow
from embrasure.trust.workflow.updater import OUTSIDE, ClockedUpdater
from embrasure.trust.workflow.verified import delegations, held_metadata, view_of
from embrasure.trust.workflow.versions import check_versions

_VIEWS_KEPT = 8  # whose metadata files `keys`, `listed` and `role_bytes` can still give
ViewName = tuple[tuple[str, str], ...]  # role and SHA-256 of its signed bytes


class TrustClient:
    """One metadata folder, trusted from `anchor` on. Threads and processes may share it: a second
    refresh at the same time waits for the lock, then raises Unavailable (`busy`).
    """

    def __init__(
        self,
        folder: Path,
        anchor: bytes,
        *,
        clock: Clock = now,
        enrolled: bool = False,
        timestamp_s: int = limits.TIMESTAMP_SECONDS,
        ticks: Ticks = time.monotonic,
    ) -> None:
        """`folder` exists, mode 0700; nothing is fetched.

        anchor: the bytes of root version 1, from the image or the security team, never from disk
        enrolled: this machine had floors before, so an empty folder is a loss (`no-trust`)
        timestamp_s: the life that this fleet's timestamps are signed for
        """
        self.root_id = root_id_of(anchor)
        self.anchor = anchor
        self.ticks = ticks
        self.workflow = Workflow(
            folder, anchor, clock=clock, timestamp_s=timestamp_s, enrolled=enrolled
        )
        self.documents = DocumentCache(folder / "documents")
        self._files: OrderedDict[ViewName, Mapping[str, bytes]] = OrderedDict()
        self._last: tuple[View, frozenset[str] | None] | None = None

    def refresh(
        self,
        source: Source,
        *,
        roles: Sequence[str] | None = (),
        tolerate_expired: bool = False,
    ) -> View:
        """Return the repository as `source` shows it now: verified, not expired, not rolled back.

        roles: delegated roles to load too; None = every one that the snapshot lists. A role that
        snapshot or targets do not name is absent from the view.
        tolerate_expired: a delegated role (never a top one) may have expired, which its `expires`
            shows; for a mirror and the gateway, which pass on what they do not install
        Raises Refused (`rollback`, `expired`, `threshold`, `bad-hash`, `limit`, `bad-metadata`,
        `no-trust`), Unavailable (`slow`, `busy`), NotFound. What verified before a failure is kept.
        """
        fetcher = SourceFetcher(source, ticks=self.ticks)
        wanted = None if roles is None else frozenset(roles)
        same = self._unchanged(fetcher, wanted, tolerate_expired=tolerate_expired)
        if same is not None:
            return same

        def load(updater: ClockedUpdater) -> frozenset[str]:
            known = set(_listed(updater.snapshot)) & set(delegations(updater.targets))
            asked = known if wanted is None else wanted
            if tolerate_expired:
                updater.ignore_expiry()
            for role in sorted(asked & known):
                updater.load_role(role)
            return frozenset(asked - known)

        verified = self.workflow.update(fetcher, load, lambda: fetcher.last)
        view = self._keep(verified, fresh=True)
        self._last = (view, wanted)
        return view

    def _unchanged(
        self, fetcher: SourceFetcher, wanted: frozenset[str] | None, *, tolerate_expired: bool
    ) -> View | None:
        """Return the last view if the source still shows it: two requests, no signature checked.

        Anything else, also what will be an error, takes the whole way, with the bytes fetched here.
        """
        if self._last is None:
            return None
        view, had = self._last
        if had is not None and (wanted is None or not wanted <= had):
            return None
        where = layout.metadata_file(layout.TIMESTAMP, 0)
        # First, because a mirror says beside it whether there is a newer root.
        try:
            timestamp = fetcher.peek(where)
        except EmbrasureError:
            # A root step is kept, whatever comes behind it: the next look asks for it first.
            self._last = None
            if has_newer_root(fetcher, view):
                return None
            raise
        if has_newer_root(fetcher, view):
            fetcher.forget(where)  # it belongs to the root before
            return None
        if timestamp != self._bytes_of(view, layout.TIMESTAMP):
            return None
        floors = self.workflow.floors()
        at = self.workflow.now(floors)
        if is_expired(view, layout.TOP_ROLES if tolerate_expired else tuple(view.roles), at):
            return None
        try:
            check_versions(floors.versions, {n: role.version for n, role in view.roles.items()})
        except Refused:
            return None  # another process saw more than this source shows
        return view

    def held(self) -> View:
        """Return the last complete view from disk, verified again, without network; not fresh.

        Expiry is not checked: `decide` does, from the roles' `expires`, and boot does not care.
        Raises Refused (`no-trust`) when nothing is held, or not what was last verified here.
        """
        generation, floors = self.workflow.complete()
        while True:
            try:
                verified = held_metadata(generation, self.anchor)
                check_held(verified, floors.complete)
            except Refused:
                # Another process may have made a newer one complete, and removed this one.
                before = generation
                generation, floors = self.workflow.complete()
                if generation == before:
                    raise
            else:
                break
        return self._keep(verified, fresh=False)

    def target(
        self, view: View, role: str, path: str, source: Source | None, *, limit: int
    ) -> bytes:
        """Return the bytes that `role` lists as `path`: from disk, else from `source`, verified.

        limit: bytes; a longer target is refused before a byte is fetched
        Raises NotFound (not listed, or not held and no source), Refused (`limit`, `bad-hash`).
        """
        target = view.target(role, path)
        if target is None:
            raise NotFound(path, expected=f"a target that {role} lists", got="no such target")
        if target.length > limit:
            raise Refused(
                path, expected=f"at most {limit} bytes", got=target.length, reason="limit"
            )
        held = self.documents.get(target.sha256, length=target.length)
        if held is not None:
            return held
        if source is None:
            raise NotFound(path, expected="a file held on this machine", got="none, and no source")
        where = layout.target_file(path, target.sha256)
        raw = fetch_whole(source, where, limit=target.length, ticks=self.ticks)
        check_target(raw, path, length=target.length, sha256=target.sha256)
        self.documents.put(raw)
        return raw

    def keys(self, view: View, role: str) -> Mapping[str, Key]:
        """Return the keys that may sign `role` as `view` has it, by key id; empty for no role."""
        top = role in layout.TOP_ROLES
        raw = self.role_bytes(view, layout.ROOT if top else layout.TARGETS)
        delegator = (Metadata[Root] if top else Metadata[Targets]).from_bytes(raw).signed
        if isinstance(delegator, Root):
            held = delegator.roles[role].keyids
            return {keyid: delegator.keys[keyid] for keyid in held if keyid in delegator.keys}
        named = delegations(delegator).get(role)
        if named is None or delegator.delegations is None:
            return {}
        known = delegator.delegations.keys
        return {keyid: known[keyid] for keyid in named.keyids if keyid in known}

    def listed(self, view: View) -> tuple[str, ...]:
        """Return the delegated roles that the snapshot of `view` lists, sorted."""
        raw = self.role_bytes(view, layout.SNAPSHOT)
        return _listed(Metadata[Snapshot].from_bytes(raw).signed)

    def role_bytes(self, view: View, role: str) -> bytes:
        """Return the metadata file of a role of `view`, byte for byte as it was served."""
        raw = self._bytes_of(view, role)
        if raw is None:
            raise Misuse(
                f"role {role}",
                expected=f"a role of one of the last {_VIEWS_KEPT} views of this client",
                got="another",
            )
        return raw

    def raise_floors(self, *, versions: Mapping[str, int] | None = None, time: int = 0) -> None:
        """No floor is below these any more.

        versions: role -> version, from an enrolment answer; time: Unix seconds, of verified gates
        """
        self.workflow.raise_floors(versions=versions, time=time)

    def _keep(self, verified: Verified, *, fresh: bool) -> View:
        try:
            view = view_of(verified, root_id=self.root_id, fresh=fresh)
        except OUTSIDE as problem:
            raise Refused(
                "metadata", expected="what just verified", got=problem, reason="bad-metadata"
            ) from problem
        self._files[_name(view)] = verified.files
        self._files.move_to_end(_name(view))
        while len(self._files) > _VIEWS_KEPT:
            self._files.popitem(last=False)
        return view

    def _bytes_of(self, view: View, role: str) -> bytes | None:
        return self._files.get(_name(view), {}).get(role)


def _name(view: View) -> ViewName:
    return tuple(sorted((name, role.sha256) for name, role in view.roles.items()))


def _listed(snapshot: Snapshot) -> tuple[str, ...]:
    names = (name.removesuffix(".json") for name in snapshot.meta)
    return tuple(sorted(name for name in names if name not in layout.TOP_ROLES))


def has_newer_root(fetcher: SourceFetcher, view: View) -> bool:
    """Return whether the source shows a root step after that of `view`, whatever it holds."""
    after = view.roles[layout.ROOT].version + 1
    return fetcher.peek(layout.metadata_file(layout.ROOT, after)) is not None


def is_expired(view: View, roles: Iterable[str], at: datetime) -> bool:
    """Return whether one of these roles is not to be believed any more at `at`."""
    return any(view.roles[name].expires <= at for name in roles)


def check_held(verified: Verified, complete: Mapping[str, int]) -> None:
    """Return only when the disk holds what the last complete refresh left; raises Refused."""
    try:
        check_versions(complete, {name: found.version for name, found in verified.signed.items()})
    except Refused as problem:
        raise Refused(
            "metadata on disk",
            expected=problem.expected,
            got=f"{problem.thing} {problem.got}",
            untouched="what runs keeps running",
            hint="refresh from a source",
            reason="no-trust",
        ) from problem


def check_target(raw: bytes, path: str, *, length: int, sha256: str) -> None:
    """Return only when `raw` is the target that was signed.

    Raises Unavailable when bytes are missing (a cut line), Refused (`bad-hash`).
    """
    if len(raw) < length:
        raise Unavailable(path, expected=f"{length} bytes", got=len(raw), reason="cut-off")
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise Refused(path, expected=f"SHA-256 {sha256}", got=found, reason="bad-hash")
