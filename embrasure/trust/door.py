"""The metadata door: trust files from anybody, each verified by itself, higher versions only.

Nothing here starts an install, and nothing here asks who brings it: a wrong denial, a stolen
gateway or a certificate that ran out while the machine slept must never lock the repair out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tuf.api.metadata import Root, Targets

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.fs import Folder, lock
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.client import TrustClient, check_target
from embrasure.trust.directory import shard_of
from embrasure.trust.fetcher import fetch_whole
from embrasure.trust.generation import COMPLETE, read_generation
from embrasure.trust.held import HeldFiles
from embrasure.trust.listing import read_listing
from embrasure.trust.offline import (
    Offline,
    Stored,
    check_fresh,
    check_newer,
    is_offline,
    next_root,
    verify_role,
)
from embrasure.trust.policy import parse_policy
from embrasure.trust.source import Source
from embrasure.trust.trust_document import check_document
from embrasure.trust.view import Role, Target
from embrasure.trust.workflow.session import stored_name
from embrasure.trust.workflow.updater import BEGINNING
from embrasure.trust.workflow.verified import delegations
from embrasure.trust.workflow.versions import after_reset
from embrasure.trust.workflow.vouching import TrustedSet


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one delivery. roles: role -> version that is new here; missing: documents
    without which a newer role does not count yet; refused: role -> why it was not taken.
    """

    roles: Mapping[str, int]
    missing: tuple[str, ...] = ()
    refused: Mapping[str, EmbrasureError] = field(default_factory=dict)


