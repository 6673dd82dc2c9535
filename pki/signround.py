"""One keyholder's round: show each draft that his key counts for, have it confirmed, sign it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from embrasure.clock import Clock
from embrasure.command import Common
from embrasure.errors import Denied, Misuse, NotFound, Refused
from pki import acting, counting, drafts, refusals, signers, signing, transcript, verify
from pki.drafts import Draft
from pki.folder import TrustFolder
from pki.keyfacts import KeyFacts
from pki.passphrase import PassphraseSource
from pki.signing import Review


def sign_drafts(
    folder: Path,
    role: str | None,
    key: str,
    *,
    confirmed: Collection[str],
    source: PassphraseSource,
    common: Common,
    clock: Clock,
) -> list[dict[str, object]]:
    """Each confirmed draft has a signature of this key; return role, version, digest and file.

    The change is shown and confirmed before the key is opened. Raises Denied, Refused, NotFound.
    """
    uri = signers.as_uri(key)
    header = signers.facts_of(uri)
    found = drafts.find(folder, role)
    if not found:
        raise NotFound(str(folder), expected="an open draft", got="none")
    reviewed = _countable(found, header, clock, role)
    for one in reviewed:
        acting.show(one)
        acting.confirm(one, confirmed, common)
    opened = signers.open_key(uri, source, purpose="security", root=reviewed[0].base.root_id)
    if opened.header != header:
        raise Refused(uri, expected="the key shown before", got="another")
    return [
        {
            "role": one.draft.role,
            "version": one.draft.version,
            "digest": one.draft.digest,
            "file": str(acting.sign_with(one, opened, uri, common)),
        }
        for one in reviewed
    ]


def refuse_drafts(
    folder: Path,
    role: str | None,
    key: str,
    reason: str,
    *,
    source: PassphraseSource,
    clock: Clock,
) -> list[dict[str, object]]:
    """Each draft that this key counts for is refused with it for good; return role, version, digest
    and file. Nothing is confirmed: a no never does harm that a discard does not undo.
    """
    uri = signers.as_uri(key)
    header = signers.facts_of(uri)
    found = drafts.find(folder, role)
    if not found:
        raise NotFound(str(folder), expected="an open draft", got="none")
    reviewed = _countable(found, header, clock, role)
    if len(reviewed) > 1:
        names = ", ".join(one.draft.role for one in reviewed)
        raise Misuse("--role", expected="the draft that is refused", got=f"several: {names}")
    root = reviewed[0].base.root_id
    opened = signers.open_key(uri, source, purpose="security", root=root)
    told: list[dict[str, object]] = []
    for one in reviewed:
        raw = refusals.refuse(one.draft, opened, reason, root=root, at=clock())
        file = refusals.keep(folder, one.draft, opened.header.keyid, raw)
        told.append(
            {
                "role": one.draft.role,
                "version": one.draft.version,
                "digest": one.draft.digest,
                "file": str(file),
            }
        )
    return told


def record(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Return a context whose signatures are in the transcript of the trust folder at `folder`.

    Carried drafts have no transcript of their own: what they bring back is recorded at the merge.
    """
    if not TrustFolder.is_at(folder):
        return contextlib.nullcontext()
    trust = TrustFolder.open(folder)
    return transcript.recorded_unlocked(trust.path, trust.root_id)


def _countable(
    found: list[Draft], header: KeyFacts, clock: Clock, role: str | None
) -> list[Review]:
    """Return what this key may sign; with a role named, that it may not is an error."""
    reviewed = [signing.review(draft, pinned=header.root, at=clock()) for draft in found]
    mine = []
    for one in reviewed:
        try:
            signing.check_may_sign(one, header)
        except Denied:
            if role is not None or len(reviewed) == 1:
                raise
        else:
            mine.append(one)
    if not mine:
        raise Denied("drafts", expected=f"one that {header.label} signs", got="none")
    if len({one.base.root_id for one in mine}) != 1:
        raise Refused("drafts", expected="drafts of one fleet", got="of several")
    return mine


def collect(trust: TrustFolder, carried: Path) -> int:
    """The trust folder's drafts have the signatures and signed refusals that lie in `carried`;
    return how many. Everything else that was carried could have been changed on the way.
    """
    taken = refusals.collect(trust, carried)
    for draft in trust.drafts():
        for other in drafts.find(carried, draft.role):
            if other.digest != draft.digest:
                raise Refused(
                    f"{draft.role} in {carried}",
                    expected=f"the draft {draft.digest[:16]}",
                    got=other.digest[:16],
                )
            for keyid in sorted(counted(trust, draft, other) - counted(trust, draft, draft)):
                drafts.add_signature(draft, other.metadata.signatures[keyid])
                taken += 1
    return taken


def counted(trust: TrustFolder, draft: Draft, carried: Draft) -> set[str]:
    """Return the ids of keys whose signatures in `carried` count for `draft`.

    What a stick's owner made up takes no true signature's place, and fills no draft.
    """
    return {
        keyid
        for delegator in counting.delegators(trust, draft)
        for keyid in verify.signers(draft.role, carried.metadata, delegator)
    }
