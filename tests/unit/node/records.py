"""Records for tests of the journal, the states and the recovery."""

from __future__ import annotations

import msgspec

from embrasure import limits
from node.states import Record, Release, State, release_name


def make_release(seq: int) -> Release:
    """Return a release that is nowhere on disk."""
    digest = f"{seq:064x}"
    return Release(
        id=release_name(seq, digest), plan="f" * 56 + f"{seq:08x}", seq=seq, manifest=digest, wave=0
    )


def make_record(state: State, **changes: object) -> Record:
    """Return a record of an install of release 2 over release 1."""
    record = Record(
        v=2,
        app="shop",
        tx="0" * 32,
        state=state,
        transitions=0,
        starts=limits.STARTS,
        to=make_release(2),
        back=make_release(1),
        back_denied=False,
        attempt=1,
        try_number=1,
        gseq=1,
        nonce="0" * 32,
        collect="0" * 64,
        confirm="none",
        confirm_by=None,
        nonce_hash="",
        migrated="no",
        began=0,
        boot="0" * 32,
        soaked_s=0,
        ending="",
        reason="",
        detail="",
        interruptions=0,
        retry_at=0,
        since=0,
        final=0,
        by=None,
    )
    return msgspec.structs.replace(record, **changes)