class Door:
    """Takes and keeps trust files beside one `TrustClient`.

    env: whose fleet role counts, empty for all; node: its directory shard is enough, empty for all.
    """

    def __init__(self, client: TrustClient, *, env: str = "", node: str = "") -> None:
        self._client, self._env, self._node = client, env, node
        self.folder = client.workflow.folder / "door"
        self._held = HeldFiles(self.folder, client, env=env)
        Folder.open(self.folder, create=True).close()

    # --- what is held -------------------------------------------------------------------------

    def newest(self, also: Stored | None = None) -> Offline:
        """Return the newest offline roles that this machine has verified, whoever brought them.

        also: further files that are judged with them, and kept nowhere
        """
        return self._held.newest(also)

    def stamp(self) -> tuple[object, ...]:
        """Return a value that changes when any process has taken or verified something."""
        return self._held.stamp()

    def is_ahead(self) -> bool:
        """Return whether roles came by the door that no complete refresh has shown yet.

        Revocations do not count: they only stop, and nothing waits for them.
        """
        workflow, found = self._client.workflow, self.newest()
        complete = workflow.floors().complete
        if any(found.version(r) > complete.get(r, 0) for r in (layout.ROOT, layout.TARGETS)):
            return True
        link = workflow.generations.linked(COMPLETE)
        return any(
            link is None
            or read_generation(link, stored_name(role, 0), limit=limits.TARGETS_BYTES) != raw
            for role, raw in found.files.items()
            if role not in (layout.ROOT, layout.TARGETS, layout.REVOCATIONS)
        )

    def document(self, held: Offline, role: str, path: str) -> bytes:
        """Return a document of a held role from disk; raises NotFound."""
        target = held.listed(role).get(path)
        raw = target and self._client.documents.get(target.sha256, length=target.length)
        if not raw:
            raise NotFound(path, expected=f"a document of {role} on this disk", got="none")
        return raw

    def root(self, version: int) -> bytes:
        """Return the file of a root step; raises NotFound."""
        for raw in self._held.files(layout.ROOT, version):
            return raw
        raise NotFound(f"root v{version}", expected="a step on this disk", got="none")

    def role_view(self, held: Offline, role: str) -> Role | None:
        """Return a held role as plain values, None when there is none."""
        signed = held.signed.get(role)
        if signed is None:
            return None
        return Role(
            name=role,
            version=signed.version,
            expires=signed.expires,
            threshold=held.threshold(role),
            keys=held.holders(role),
            signers=frozenset(),
            sha256=sha256_hex(held.files[role]),
            targets=held.listed(role),
        )

    # --- taking -------------------------------------------------------------------------------

    def take(self, source: Source) -> Taken:
        """Return what `source` had that is newer, is verified, and counts from now on.

        Steps: 1 root step by step, 2 targets by the newest root, 3 fleet and revocations by the
        newest targets, each with its documents, 4 all of it on disk, floors included. A role that
        does not hold stops no other; raises its Refused when nothing was taken at all, NotFound
        when the source has no trust files, Unavailable.
        """
        listing = {r: v for r, v in read_listing(source).items() if is_offline(r, self._env)}
        workflow = self._client.workflow
        floors = workflow.floors()
        work = _Work(source, listing, self.newest(), workflow.now(floors))
        # 1. and 2.
        with work.keeping(layout.ROOT):
            work.walk()
        floor = after_reset(floors, work.held.keys()).versions
        with work.keeping(layout.TARGETS):
            work.role(layout.TARGETS, work.held.root, floor)
        # 3.
        floor = after_reset(floors, work.held.keys()).versions
        for role in sorted(set(listing) - {layout.ROOT, layout.TARGETS}):
            with work.keeping(role):
                self._delegated(work, role, floor)
        # 4.
        self._keep(work)
        if work.refused and not work.roles and not work.missing:
            raise next(iter(work.refused.values()))
        return Taken(work.roles, tuple(sorted(work.missing)), work.refused)

    def _delegated(self, work: _Work, role: str, floor: Mapping[str, int]) -> None:
        targets = work.held.targets
        if targets is None or role not in delegations(targets):
            raise Refused(role, expected="a role that targets delegate", got="none",
                          reason="bad-metadata")  # fmt: skip
        before = work.held
        if not work.role(role, targets, floor):
            return
        wanted, listed = self._wanted(work, role), work.held.listed(role)
        missing = [path for path in wanted if not self._document(work, role, path)]
        if missing:
            work.undo(role, before)
            work.missing.update(layout.target_file(p, listed[p].sha256) for p in missing)

    def _wanted(self, work: _Work, role: str) -> Iterable[str]:
        """Return the documents without which this machine has no use for the role."""
        listed = work.held.listed(role)
        if not self._node or role == layout.REVOCATIONS:
            own = layout.revocations_path(self._env) if self._env and self._node else ""
            return [own] if own in listed else list(listed)
        policy = layout.policy_path(self._env)
        if policy not in listed:
            raise Refused(role, expected="a policy", got="none", reason="bad-metadata")
        if not self._document(work, role, policy):
            return [policy]
        shards = parse_policy(self.document(work.held, role, policy)).shards
        shard = layout.shard_path(self._env, shard_of(self._node, shards))
        return [path for path in (policy, layout.tls_path(self._env), shard) if path in listed]

    def _document(self, work: _Work, role: str, path: str) -> bool:
        """Return whether a listed document is on this disk now; raises Refused if unsound."""
        target = work.held.listed(role)[path]
        raw = self._client.documents.get(target.sha256, length=target.length)
        if raw is None:
            raw = work.fetch_document(path, target)
        if raw is None:
            return False
        check_document(path, raw, root=self._client.root_id)
        self._client.documents.put(raw)
        return True

    def _keep(self, work: _Work) -> None:
        """Files first, then floors: a crash in between leaves files that still verify.

        Another process may have taken newer ones since `work` began; those stay.
        """
        with lock(self._client.workflow.folder / "door.lock", seconds=limits.LOCK_SECONDS):
            kept = later(self.newest(), work.held)
            for role in [role for role in work.roles if role != layout.ROOT]:
                if kept.files.get(role) != work.held.files[role]:
                    del work.roles[role]
            delivered = set(work.roles) - {layout.ROOT}
            with Folder.open(self.folder) as held:
                for role in delivered:
                    held.replace(stored_name(role, 0), work.held.files[role])
            # A snapshot that lists an older version of these is refused from now on. One that lists
            # older revocations is not: the thief of a gateway could silence the on-call with it.
            rising = {role: v for role, v in work.roles.items() if role != layout.REVOCATIONS}
            if rising:
                self._client.workflow.take_offline(work.roots, rising, work.held.keys())


