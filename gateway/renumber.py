"""A gateway that was restored from an old backup finds the numbers that it has used since.

Nodes and mirrors hand back the newest timestamp and snapshot that they have verified. Only what one
of this gateway's own keys of now has signed counts: nobody has to be believed, and a liar can at
most hand back what is older, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from logging import getLogger

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Root, Snapshot, Timestamp

from embrasure import limits
from embrasure.errors import NotFound, Refused
from embrasure.trust import layout
from gateway import metadata as form
from gateway.parts import EngineParts
from gateway.repository import Repository
from gateway.repository_folder import LAST

LOG = getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was published once. online: timestamp, snapshot, gates; others: what it listed beside,
    empty when no snapshot was handed back.
    """

    online: Mapping[str, int]
    others: Mapping[str, int]


def go_on_above(parts: EngineParts, timestamp: bytes, snapshot: bytes, *, who: str) -> bool:
    """Return whether a publication above these numbers was made because of them.

    Plans are numbered above what the snapshot lists, too. Raises Refused (`not-ours`, `burnt`).
    """
    repository = parts.repository
    if not timestamp or timestamp == _own(repository):
        return False
    seen = proven(repository, timestamp, snapshot)
    published = {role: repository.published_version(role) for role in seen.online}
    twice = seen.online[layout.TIMESTAMP] == published[layout.TIMESTAMP]  # and it is another file
    if not twice and all(published[role] >= seen.online[role] for role in published):
        return False
    lost = {
        role: version
        for role, version in seen.others.items()
        if version > repository.published_version(role)
    }
    facts = ", ".join(f"{role} v{version}" for role, version in sorted(lost.items()))
    with parts.journal.act("renumber", who, lost=facts):
        with parts.database.write() as connection:
            for role, version in lost.items():
                if parts.database.number(f"role:{role}") < version:
                    parts.database.take(connection, f"role:{role}", at_least=version)
        repository.go_above(seen.online)
    LOG.warning("%s has seen more than this gateway: numbers go on above", who)
    if facts:
        LOG.warning("published once, and not here: %s; bring it, or approve a new plan", facts)
    return True


def proven(repository: Repository, timestamp: bytes, snapshot: bytes) -> Seen:
    """Return the numbers in these files, each signed by the key that the newest root names.

    snapshot: may be empty; raises Refused (`not-ours`, `burnt`, `bad-schema`, `limit`)
    """
    view = repository.view()
    root = form.read_metadata(
        repository.client.role_bytes(view, layout.ROOT), Root, layout.ROOT
    ).signed
    stamp = form.read_metadata(timestamp, Timestamp, layout.TIMESTAMP)
    check_signed(root, layout.TIMESTAMP, stamp.signed_bytes, stamp.signatures)
    online = {
        layout.TIMESTAMP: stamp.signed.version,
        layout.SNAPSHOT: stamp.signed.snapshot_meta.version,
    }
    others: dict[str, int] = {}
    if snapshot:
        listing = form.read_metadata(snapshot, Snapshot, layout.SNAPSHOT)
        check_signed(root, layout.SNAPSHOT, listing.signed_bytes, listing.signatures)
        online[layout.SNAPSHOT] = max(online[layout.SNAPSHOT], listing.signed.version)
        for role, version in form.listed_roles(listing.signed).items():
            (online if role.startswith("gates-") else others)[role] = version
    for role, version in (online | others).items():
        check_left(role, version)
    return Seen(online, others)


def check_left(role: str, version: int) -> None:
    """Return only when enough numbers are left above `version`; raises Refused (`burnt`)."""
    most = limits.VERSION_MOST - limits.VERSIONS_KEPT
    if version > most:
        raise Refused(
            f"{role} v{version}",
            expected=f"at most v{most}",
            got="a number that a thief of the key has burnt",
            untouched="this gateway's numbers stay",
            hint="replace the key: docs/repair.md, Burnt numbers",
            reason="burnt",
        )


def check_signed(
    root: Root, role: str, signed_bytes: bytes, signatures: Mapping[str, object]
) -> None:
    """Return only when the threshold of `role` in `root` has signed; raises Refused."""
    try:
        root.verify_delegate(role, signed_bytes, dict(signatures))  # type: ignore[arg-type]  # theirs
    except (RepositoryError, ValueError):
        raise Refused(
            role,
            expected="a signature of this gateway",
            got="none that counts",
            untouched="its numbers stay",
            reason="not-ours",
        ) from None


def _own(repository: Repository) -> bytes:
    try:
        return repository.disk.read(LAST, limit=limits.TIMESTAMP_BYTES)
    except NotFound:
        return b""
