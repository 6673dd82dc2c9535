"""A signed no to a draft: it ends that very draft, whatever signatures it has.

Kept beside the drafts, by digest, so that it outlives the draft: the same bytes never come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta
from tuf.api.metadata import Key

from embrasure import fs, limits
from embrasure.clock import write_time
from embrasure.errors import Denied, EmbrasureError, Misuse, Refused
from embrasure.trust import dsse
from embrasure.trust.documents import Digest, Document, PersonId, Positive, Time, read, write
from pki import counting, store, verify
from pki.drafts import Draft
from pki.folder import TrustFolder
from pki.keyfacts import Opened

FOLDER = "refused"
_KIND: dsse.Type = "refusal"


class Refusal(Document, frozen=True, kw_only=True):
    """What a keyholder says of one draft: no."""

    v: Literal[1]
    type: Literal["refusal"]
    root: Digest
    role: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,80}$")]
    version: Positive
    digest: Digest
    person: PersonId
    reason: Annotated[str, Meta(min_length=1, max_length=limits.REASON_CHARACTERS)]
    at: Time


def refuse(draft: Draft, opened: Opened, reason: str, *, root: str, at: datetime) -> bytes:
    """Return the envelope by which this key refuses the draft for good; raises Misuse.

    That the key counts for the draft is the caller's to check, and `valid` checks it again.
    """
    if not reason.strip():
        raise Misuse("--reason", expected="why not, for the others", got="nothing")
    said = Refusal(
        v=1,
        type="refusal",
        root=root,
        role=draft.role,
        version=draft.version,
        digest=draft.digest,
        person=opened.header.label,
        reason=reason[: limits.REASON_CHARACTERS],
        at=write_time(at),
    )
    return dsse.seal(_KIND, write(said), opened.signer)


def check(raw: bytes, draft: Draft, keys: dict[str, Key]) -> Refusal:
    """Return the refusal of this very draft by one of `keys`; raises Refused."""
    payload, keyid = dsse.unseal(_KIND, raw, keys, limit=limits.REFUSAL_BYTES)
    said = read(payload, Refusal, limit=limits.REFUSAL_BYTES, document="refusal")
    mine = (draft.role, draft.version, draft.digest, verify.name_of(keys[keyid]))
    if (said.role, said.version, said.digest, said.person) != mine:
        raise Refused(
            "refusal", expected=f"one of {draft.role} v{draft.version}", got=f"v{said.version}"
        )
    return said


def keep(folder: Path, draft: Draft, keyid: str, raw: bytes) -> Path:
    """`folder` (a trust folder, or what was carried) has the refusal; return its file."""
    place = folder / FOLDER
    store.make_folder(place)
    fs.replace_file(place, f"{draft.digest}.{keyid}.json", raw)
    return place / f"{draft.digest}.{keyid}.json"


def valid(trust: TrustFolder, draft: Draft) -> list[Refusal]:
    """Return the refusals of `draft` that keys which count for it have signed; others are nothing:
    a stranger's no stops nobody.
    """
    keys = keys_for(trust, draft)
    return [said for _, said in _found(trust.path, draft, keys)]


def keys_for(trust: TrustFolder, draft: Draft) -> dict[str, Key]:
    """Return the keys that may sign the draft, and so may refuse it."""
    found: dict[str, Key] = {}
    for delegator in counting.delegators(trust, draft):
        found.update(verify.keys_of(draft.role, delegator)[1])
    return found


def check_not_refused(trust: TrustFolder, draft: Draft) -> None:
    """Return only when no keyholder has refused this draft; raises Denied (`refused-draft`)."""
    said = valid(trust, draft)
    if said:
        raise Denied(
            f"{draft.role} v{draft.version}",
            expected="a draft that no keyholder refused",
            got=f"{said[0].person}: {said[0].reason}",
            hint=f"embrasure trust discard DIR --role {draft.role}, then draft it otherwise",
            reason="refused-draft",
        )


def collect(trust: TrustFolder, carried: Path) -> int:
    """The trust folder has the valid refusals of its drafts that lie in `carried`; return how many
    are new.
    """
    taken = 0
    for draft in trust.drafts():
        keys = keys_for(trust, draft)
        # One draft may have been carried alone, with its refusal inside.
        inside = (carried, carried / draft.role, carried / "drafts" / draft.role)
        for file, _ in [one for place in inside for one in _found(place, draft, keys)]:
            if not (trust.path / FOLDER / file.name).exists():
                raw = fs.read_file(file, limit=limits.REFUSAL_BYTES)
                keep(trust.path, draft, file.name.split(".")[1], raw)
                taken += 1
    return taken


def _found(folder: Path, draft: Draft, keys: dict[str, Key]) -> Iterator[tuple[Path, Refusal]]:
    place = folder / FOLDER
    for keyid in keys:
        file = place / f"{draft.digest}.{keyid}.json"
        if not file.exists():
            continue
        try:
            yield file, check(fs.read_file(file, limit=limits.REFUSAL_BYTES), draft, keys)
        except EmbrasureError:
            continue
