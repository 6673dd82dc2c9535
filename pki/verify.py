"""Verify what is in force, from root version 1 on: each version by the one before it, each role
by the role that delegates it, each target file by its length and digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Key, Root, Targets

from embrasure.clock import write_time
from embrasure.errors import Refused
from embrasure.trust import layout
from pki import people, store
from pki.store import AnyMetadata

Delegator = Root | Targets


@dataclass(frozen=True, slots=True)
class Verified:
    """One verified role. owners, signers: persons, or the start of an online key's id."""

    role: str
    version: int
    threshold: int
    owners: tuple[str, ...]
    signers: tuple[str, ...]
    expires: datetime
    expired: bool
    digest: str

    def as_json(self) -> dict[str, object]:
        """Return what `--json` shows of a role."""
        return {
            "role": self.role,
            "version": self.version,
            "threshold": self.threshold,
            "owners": list(self.owners),
            "signers": list(self.signers),
            "expires": write_time(self.expires),
            "expired": self.expired,
            "digest": f"sha256:{self.digest}",
        }


def verify(folder: Path, *, root_id: str, found: Mapping[str, int], at: datetime) -> list[Verified]:
    """Return all roles of `found` (newest versions), verified; raises Refused, NotFound.

    Expiry is told, not refused: an expired role is still the base of its next version. Steps: 1
    root, one version at a time, 2 targets by root, 3 every other role by targets, 4 their files.
    """
    if layout.ROOT not in found:
        raise Refused("trust folder", expected="root metadata", got="none", reason="no-trust")
    # 1.
    roots = list(walk_root(folder, root_id=root_id, newest=found[layout.ROOT]))
    root = store.as_root(roots[-1])
    done = [describe(layout.ROOT, roots[-1], root, at)]
    if layout.TARGETS not in found:
        return done
    # 2.
    top = store.read_metadata(folder, layout.TARGETS, found[layout.TARGETS])
    check_signed(layout.TARGETS, top, root)
    done.append(describe(layout.TARGETS, top, root, at))
    # 3.
    targets = store.as_targets(top)
    for role, version in found.items():
        if role in (layout.ROOT, layout.TARGETS):
            continue
        one = store.read_metadata(folder, role, version)
        check_signed(role, one, targets)
        # 4.
        store.read_targets(folder, store.as_targets(one))
        done.append(describe(role, one, targets, at))
    return done


def walk_root(folder: Path, *, root_id: str, newest: int) -> Iterator[AnyMetadata]:
    """Yield root versions 1 to `newest`, each verified; raises Refused, NotFound."""
    before = store.read_metadata(folder, layout.ROOT, 1)
    check_first(before, root_id)
    check_signed(layout.ROOT, before, store.as_root(before))
    yield before
    for version in range(2, newest + 1):
        found = store.read_metadata(folder, layout.ROOT, version)
        check_next_root(before, found)
        yield found
        before = found


def check_first(found: AnyMetadata, root_id: str) -> None:
    """Return only when `found` is the root version 1 that names the fleet; raises Refused."""
    if found.signed.version != 1 or store.signed_digest(found) != root_id:
        raise Refused(
            "root 1", expected=f"fleet {root_id[:16]}", got="another fleet", reason="identity"
        )


def check_next_root(before: AnyMetadata, found: AnyMetadata) -> None:
    """Return only when both the root before and the new one accept the new one; raises Refused."""
    if found.signed.version != before.signed.version + 1:
        raise Refused("root", expected=f"version {before.signed.version + 1}", got="another")
    check_signed(layout.ROOT, found, store.as_root(before))
    check_signed(layout.ROOT, found, store.as_root(found))


def check_signed(role: str, found: AnyMetadata, delegator: Delegator) -> None:
    """Return only when threshold many of the delegated keys signed; raises Refused."""
    try:
        delegator.verify_delegate(role, found.signed_bytes, found.signatures)
    except UnsignedMetadataError as problem:
        raise Refused(
            f"{role} v{found.signed.version}",
            expected="signatures up to its threshold",
            got=problem,
            reason="threshold",
        ) from None
    except ValueError:
        raise Refused(role, expected="a delegated role", got="none", reason="threshold") from None


def signers(role: str, found: AnyMetadata, delegator: Delegator) -> dict[str, Key]:
    """Return the delegated keys whose signatures on `found` verify, by key id."""
    try:
        result = delegator.get_verification_result(role, found.signed_bytes, found.signatures)
    except ValueError:
        return {}
    return dict(result.signed)


def keys_of(role: str, delegator: Delegator) -> tuple[int, dict[str, Key]]:
    """Return threshold and keys of a role; raises Refused when it is not delegated."""
    try:
        found = delegator.get_delegated_role(role)
        return found.threshold, {keyid: delegator.get_key(keyid) for keyid in found.keyids}
    except ValueError:
        raise Refused(role, expected="a delegated role", got="none", reason="threshold") from None


def delegates(delegator: Delegator, role: str) -> bool:
    """Return whether `delegator` says who signs `role`."""
    try:
        delegator.get_delegated_role(role)
    except ValueError:
        return False
    return True


def name_of(key: Key) -> str:
    """Return the owner's name, or for an online key the start of its id."""
    return people.owner_of(key) if people.PERSON in key.unrecognized_fields else key.keyid[:16]


def describe(role: str, found: AnyMetadata, delegator: Delegator, at: datetime) -> Verified:
    """Return what is known of one verified role."""
    threshold, keys = keys_of(role, delegator)
    return Verified(
        role=role,
        version=found.signed.version,
        threshold=threshold,
        owners=tuple(sorted(name_of(key) for key in keys.values())),
        signers=tuple(sorted(name_of(key) for key in signers(role, found, delegator).values())),
        expires=found.signed.expires,
        expired=found.signed.is_expired(at),
        digest=store.signed_digest(found),
    )