@dataclass(slots=True)
class _Work:
    """One delivery under way."""

    source: Source
    listing: Mapping[str, int]
    held: Offline
    at: datetime
    roots: dict[int, bytes] = field(default_factory=dict)
    roles: dict[str, int] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    refused: dict[str, EmbrasureError] = field(default_factory=dict)

    @contextlib.contextmanager
    def keeping(self, role: str) -> Iterator[None]:
        """What is wrong with `role` is kept for the answer; a source that breaks ends it all."""
        before = self.held
        try:
            yield
        except NotFound as absent:
            self.undo(role, before)
            self.missing.add(absent.thing)
        except Unavailable:
            raise
        except EmbrasureError as problem:
            self.undo(role, before)
            self.refused[role] = problem

    def undo(self, role: str, before: Offline) -> None:
        """The role is as it was before."""
        self.held = before
        self.roles.pop(role, None)
        if role == layout.ROOT:
            self.roots.clear()

    def walk(self) -> None:
        """The newest root of the source is trusted, each step by the one before it."""
        first = self.held.version(layout.ROOT)
        last = min(self.listing.get(layout.ROOT, 0), first + limits.ROOT_STEPS)
        if last <= first:
            return
        steps = TrustedSet(self.held.files[layout.ROOT])
        steps.reference_time = BEGINNING
        for version in range(first + 1, last + 1):
            path = layout.metadata_file(layout.ROOT, version)
            raw = fetch_whole(self.source, path, limit=limits.ROOT_BYTES)
            next_root(steps, raw)
            self.roots[version] = raw
        check_fresh(steps.root, layout.ROOT, self.at)
        self.roles[layout.ROOT] = last
        signed, files = dict(self.held.signed), dict(self.held.files)
        signed[layout.ROOT], files[layout.ROOT] = steps.root, self.roots[last]
        self.held = _still_vouched(Offline(signed, files))

    def role(self, role: str, delegator: Root | Targets, floor: Mapping[str, int]) -> bool:
        """Return whether the source's version is newer; it is then in `held`, verified."""
        version = self.listing.get(role, 0)
        held = self.held.version(role)
        if version <= held:
            if 0 < version < held:
                check_newer(role, version, floor=held)
            return False
        path = layout.metadata_file(role, version)
        raw = fetch_whole(self.source, path, limit=limits.TARGETS_BYTES)
        found = verify_role(raw, role, delegator)
        if found.version != version:
            raise Refused(path, expected=f"version {version}", got=found.version,
                          reason="bad-metadata")  # fmt: skip
        check_newer(role, version, floor=floor.get(role, 0))
        check_fresh(found, role, self.at)
        self.roles[role] = version
        made = Offline({**self.held.signed, role: found}, {**self.held.files, role: raw})
        self.held = _still_vouched(made) if role == layout.TARGETS else made
        return True

    def fetch_document(self, path: str, target: Target) -> bytes | None:
        """Return the listed bytes, None when the source lacks them; raises Refused."""
        if target.length > limits.DOOR_DOCUMENT_BYTES:
            raise Refused(path, expected="a trust document", got=f"{target.length} bytes",
                          reason="limit")  # fmt: skip
        file = layout.target_file(path, target.sha256)
        try:
            raw = fetch_whole(self.source, file, limit=target.length)
        except NotFound:
            return None
        check_target(raw, path, length=target.length, sha256=target.sha256)
        return raw


def later(held: Offline, other: Offline) -> Offline:
    """Return the newest of both that the newest root and targets of either vouch for."""
    both = [held] if other is held else [held, other]
    top = max(both, key=lambda one: one.version(layout.ROOT))
    signed, files = {layout.ROOT: top.signed[layout.ROOT]}, {layout.ROOT: top.files[layout.ROOT]}
    for role in dict.fromkeys((layout.TARGETS, *held.files, *other.files)):
        delegator = top.root if role == layout.TARGETS else signed.get(layout.TARGETS)
        for one in both if role != layout.ROOT else ():
            raw = one.files.get(role)
            if raw is not None and isinstance(delegator, Root | Targets):
                with contextlib.suppress(Refused):
                    found = verify_role(raw, role, delegator)
                    if role not in signed or found.version > signed[role].version:
                        signed[role], files[role] = found, raw
    return Offline(signed, files)


def _still_vouched(held: Offline) -> Offline:
    """Return `held` without what its own root and targets do not vouch for."""
    return later(held, held)
