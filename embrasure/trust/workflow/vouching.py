"""Who vouches for a metadata file. python-tuf checks signatures, once for the same bytes, keys and
threshold: that they hold can never become untrue.

Nothing else is remembered: each file is read and parsed again, and version, expiry, hash and floors
are judged each time.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from securesystemslib.signer import Signature, SSlibKey
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, T, Targets, VerificationResult
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from embrasure import limits

Delegator = Root | Targets


@dataclass(frozen=True, slots=True)
class Vouched:
    """Enough keys signed. keys: ids of those that may; signers: of those that did; sha256: of the
    signed bytes.
    """

    threshold: int
    keys: frozenset[str]
    signers: frozenset[str]
    sha256: str


class _Memory:
    """What was found of the last files. Threads may share it."""

    def __init__(self) -> None:
        self._held: OrderedDict[object, Vouched] = OrderedDict()
        self._mutex = threading.Lock()

    def get(self, case: object) -> Vouched | None:
        with self._mutex:
            if case in self._held:
                self._held.move_to_end(case)
            return self._held.get(case)

    def put(self, case: object, found: Vouched) -> None:
        with self._mutex:
            self._held[case] = found
            while len(self._held) > limits.VOUCHED_KEPT:
                self._held.popitem(last=False)


_memory = _Memory()


def vouched(raw: bytes, metadata: Metadata[Any], role: str, delegator: Delegator) -> Vouched:
    """Return who vouches for the file `raw`, which `metadata` was parsed from, as `role`.

    Raises UnsignedMetadataError when they are too few, ValueError when nobody may.
    """
    case = _case(raw, role, delegator)
    found = _memory.get(case) if case is not None else None
    if found is not None:
        return found
    signed = metadata.signed_bytes
    result = delegator.get_verification_result(role, signed, metadata.signatures)
    check_enough(result, role)
    signers = frozenset(result.signed)
    every, digest = signers | frozenset(result.unsigned), hashlib.sha256(signed).hexdigest()
    found = Vouched(result.threshold, every, signers, digest)
    if case is not None:
        _memory.put(case, found)
    return found


def check_enough(result: VerificationResult, role: str) -> None:
    """Return only when python-tuf counts the threshold as reached, as its `verify_delegate` does;
    raises UnsignedMetadataError.
    """
    if not result.verified:
        got = f"{len(result.signed)}/{result.threshold}"
        raise UnsignedMetadataError(f"{role} was signed by {got} keys")


def _case(raw: bytes, role: str, delegator: Delegator) -> object:
    """Return all that the answer depends on; None where it may depend on more."""
    named = delegator.get_delegated_role(role)
    keys = []
    for keyid in named.keyids:
        try:
            key = delegator.get_key(keyid)
        except ValueError:
            continue  # python-tuf passes over it, too
        if type(key) is not SSlibKey:
            return None  # it may ask the world outside
        parts = (part for pair in key.keyval.items() for part in pair)
        keys.append((keyid, key.keytype, key.scheme, *parts))
    case = (hashlib.sha256(raw).digest(), role, named.threshold, tuple(keys))
    try:
        hash(case)
    except TypeError:
        return None  # python-tuf does not look at every form
    return case


class TrustedSet(TrustedMetadataSet):
    """python-tuf's workflow, with signatures that are checked once."""

    def __init__(self, anchor: bytes) -> None:
        super().__init__(anchor, EnvelopeType.METADATA)

    def _load_trusted_root(self, data: bytes) -> None:
        # The first step of its constructor, once it has chosen how files are loaded.
        self._load_data = _load
        metadata = _parsed(Root, data)
        vouched(data, metadata, Root.type, metadata.signed)
        self._add(Root.type, metadata.signed, Root.type)


def _parsed(kind: type[T], data: bytes) -> Metadata[T]:
    metadata = Metadata[T].from_bytes(data)
    if metadata.signed.type != kind.type:
        raise RepositoryError(f"Expected '{kind.type}', got '{metadata.signed.type}'")
    return metadata


def _load(
    role: type[T], data: bytes, delegator: Delegator | None = None, role_name: str | None = None
) -> tuple[T, bytes, dict[str, Signature]]:
    """Return the file as python-tuf's own `_load_from_metadata` (7.0.1) does.

    Of the signed bytes it takes those of a root alone; of others none are made.
    """
    metadata = _parsed(role, data)
    if delegator is not None:
        vouched(data, metadata, role_name or role.type, delegator)
    signed = metadata.signed_bytes if role.type == Root.type else b""
    return metadata.signed, signed, metadata.signatures
