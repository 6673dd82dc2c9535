"""Signed TUF metadata in memory: roles, keys, versions, publishing; every key at hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from embrasure import limits
from embrasure.clock import Clock
from embrasure.trust import layout
from embrasure.trust.anchor import root_id_of
from embrasure.trust.canonical import sha256_hex
from tests.simulate.sources import MemorySource

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)
DAY = timedelta(days=1)
LIFE = {
    layout.ROOT: 365 * DAY,
    layout.TARGETS: 365 * DAY,
    layout.REVOCATIONS: 30 * DAY,
    layout.SNAPSHOT: timedelta(seconds=limits.SNAPSHOT_SECONDS),
    layout.TIMESTAMP: timedelta(seconds=limits.TIMESTAMP_SECONDS),
}


class SimMetadata:
    """Metadata alone. Keys: `signers[role]` (all holders), `sign_with[role]` (who signs next)."""

    def __init__(
        self,
        *,
        clock: Clock,
        holders: int,
        threshold: int,
        keys: Sequence[CryptoSigner] = (),
    ) -> None:
        self.clock = clock
        self.holders = list(keys) or [CryptoSigner.generate_ed25519() for _ in range(holders)]
        self.threshold = threshold
        self.signers: dict[str, list[CryptoSigner]] = {}
        self.sign_with: dict[str, list[CryptoSigner]] = {}
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}  # as published; 0 or absent: never
        self.life: dict[str, timedelta] = {}  # overrides LIFE
        self._dirty: set[str] = set()
        self._pending: dict[str, bytes] = {}
        self._make_root()
        self.targets = Targets(delegations=Delegations({}, {}))
        self.roles: dict[str, Targets] = {layout.TARGETS: self.targets}
        self._hold(layout.TARGETS, self.holders, threshold)
        self._publish_role(layout.ROOT, self.root)
        self.anchor = self.files["metadata/1.root.json"]
        self.root_id = root_id_of(self.anchor)

    def _make_root(self) -> None:
        self.root = Root(consistent_snapshot=True)
        for role in (layout.ROOT, layout.TARGETS):
            self.root.roles[role].threshold = self.threshold
            for holder in self.holders:
                self.root.add_key(holder.public_key, role)
        self._hold(layout.ROOT, self.holders, self.threshold)
        for role in (layout.SNAPSHOT, layout.TIMESTAMP):
            online = CryptoSigner.generate_ed25519()
            self.root.add_key(online.public_key, role)
            self._hold(role, [online], 1)

    def _hold(self, role: str, signers: Sequence[CryptoSigner], threshold: int) -> None:
        self.signers[role] = list(signers)
        self.sign_with[role] = list(signers[:threshold])

    def delegate(
        self, role: str, signers: Sequence[CryptoSigner], threshold: int, paths: Sequence[str]
    ) -> None:
        """`targets` delegates `role` (terminating, the last one) from the next publish."""
        delegations = self._delegations()
        delegations.roles = delegations.roles or {}
        delegations.roles[role] = DelegatedRole(role, [], threshold, True, list(paths))
        for signer in signers:
            self.targets.add_key(signer.public_key, role)
        self._hold(role, signers, threshold)
        self.roles.setdefault(role, Targets())
        self._dirty |= {layout.TARGETS, role}

    def undelegate(self, role: str) -> None:
        """`targets` no longer names `role` from the next publish, and nothing lists it."""
        delegations = self._delegations()
        del (delegations.roles or {})[role]
        del self.roles[role]
        self._dirty.add(layout.TARGETS)
        self._dirty.discard(role)

    def _delegations(self) -> Delegations:
        if self.targets.delegations is None:
            self.targets.delegations = Delegations({}, {})
        return self.targets.delegations

    def replace_keys(self, role: str, signers: Sequence[CryptoSigner], threshold: int = 1) -> None:
        """`role` is signed by `signers` from the next publish: its delegator drops the old keys."""
        delegator: Root | Targets = self.root if role in layout.TOP_ROLES else self.targets
        for old in self.signers[role]:
            delegator.revoke_key(old.public_key.keyid, role)
        for signer in signers:
            delegator.add_key(signer.public_key, role)
        if isinstance(delegator, Root):
            delegator.roles[role].threshold = threshold
        elif delegator.delegations is not None and delegator.delegations.roles is not None:
            delegator.delegations.roles[role].threshold = threshold
        self._hold(role, signers, threshold)
        self._dirty |= {layout.ROOT if role in layout.TOP_ROLES else layout.TARGETS, role}

    def next_version(self, role: str) -> int:
        """Return the version of `role` at the next publish that changes it (a plan's seq)."""
        return self.versions.get(role, 0) + 1

    def touch(self, *roles: str) -> None:
        """These roles get a new version at the next publish."""
        self._dirty |= set(roles)

    def list_target(self, role: str, path: str, raw: bytes) -> None:
        """`role` lists `raw` as `path` from the next publish."""
        self.roles[role].targets[path] = TargetFile(len(raw), {"sha256": sha256_hex(raw)}, path)
        self._pending[layout.target_file(path, sha256_hex(raw))] = raw
        self._dirty.add(role)

    def drop_target(self, role: str, path: str) -> None:
        """`role` no longer lists `path` from the next publish."""
        del self.roles[role].targets[path]
        self._dirty.add(role)

    def publish(self) -> None:
        """All changes are in `files`: changed roles, snapshot and timestamp have a new version."""
        self.files.update(self._pending)
        self._pending.clear()
        if layout.ROOT in self._dirty:
            self._publish_role(layout.ROOT, self.root)
        for role in sorted(self._dirty & set(self.roles)):
            self._publish_role(role, self.roles[role])
        self._dirty.clear()
        listed = {f"{role}.json": MetaFile(self.versions[role]) for role in self.roles}
        self._publish_role(layout.SNAPSHOT, Snapshot(meta=listed))
        snapshot = MetaFile(self.versions[layout.SNAPSHOT])
        self._publish_role(layout.TIMESTAMP, Timestamp(snapshot_meta=snapshot))

    def _publish_role(self, role: str, signed: T) -> None:
        version = self.next_version(role)
        signed.version = version
        signed.expires = self._expiry(role)
        raw = sign_metadata(signed, self.sign_with[role])
        self.versions[role] = version
        self.files[layout.metadata_file(role, version)] = raw

    def _expiry(self, role: str) -> datetime:
        default = timedelta(seconds=limits.GATES_SECONDS) if role.startswith("gates-") else None
        return self.clock() + self.life.get(role, default or LIFE.get(role, 180 * DAY))

    def source(self) -> MemorySource:
        """Return a source that serves what is published, also later."""
        return MemorySource(self.files)

    def frozen_source(self) -> MemorySource:
        """Return a source that serves what is published now, for ever: a replay."""
        return MemorySource(copy.copy(self.files))

    def write(self, folder: Path) -> Path:
        """Return `folder`, which holds what is published; the timestamp is written last."""
        for path, data in sorted(self.files.items(), key=lambda item: "timestamp" in item[0]):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return folder


def sign_metadata(signed: T, signers: Sequence[CryptoSigner]) -> bytes:
    """Return the metadata file of `signed`, with one signature of each of `signers`."""
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()
