"""Verified metadata as a `View`, and the same from disk alone: every signature is checked again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tuf.api.metadata import DelegatedRole, Metadata, Root, Signed, Snapshot, Targets, Timestamp

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust import layout
from embrasure.trust.generation import read_generation
from embrasure.trust.view import Role, Target, View
from embrasure.trust.workflow.session import Verified, stored_name
from embrasure.trust.workflow.updater import BEGINNING, OUTSIDE
from embrasure.trust.workflow.vouching import TrustedSet, vouched


def delegations(targets: Signed | None) -> Mapping[str, DelegatedRole]:
    """Return the roles that the top-level targets delegate, by name."""
    if not isinstance(targets, Targets) or targets.delegations is None:
        return {}
    return targets.delegations.roles or {}


def view_of(verified: Verified, *, root_id: str, fresh: bool) -> View:
    """Return what `verified` says as plain values; who signed is worked out from the files."""
    root, targets = verified.signed[Root.type], verified.signed[Targets.type]
    if not isinstance(root, Root) or not isinstance(targets, Targets):
        raise Refused("metadata", expected="root and targets", got="else", reason="bad-metadata")
    named = delegations(targets)
    roles = {}
    for name in verified.signed:
        if name in layout.TOP_ROLES:
            roles[name] = _role(name, verified, root, None)
        elif name in named:
            roles[name] = _role(name, verified, targets, named[name])
    return View(root_id=root_id, roles=MappingProxyType(roles), fresh=fresh)


def _role(
    name: str, verified: Verified, delegator: Root | Targets, delegated: DelegatedRole | None
) -> Role:
    # Any of the four; python-tuf looks at the file's own type.
    metadata = Metadata[Targets].from_bytes(verified.files[name])
    signed: Signed = metadata.signed
    if signed != verified.signed[name]:
        raise Refused(name, expected="the bytes that verified", got="others", reason="bad-metadata")
    found = vouched(verified.files[name], metadata, name, delegator)
    return Role(
        name=name,
        version=signed.version,
        expires=signed.expires,
        threshold=found.threshold,
        keys=found.keys,
        signers=found.signers,
        sha256=found.sha256,
        targets=MappingProxyType(listed_targets(signed, delegated)),
    )


def listed_targets(signed: Signed, delegated: DelegatedRole | None) -> dict[str, Target]:
    """Return what a role lists: it speaks for the paths delegated to it, and for no other."""
    if not isinstance(signed, Targets):
        return {}
    return {
        path: Target(length=target.length, sha256=target.hashes["sha256"])
        for path, target in signed.targets.items()
        if "sha256" in target.hashes and (delegated is None or delegated.is_delegated_path(path))
    }


def held_metadata(generation: Path, anchor: bytes) -> Verified:
    """Return what a complete generation holds; raises Refused (`no-trust`).

    1 root steps from the anchor on, 2 timestamp, 3 snapshot, 4 targets, 5 each delegated role
    whose file is the version that the snapshot lists. Expiry is left to
    `decide`, step 2: a machine without network still checks who signed what.
    """
    files: dict[str, bytes] = {}

    def stored(role: str, version: int = 0) -> bytes | None:
        name = stored_name(role, version)
        return read_generation(generation, name, limit=limits.TARGETS_BYTES)

    def needed(role: str) -> bytes:
        raw = stored(role)
        if raw is None:
            raise _lost(role, "no file")
        files[role] = raw
        return raw

    try:
        # 1.
        held = TrustedSet(anchor)
        held.reference_time = BEGINNING
        files[Root.type] = anchor
        while (raw := stored(Root.type, held.root.version + 1)) is not None:
            held.update_root(raw)
            files[Root.type] = raw
        # 2. to 4.
        held.update_timestamp(needed(Timestamp.type))
        held.update_snapshot(needed(Snapshot.type))
        held.update_targets(needed(Targets.type))
    except OUTSIDE as problem:
        raise _lost("metadata", problem) from problem
    # 5.
    for role in delegations(held.targets):
        raw = stored(role)
        if raw is not None and _is_listed(held, role, raw):
            files[role] = raw
    return Verified({role: held[role] for role in files}, files)


def _is_listed(held: TrustedSet, role: str, raw: bytes) -> bool:
    """A file of an app that was not refreshed lately may be older: it is left out, no error."""
    try:
        held.update_delegated_targets(raw, role, Targets.type)
    except OUTSIDE:
        return False
    return True


def _lost(what: str, got: object) -> Refused:
    return Refused(
        what,
        expected="verified metadata on this machine's disk",
        got=got,
        untouched="what runs keeps running",
        hint="refresh from a source",
        reason="no-trust",
    )
