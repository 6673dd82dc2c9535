"""Sign a draft with one key, and put a draft in force when enough keyholders have signed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Key

from embrasure import fs
from embrasure.errors import Denied, NotFound, Refused
from embrasure.trust import layout
from pki import changes, desk, drafts, lint, refusals, roles, store, verify, walk
from pki.base import Base, read_base
from pki.counting import delegator_of
from pki.counting import missing as missing
from pki.drafts import Draft
from pki.folder import TrustFolder
from pki.keyfacts import KeyFacts, Opened


@dataclass(frozen=True, slots=True)
class Review:
    """A draft that may be signed, and the text that its signer must have read."""

    draft: Draft
    base: Base
    text: str


def review(draft: Draft, *, pinned: str, at: datetime) -> Review:
    """Return the draft's whole change; raises Refused for a draft that nobody may sign.

    pinned: id of the fleet that the signer's key is bound to, or empty
    """
    base = read_base(draft, pinned=pinned)
    lint.check_content(draft, root_id=base.root_id, at=at)
    check_version(draft, base)
    return Review(draft, base, changes.render(draft, base, at=at))


def check_version(draft: Draft, base: Base) -> None:
    """Return only when the draft follows what is in force by one; raises Refused."""
    check_follows(draft, base.previous.signed.version + 1 if base.previous else draft.version)


def check_follows(draft: Draft, expected: int) -> None:
    """Return only when the draft is of this version; revocations may be ahead of it: numbers that
    the policy has reset are passed over. Raises Refused.
    """
    may_be_ahead = draft.role == layout.REVOCATIONS and draft.version > expected
    if draft.version != expected and not may_be_ahead:
        raise Refused(f"draft of {draft.role}", expected=f"version {expected}", got=draft.version)


def check_may_sign(reviewed: Review, header: KeyFacts) -> None:
    """Return only when this key counts for this draft; raises Denied."""
    role = reviewed.draft.role
    keys = _countable(reviewed)
    purpose = roles.kind_of(role).purpose
    if header.keyid not in keys or header.purpose != purpose:
        owners = ", ".join(sorted(verify.name_of(key) for key in keys.values()))
        raise Denied(
            f"{role} v{reviewed.draft.version}",
            expected=f"a key of {owners}",
            got=f"a key of {header.label} ({header.keyid[:8]})",
            reason="not-a-signer",
        )


def may_sign(reviewed: Review, header: KeyFacts) -> bool:
    """Return whether this key counts for this draft."""
    try:
        check_may_sign(reviewed, header)
    except Denied:
        return False
    return True


def _countable(reviewed: Review) -> dict[str, Key]:
    role, base = reviewed.draft.role, reviewed.base
    keys = dict(verify.keys_of(role, base.delegator)[1])
    if base.trusted is not None and verify.delegates(base.trusted, role):
        keys.update(verify.keys_of(role, base.trusted)[1])
    if role == layout.ROOT:
        # A new root is signed by the old root's keyholders and by its own.
        own = store.as_root(reviewed.draft.metadata)
        keys.update(verify.keys_of(layout.ROOT, own)[1])
    return keys


def sign(reviewed: Review, opened: Opened) -> Path:
    """The draft has a signature by this key as a file of its own; return it. Raises Denied."""
    check_may_sign(reviewed, opened.header)
    signature = opened.signer.sign(reviewed.draft.metadata.signed_bytes)
    return drafts.add_signature(reviewed.draft, signature)


def merge(trust: TrustFolder, draft: Draft, *, at: datetime) -> None:
    """The draft is in force: verified by what is in force, files first, metadata last.

    Raises Denied (`threshold`) when signatures are missing, Refused for an unsound draft.
    Steps: 1 its delegator is in force, 2 signatures, 3 version, 4 content and no signed no, 5 no
    role loses its signatures, 6 clients on the old root walk to a new one.
    """
    if _is_in_force(trust, draft):
        # A crash came between the last file and the end of the draft.
        drafts.discard(draft.folder)
        return
    # 1. and 2.
    delegator = _in_force(trust, draft)
    wanting, signed, others = missing(trust, draft)
    if wanting:
        raise Denied(
            f"{draft.role} v{draft.version}",
            expected=f"{wanting} more of {', '.join(others)}",
            got=f"signatures of {', '.join(signed) or 'nobody'}",
            hint=f"embrasure trust sign DIR --role {draft.role} --key keyfile:FILE",
            reason="threshold",
        )
    verify.check_signed(draft.role, draft.metadata, delegator)
    # 3.
    held = trust.held(draft.role)
    check_follows(draft, 1 if held is None else held.signed.version + 1)
    # 4.
    lint.check_content(draft, root_id=trust.root_id, at=at)
    refusals.check_not_refused(trust, draft)
    # 5.
    if draft.role in (layout.ROOT, layout.TARGETS):
        check_no_orphan(trust, draft)
    # 6.
    if draft.role == layout.ROOT and draft.version > 1:
        walk.check_walk(trust, draft, at=at)
    _put_in_force(trust, draft)


def _is_in_force(trust: TrustFolder, draft: Draft) -> bool:
    held = trust.held(draft.role)
    return held is not None and store.signed_digest(held) == draft.digest


def _in_force(trust: TrustFolder, draft: Draft) -> verify.Delegator:
    if draft.role == layout.ROOT:
        if draft.version == 1:
            verify.check_first(draft.metadata, trust.root_id)
        held = trust.held(layout.ROOT)
        return store.as_root(draft.metadata if held is None else held)
    name = layout.ROOT if draft.role == layout.TARGETS else layout.TARGETS
    held = trust.held(name)
    found = None if held is None else delegator_of(held)
    if found is None or not verify.delegates(found, draft.role):
        raise Denied(
            f"draft of {draft.role}",
            expected=f"{name} in force first",
            got="a draft of it",
            reason="threshold",
        )
    return found


def check_no_orphan(trust: TrustFolder, draft: Draft) -> None:
    """Return only when no role in force would lose its valid signatures; raises Denied.

    A routine change of keys must not take the way back away. A role whose open draft has the new
    keys' signatures already does not count: it is put in force next.
    """
    delegator = delegator_of(draft.metadata)
    for role in trust.roles():
        held = trust.held(role)
        if held is None or not _is_delegated(role, draft.role):
            continue
        try:
            verify.check_signed(role, held, delegator)
        except Refused as problem:
            if _is_signed_anew(trust, role, delegator):
                continue
            raise Denied(
                f"{draft.role} v{draft.version}",
                expected=f"{role} v{held.signed.version} to stay valid",
                got=problem.got,
                hint=f"embrasure trust sign --role {role}"
                if trust.draft(role)
                else f"sign {role} again with the new keys first: embrasure trust renew",
                reason="threshold" if trust.draft(role) else "orphan",
            ) from None


def _is_delegated(role: str, by: str) -> bool:
    if by == layout.ROOT:
        return role == layout.TARGETS
    return role not in (layout.ROOT, layout.TARGETS)


def _is_signed_anew(trust: TrustFolder, role: str, delegator: verify.Delegator) -> bool:
    draft = trust.draft(role)
    if draft is None:
        return False
    try:
        verify.check_signed(role, draft.metadata, delegator)
    except Refused:
        return False
    return True


def _put_in_force(trust: TrustFolder, draft: Draft) -> None:
    raw = draft.metadata.to_bytes()
    if draft.role != layout.ROOT:
        for path, entry in store.as_targets(draft.metadata).targets.items():
            file = layout.target_file(path, entry.hashes["sha256"])
            store.write(trust.path, file, draft.documents[path])
    if draft.role == layout.ROOT and draft.version == 1:
        fs.replace_file(trust.path, "anchor.json", raw, mode=0o644)
    store.write(trust.path, layout.metadata_file(draft.role, draft.version), raw)
    drafts.discard(draft.folder)
    desk.refresh_bases(trust)


def merge_ready(
    trust: TrustFolder, *, at: datetime, only: Collection[str] | None = None
) -> tuple[list[str], list[str]]:
    """Put in force every draft that has its signatures; return those merged and those waiting.

    only: these roles and no others
    """
    merged, waiting = [], []
    for draft in trust.drafts():
        if only is not None and draft.role not in only:
            continue
        try:
            merge(trust, draft, at=at)
        except Denied as problem:
            if problem.reason != "threshold":
                raise
            waiting.append(f"{draft.role} v{draft.version}: {problem}")
        else:
            merged.append(f"{draft.role} v{draft.version}")
    return merged, waiting


def must_draft(trust: TrustFolder, role: str) -> Draft:
    """Return the open draft of `role`; raises NotFound."""
    draft = trust.draft(role)
    if draft is None:
        raise NotFound(f"draft of {role}", expected="an open draft", got="none")
    return draft
