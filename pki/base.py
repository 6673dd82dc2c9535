"""What a draft is compared with: the files in force that it carries, verified on the signer's own
machine. What does not verify is treated as absent, so it cannot hide a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tuf.api.metadata import Root

from embrasure.errors import NotFound, Refused
from embrasure.trust import layout
from pki import drafts, store, verify
from pki.drafts import Draft
from pki.store import AnyMetadata
from pki.verify import Delegator


@dataclass(frozen=True, slots=True)
class Base:
    """What is in force before a draft.

    delegator: who says which keys may sign the draft (it may be a draft itself); trusted: the same
    as far as it verifies, None when it does not; previous, former:
    the version in force and its target files, None and empty when there is none; notes: what the
    signer must know about this base
    """

    root_id: str
    delegator: Delegator
    trusted: Delegator | None = None
    previous: AnyMetadata | None = None
    former: Mapping[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_base(draft: Draft, *, pinned: str) -> Base:
    """Return the base that `draft` carries; raises Refused, NotFound.

    pinned: the fleet's id that the signer's key is bound to, or empty at its first signature
    Steps: 1 root version 1 is the pinned fleet, 2 later roots by those before, 3 targets by the
    newest verified root, 4 the former version of the role by what is verified.
    """
    # 1.
    if draft.role == layout.ROOT and draft.version == 1:
        check_pinned(draft.digest, pinned)
        return Base(draft.digest, store.as_root(draft.metadata))
    folder = draft.folder / drafts.BASE
    first = store.read_metadata(folder, layout.ROOT, 1)
    root_id = store.signed_digest(first)
    check_pinned(root_id, pinned)
    # 2.
    root = _walk(folder, layout.ROOT, first, store.versions(folder, layout.ROOT)[1:])
    if draft.role == layout.ROOT:
        trusted = root.trusted or first
        known = store.as_root(trusted)
        return Base(root_id, known, known, trusted, {}, root.notes)
    if draft.role == layout.TARGETS:
        return _with_previous(draft, root_id, root)
    # 3.
    versions = store.versions(folder, layout.TARGETS)
    top = _walk(folder, layout.TARGETS, root.trusted, versions)
    # 4.
    return _with_previous(draft, root_id, top)


def check_pinned(root_id: str, pinned: str) -> None:
    """Return only when the draft is of the fleet that the signer's key serves; raises Refused."""
    if pinned not in ("", root_id):
        raise Refused(
            "draft",
            expected=f"fleet {pinned[:16]}, which this key serves",
            got=f"fleet {root_id[:16]}",
            reason="identity",
        )


@dataclass(frozen=True, slots=True)
class _Delegating:
    """trusted: the newest version that verifies; newest: the newest there is, maybe a draft."""

    trusted: AnyMetadata | None
    newest: AnyMetadata
    notes: tuple[str, ...]


def _walk(folder: Path, role: str, start: AnyMetadata | None, versions: list[int]) -> _Delegating:
    # For root, `start` is version 1 and each version needs the one before; for targets it is root.
    trusted = start if role == layout.ROOT else None
    newest, notes = start, tuple[str, ...]()
    for version in versions:
        newest = store.read_metadata(folder, role, version)
        before = trusted if role == layout.ROOT else start
        if before is not None and _holds(role, newest, before=before):
            trusted, notes = newest, ()
        else:
            notes = (f"{role} v{version} is itself a draft",)
    if newest is None or (role != layout.ROOT and not versions):
        raise Refused("draft", expected=f"the {role} role beside it", got="none")
    return _Delegating(trusted, newest, notes)


def _holds(role: str, found: AnyMetadata, *, before: AnyMetadata) -> bool:
    try:
        if role == layout.ROOT:
            verify.check_next_root(before, found)
        elif role == layout.TARGETS and isinstance(before.signed, Root):
            verify.check_signed(role, found, before.signed)
        else:
            return False
    except Refused:
        return False
    return True


def _with_previous(draft: Draft, root_id: str, top: _Delegating) -> Base:
    """Return the base with the former version, if that verifies; else everything is new."""
    folder = draft.folder / drafts.BASE
    delegator = _delegator(top.newest)
    trusted = _delegator(top.trusted) if top.trusted is not None else None
    versions = [v for v in store.versions(folder, draft.role) if v < draft.version]
    if not versions:
        return Base(root_id, delegator, trusted, None, {}, top.notes)
    try:
        former = store.read_metadata(folder, draft.role, versions[-1])
        if trusted is None:
            raise Refused(draft.role, expected="a verified delegation", got="none")
        verify.check_signed(draft.role, former, trusted)
        contents = store.read_targets(folder, store.as_targets(former))
    except (Refused, NotFound) as problem:
        note = f"the version in force could not be verified ({problem}): all is shown as new"
        return Base(root_id, delegator, trusted, None, {}, (*top.notes, note))
    return Base(root_id, delegator, trusted, former, contents, top.notes)


def _delegator(found: AnyMetadata) -> Delegator:
    return found.signed if isinstance(found.signed, Root) else store.as_targets(found)
