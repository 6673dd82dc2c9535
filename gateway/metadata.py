"""The online roles as signed files: gates, snapshot, timestamp; and strict reading of any role.

Only python-tuf's classes make and sign metadata; bytes that are read are bounded first.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from embrasure import limits
from embrasure.clock import write_time
from embrasure.errors import EmbrasureError, Failed, Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex

T = TypeVar("T", Root, Targets, Snapshot, Timestamp)
_LIMITS = {
    layout.ROOT: limits.ROOT_BYTES,
    layout.TARGETS: limits.TARGETS_BYTES,
    layout.SNAPSHOT: limits.SNAPSHOT_BYTES,
    layout.TIMESTAMP: limits.TIMESTAMP_BYTES,
}


def limit_of(role: str) -> int:
    """Return how many bytes a metadata file of `role` may have."""
    return _LIMITS.get(role, limits.DELEGATED_BYTES)


def read_metadata(raw: bytes, shape: type[T], role: str) -> Metadata[T]:
    """Return the metadata in `raw` without checking any signature; raises Refused.

    Whoever uses it must hold bytes that a TrustClient has verified, or verify them next.
    """
    if len(raw) > limit_of(role):
        raise Refused(role, expected=f"{limit_of(role)} bytes", got=len(raw), reason="limit")
    try:
        metadata = Metadata[T].from_bytes(raw)
    # python-tuf reads with plain attribute access: any exception means "not metadata".
    except (RepositoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refused(role, expected="metadata", got="else", reason="bad-schema") from None
    if not isinstance(metadata.signed, shape):
        raise Refused(role, expected=shape.type, got=metadata.signed.type, reason="bad-schema")
    return metadata


def sign(signed: T, signer: Signer, *, role: str) -> bytes:
    """Return the file of `signed` with one signature; raises Failed when the key cannot sign."""
    metadata = Metadata(signed)
    try:
        metadata.sign(signer)
    except (SigningError, RepositoryError, ValueError, OSError) as problem:
        if isinstance(problem.__cause__, EmbrasureError):
            # A key in a token: what is wrong with it is said there.
            raise problem.__cause__ from None
        raise Failed(
            f"signature of {role}",
            expected="its key to sign",
            got=type(problem).__name__,
            reason="signer",
        ) from None
    return metadata.to_bytes()


def believed_gates(raw: bytes, role: str, targets: Targets, *, own: str) -> Targets | None:
    """Return the gates file in `raw` if a key that counts now has signed it, or this gateway has
    published it before its key was changed; else it is a thief's, and None.

    own: SHA-256 of the signed bytes of the file that this gateway has published, empty for none
    """
    found = read_metadata(raw, Targets, role)
    mine = sha256_hex(found.signed_bytes) == own
    return found.signed if mine or has_threshold(raw, role, targets) else None


def make_gates(
    former: Targets | None, changed: Mapping[str, bytes], *, version: int, at: datetime
) -> Targets:
    """Return the next `gates-<env>`: every gate of the former one, and `changed` by path."""
    listed = dict(former.targets) if former is not None else {}
    for path, raw in changed.items():
        listed[path] = TargetFile.from_data(path, raw, ["sha256"])
    expires = at + timedelta(seconds=limits.GATES_SECONDS)
    return Targets(version=version, expires=expires, targets=listed)


def make_snapshot(roles: Mapping[str, int], *, version: int, at: datetime) -> Snapshot:
    """Return the next snapshot, which lists these versions."""
    meta = {f"{role}.json": MetaFile(number) for role, number in sorted(roles.items())}
    expires = at + timedelta(seconds=limits.SNAPSHOT_SECONDS)
    return Snapshot(version=version, expires=expires, meta=meta)


def make_timestamp(snapshot: bytes, number: int, *, version: int, at: datetime) -> Timestamp:
    """Return the next timestamp, which names the snapshot file by length and digest."""
    expires = at + timedelta(seconds=limits.TIMESTAMP_SECONDS)
    named = MetaFile.from_data(number, snapshot, ["sha256"])
    return Timestamp(version=version, expires=expires, snapshot_meta=named)


def listed_roles(snapshot: Snapshot) -> dict[str, int]:
    """Return role -> version as a snapshot lists them."""
    return {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}


def delegated_names(targets: Targets) -> set[str]:
    """Return the roles that a targets file delegates."""
    found = targets.delegations
    return set(found.roles or {}) if found is not None else set()


def key_ids(delegator: Root | Targets, role: str) -> frozenset[str]:
    """Return the ids of the keys that may sign `role`; none for a role that is not delegated."""
    try:
        return frozenset(delegator.get_delegated_role(role).keyids)
    except ValueError:
        return frozenset()


def newest(files: Mapping[str, bytes], role: str) -> int:
    """Return the highest version of `role` among these repository paths, 0 for none."""
    tail = f".{role}.json"
    names = (path.removeprefix("metadata/") for path in files if path.endswith(tail))
    return max(
        (int(n.removesuffix(tail)) for n in names if n.removesuffix(tail).isdigit()), default=0
    )


def is_signed(delegator: Root | Targets, role: str, metadata: Metadata[T]) -> bool:
    """Return whether `metadata` carries the threshold of signatures that `role` needs."""
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        return False
    return True


def has_threshold(raw: bytes, role: str, targets: Targets) -> bool:
    """Return whether this file of a delegated role carries its threshold of signatures."""
    try:
        return is_signed(targets, role, read_metadata(raw, Targets, role))
    except EmbrasureError:
        return False


def problem_of(raw: bytes, role: str, targets: Targets, *, at: datetime) -> str:
    """Return why nodes cannot use this file of a delegated role at `at`, empty when they can."""
    if not has_threshold(raw, role, targets):
        return "fewer valid signatures than its threshold"
    signed = read_metadata(raw, Targets, role).signed
    return f"expired at {write_time(signed.expires)}" if signed.is_expired(at) else ""


def same_content(one: bytes, other: bytes, role: str) -> bool:
    """Return whether two files of a role say the same, whoever signed them; raises Refused."""
    mine, yours = read_metadata(one, Targets, role), read_metadata(other, Targets, role)
    return mine.signed_bytes == yours.signed_bytes
