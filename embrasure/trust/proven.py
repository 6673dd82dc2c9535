"""What a source proves from the anchor alone: the offline roles and their documents, in memory.

For whoever has verified nothing yet. Nothing is kept, and no floor is known: the caller says how
old is too old.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

from embrasure import limits
from embrasure.errors import NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.client import check_target
from embrasure.trust.fetcher import fetch_whole
from embrasure.trust.listing import read_listing
from embrasure.trust.offline import Offline, check_fresh, newest
from embrasure.trust.source import Source
from embrasure.trust.trust_document import check_document


def proven(anchor: bytes, source: Source, *, env: str) -> Offline:
    """Return the offline roles of `source` that verify one by the other from `anchor` on.

    At most `limits.ROOT_STEPS` root steps are walked. What does not verify counts as none. Raises
    NotFound for a source without a listing, Refused, Unavailable.
    """
    listing = read_listing(source)
    last = min(listing.get(layout.ROOT, 1), 1 + limits.ROOT_STEPS)

    def stored(role: str, version: int) -> Iterable[bytes]:
        is_root = role == layout.ROOT
        number = version if is_root else listing.get(role, 0)
        if number < 1 or (is_root and number > last):
            return
        limit = limits.ROOT_BYTES if is_root else limits.TARGETS_BYTES
        with suppress(NotFound):
            yield fetch_whole(source, layout.metadata_file(role, number), limit=limit)

    return newest(anchor, stored, env=env)


def check_current(held: Offline, role: str, *, least: int, at: datetime | None) -> None:
    """Return only when `role` was proven, is not older than `least` and has not expired at `at`.

    at: None when its expiry does not matter
    Raises Refused (`unproven`, `rollback`, `expired`).
    """
    found = held.signed.get(role)
    if found is None:
        raise Refused(
            f"role {role}", expected="one that verifies from the trust anchor", got="none",
            reason="unproven",
        )  # fmt: skip
    if found.version < least:
        raise Refused(
            f"role {role}", expected=f"version {least} or later", got=found.version,
            reason="rollback",
        )  # fmt: skip
    if at is not None:
        check_fresh(found, role, at)


def proven_document(held: Offline, role: str, path: str, source: Source, *, root: str) -> bytes:
    """Return a document that a proven role lists; raises Refused, NotFound, Unavailable.

    root: the fleet whose document it must be
    """
    target = held.listed(role).get(path)
    if target is None:
        raise Refused(path, expected=f"a document of {role}", got="none", reason="unproven")
    if target.length > limits.DOOR_DOCUMENT_BYTES:
        raise Refused(path, expected="a trust document", got=f"{target.length} bytes",
                      reason="limit")  # fmt: skip
    raw = fetch_whole(source, layout.target_file(path, target.sha256), limit=target.length)
    check_target(raw, path, length=target.length, sha256=target.sha256)
    check_document(path, raw, root=root)
    return raw
