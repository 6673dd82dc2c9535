"""The version floors of metadata: how they rise, when they reset, what breaks them. Pure.

Drill: three cached files emptied by a power cut, then an old mirror.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.floors import TufFloors

Keys = Mapping[str, frozenset[str]]  # role -> ids of the keys its delegator now names


_PLAIN = re.compile(r"[\x20-\x7e]{1,128}")


def plain(outside: object) -> str:
    """Return a name as floors can hold it: ours as they are, strange ones by their hash.

    outside: a role or key id; python-tuf does not check that it is text
    """
    name = str(outside)
    if _PLAIN.fullmatch(name):
        return name
    return f"sha256:{sha256_hex(name.encode('utf-8', errors='surrogatepass'))}"


def after_reset(floors: TufFloors, keys: Keys) -> TufFloors:
    """Return the floors that still hold once a delegator has taken keys away.

    Source: TUF 1.0, 5.3.11: a thief who once held a key may have signed version 2^31, and no honest
    version would come after it. All but the root's go when the root dropped a snapshot or
    timestamp key; one role's when its delegator dropped a key of that role. The root's never goes.
    """

    def lost(role: str) -> bool:
        return role in keys and not frozenset(floors.keys.get(role, ())) <= keys[role]

    if lost(layout.SNAPSHOT) or lost(layout.TIMESTAMP):
        kept = {r: v for r, v in floors.versions.items() if r == layout.ROOT}
    else:
        kept = {r: v for r, v in floors.versions.items() if r == layout.ROOT or not lost(r)}
    return msgspec.structs.replace(floors, versions=kept)


def check_versions(floors: Mapping[str, int], versions: Mapping[str, int]) -> None:
    """Return only when no role is older than its floor; raises Refused (`rollback`)."""
    for role, version in versions.items():
        # Equal passes: a source may serve again what is held already.
        if version < floors.get(role, 0):
            raise Refused(
                f"{role} version",
                expected=f"{floors[role]} or later",
                got=version,
                untouched="the trusted metadata",
                hint="an old mirror, or one that was restored from a backup",
                reason="rollback",
            )


def raised(floors: TufFloors, versions: Mapping[str, int], keys: Keys, *, time: int) -> TufFloors:
    """Return the floors after these verified versions: nothing in them is lower than before."""
    now = {r: max(version, floors.versions.get(r, 0)) for r, version in versions.items()}
    # Keys of a role whose floor just went are renewed too, or it would go again next time.
    named = {*layout.TOP_ROLES, *floors.keys, *floors.versions, *now} & set(keys)
    kept = {role: tuple(sorted(keys[role])) for role in named}
    return msgspec.structs.replace(
        floors,
        versions={**floors.versions, **now},
        keys={**floors.keys, **kept},
        time=max(floors.time, time),
    )


def time_floor(expires: datetime, *, lifetime_s: int, clock: datetime) -> int:
    """Return the Unix time before which a verified timestamp cannot have been signed.

    Capped a little above our own clock: a signer that once jumped to 2099 must not brick a node.
    """
    signed = expires - timedelta(seconds=lifetime_s)
    return max(0, int(min(signed, clock + timedelta(seconds=limits.SKEW_SECONDS)).timestamp()))
