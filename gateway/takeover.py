"""A new gateway, after a theft or for the first time: its numbers go on above the former one's.

Nodes never go back behind the number of a plan that they have seen, whatever keys change. The files
of approval roles say which numbers were used: k operators have signed them, so whoever hands one
back is not believed, only read. Names of online files are not used twice either, so that caches in
front of a mirror stay true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from logging import getLogger

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused
from embrasure.trust import layout
from gateway import metadata as form
from gateway.parts import EngineParts
from gateway.renumber import check_left
from gateway.repository import Repository

LOG = getLogger(__name__)
MOST = limits.VERSION_MOST // 2  # of a former publisher: half of all numbers are left for this one
Ask = Callable[[str], Awaitable[bytes]]


def unpublished(repository: Repository, env: str = "") -> list[str]:
    """Return the approval roles that `targets` delegate and this gateway never published.

    env: of this environment alone; empty: of all
    """
    known = form.delegated_names(_targets(repository))
    return sorted(
        role
        for role in known
        if layout.is_approval_role(role)
        and role.startswith(f"{env}-" if env else "")
        and repository.published_version(role) == 0
    )


async def learn(parts: EngineParts, ask: Ask, roles: list[str], asked: set[str], who: str) -> None:
    """Each of `roles` was asked for once, and its numbers go on above what was handed back.

    ask: returns the file of a role, empty for none; asked: grows by what was answered
    """
    for role in roles:
        if role in asked:
            continue
        raw = await ask(role)
        asked.add(role)
        if raw:
            try:
                await asyncio.to_thread(above_approval, parts, role, raw, who=who)
            except EmbrasureError as problem:
                LOG.warning("%s hands back what does not count: %s", who, problem)


def above_approval(parts: EngineParts, role: str, raw: bytes, *, who: str) -> bool:
    """Return whether the next plan of this approval role has a higher number because of `raw`.

    Raises Refused (`threshold`: fewer signatures than `targets` ask for now; `burnt`).
    """
    check_approved(raw, role, _targets(parts.repository))
    version = form.read_metadata(raw, Targets, role).signed.version
    check_left(role, version)
    if parts.database.number(f"role:{role}") >= version:
        return False
    with (
        parts.journal.act("renumber", who, lost=f"{role} v{version}"),
        parts.database.write() as connection,
    ):
        parts.database.take(connection, f"role:{role}", at_least=version)
    LOG.warning("%s has v%d of %s, which is not here: plans go on above", who, version, role)
    return True


def check_approved(raw: bytes, role: str, targets: Targets) -> None:
    """Return only when `raw` carries the signatures that make an approval of `role`."""
    if not form.has_threshold(raw, role, targets):
        raise Refused(
            role,
            expected="an approval that its operators have signed",
            got="fewer signatures than its threshold",
            untouched="the numbers of plans stay",
            reason="threshold",
        )


def above_former(parts: EngineParts, timestamp: bytes, snapshot: bytes, *, who: str) -> bool:
    """Return whether online files are numbered above those of the former publisher, whose keys an
    earlier root named.

    A thief holds those keys and may have run the numbers up: such ones are begun below again, and
    a mirror gives their names up by itself.
    """
    repository = parts.repository
    if not timestamp or not snapshot:
        return False
    stamp = form.read_metadata(timestamp, Timestamp, layout.TIMESTAMP)
    listing = form.read_metadata(snapshot, Snapshot, layout.SNAPSHOT)
    if not is_former(_roots(repository), stamp, listing):
        return False
    seen = {
        layout.TIMESTAMP: stamp.signed.version,
        layout.SNAPSHOT: listing.signed.version,
        **form.listed_roles(listing.signed),
    }
    higher = {
        role: version
        for role, version in seen.items()
        if (role in (layout.TIMESTAMP, layout.SNAPSHOT) or role.startswith("gates-"))
        and 0 < repository.published_version(role) <= version <= MOST
    }
    if not higher:
        return False
    with parts.journal.act("renumber", who, former=str(sorted(higher.items()))):
        repository.go_above(higher)
    LOG.warning("%s has files of a former publisher: numbers go on above", who)
    return True


def is_former(roots: list[Root], stamp: Metadata[Timestamp], listing: Metadata[Snapshot]) -> bool:
    """Return whether one of the older `roots` vouches for both files, and the newest does not."""
    newest, *older = roots
    return not form.is_signed(newest, layout.TIMESTAMP, stamp) and any(
        form.is_signed(root, layout.TIMESTAMP, stamp)
        and form.is_signed(root, layout.SNAPSHOT, listing)
        for root in older
    )


def _roots(repository: Repository) -> list[Root]:
    """Return the newest root, and those before it as far as they lie here: this gateway has walked
    them.
    """
    found = []
    for version in range(repository.view().roles[layout.ROOT].version, 0, -1):
        with suppress(NotFound):
            raw = repository.disk.role_file(layout.ROOT, version)
            found.append(form.read_metadata(raw, Root, layout.ROOT).signed)
    return found


def _targets(repository: Repository) -> Targets:
    raw = repository.client.role_bytes(repository.view(), layout.TARGETS)
    return form.read_metadata(raw, Targets, layout.TARGETS).signed
