"""The trust anchor: root version 1, carried to every node by hand; its hash names the fleet."""

from __future__ import annotations

import hashlib

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from embrasure import limits
from embrasure.errors import Refused


def parse_anchor(raw: bytes) -> Metadata[Root]:
    """Return the root metadata in `raw`, version 1, signed by its own threshold; raises Refused."""

    def refuse(expected: str, got: object, reason: str = "bad-schema") -> Refused:
        return Refused("trust anchor", expected=expected, got=got, reason=reason)

    if len(raw) > limits.ROOT_BYTES:
        raise refuse(f"at most {limits.ROOT_BYTES} bytes", f"{len(raw)} bytes", "limit")
    try:
        metadata = Metadata[Root].from_bytes(raw)
    # python-tuf reads with plain attribute access: any exception means "not metadata".
    except (RepositoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise refuse("root metadata", "something else") from None
    root = metadata.signed
    if root.type != Root.type or root.version != 1:
        raise refuse("root version 1", f"{root.type} version {root.version}")
    try:
        root.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as problem:
        raise refuse("a root signed by its own threshold", problem, "threshold") from None
    return metadata


def root_id_of(raw: bytes) -> str:
    """Return the name of the fleet: SHA-256 of the canonical signed part of its root version 1.

    Not of the file, to which signatures may be added later. Raises Refused.
    """
    return hashlib.sha256(parse_anchor(raw).signed_bytes).hexdigest()
