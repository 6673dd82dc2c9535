"""Proof that a new keyholder has the private half of the key that is to be listed.

A typed statement, signed by that very key, for this fleet and person; it travels with the draft, so
that each signer's own tool checks it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Root

from embrasure import fs, limits
from embrasure.clock import read_time, write_time
from embrasure.errors import EmbrasureError, Misuse, Refused
from embrasure.trust import dsse, layout
from embrasure.trust.documents import Digest, Document, KeyId, PersonId, Time, read, write
from pki import drafts, people, roles, store
from pki.base import Base
from pki.drafts import Draft
from pki.keyfile import Purpose
from pki.makekeys import NewKey
from pki.people import PublicFile

_KIND: dsse.Type = "possession"


class Possession(Document, frozen=True, kw_only=True):
    """What the owner of a key says with it: this key is mine, in this fleet."""

    v: Literal[1]
    type: Literal["possession"]
    root: Digest
    person: PersonId
    purpose: Purpose
    keyid: KeyId
    at: Time


def prove(signer: Signer, *, root: str, person: str, purpose: Purpose, at: datetime) -> bytes:
    """Return the envelope in which `signer` says whose it is, in the fleet `root`."""
    said = Possession(
        v=1,
        type="possession",
        root=root,
        person=person,
        purpose=purpose,
        keyid=signer.public_key.keyid,
        at=write_time(at),
    )
    return dsse.seal(_KIND, write(said), signer)


def check_proof(raw: bytes, key: Key, *, root: str, at: datetime) -> Possession:
    """Return what the envelope says when `key` signed it for this fleet and its owner; raises
    Refused. Steps: 1 signature, 2 fleet, person and key, 3 not older than 30 days, not of tomorrow.
    """
    # 1.
    payload, _ = dsse.unseal(_KIND, raw, {key.keyid: key}, limit=limits.POSSESSION_BYTES)
    said = read(payload, Possession, limit=limits.POSSESSION_BYTES, document="possession")
    # 2.
    wanted = (root, people.owner_of(key), key.keyid)
    if (said.root, said.person, said.keyid) != wanted:
        raise Refused(
            "proof of possession",
            expected=f"key {key.keyid[:8]} of {wanted[1]} in fleet {root[:16]}",
            got=f"key {said.keyid[:8]} of {said.person} in fleet {said.root[:16]}",
            reason="identity",
        )
    # 3.
    age = at - read_time(said.at)
    if (
        not -timedelta(seconds=limits.SKEW_SECONDS)
        <= age
        <= timedelta(seconds=limits.POSSESSION_SECONDS)
    ):
        raise Refused(
            "proof of possession", expected="one of the last 30 days", got=said.at, reason="expired"
        )
    return said


def read_proofs(files: Sequence[Path]) -> list[bytes]:
    """Return the envelopes in these files; raises NotFound, Refused, Misuse for too many."""
    if len(files) > limits.KEYS_PER_ROLE:
        raise Misuse("--proof", expected=f"at most {limits.KEYS_PER_ROLE}", got=len(files))
    return [fs.read_file(file, limit=limits.POSSESSION_BYTES) for file in files]


def proof_of(proofs: Sequence[bytes], key: Key, *, root: str, at: datetime) -> bytes:
    """Return the envelope that proves `key`; raises Misuse when there is none that holds."""
    problem: EmbrasureError | None = None
    for raw in proofs:
        try:
            check_proof(raw, key, root=root, at=at)
        except Refused as found:
            problem = found if found.reason in ("expired", "identity") else problem
        else:
            return raw
    owner = people.owner_of(key)
    raise Misuse(
        f"key of {owner} ({key.keyid[:8]})",
        expected="a proof that its owner has the private half: --proof FILE",
        got=str(problem) if problem is not None else "none",
        hint=f"{owner}: embrasure pki keyholder prove --key KEY --anchor anchor.json --out FILE",
        reason="possession",
    )


def proofs_of(
    made: Sequence[NewKey],
    known: Sequence[PublicFile],
    given: Sequence[bytes],
    *,
    root: str,
    at: datetime,
) -> dict[str, bytes]:
    """Return the proof of each key by key id: those made here prove themselves now, the others by
    what their owners gave. Without one, signers are warned. Raises Misuse for a proof of no key.
    """
    found = {
        key.public.keyid: prove(key.signer, root=root, person=key.label, purpose=key.purpose, at=at)
        for key in made
    }
    for raw in given:
        holds = [pub for pub in known if _proves(raw, people.named_key(pub), root=root, at=at)]
        if not holds:
            raise Misuse("--proof", expected="a proof of a key that is added here", got="another")
        found.update({pub.keyid: raw for pub in holds})
    return found


def _proves(raw: bytes, key: Key, *, root: str, at: datetime) -> bool:
    try:
        check_proof(raw, key, root=root, at=at)
    except Refused:
        return False
    return True


def attach(made: Sequence[Draft], proofs: Mapping[str, bytes]) -> None:
    """Each draft that says who signs what carries these proofs, by key id."""
    for draft in made:
        if draft.role in (layout.ROOT, layout.TARGETS):
            for keyid, raw in proofs.items():
                folder = draft.folder / drafts.PROOFS
                store.make_folder(folder)
                fs.replace_file(folder, f"{keyid}.json", raw)


def carried(folder: Path) -> dict[str, bytes]:
    """Return the proofs that a draft's folder carries, by key id, not yet checked."""
    inside = folder / drafts.PROOFS
    files = sorted(inside.glob("*.json")) if inside.is_dir() else []
    if len(files) > limits.PROOFS_PER_DRAFT:
        raise Refused("proofs", expected=f"at most {limits.PROOFS_PER_DRAFT}", got=len(files))
    return {file.stem: fs.read_file(file, limit=limits.POSSESSION_BYTES) for file in files}


def unproved(draft: Draft, base: Base, *, at: datetime) -> Iterator[str]:
    """Yield a warning for each person's key that is new in this draft and proves nothing."""
    if draft.role not in (layout.ROOT, layout.TARGETS) or base.previous is None:
        return
    known = {**_keys(base.delegator), **_keys(base.previous.signed)}
    proofs = carried(draft.folder)
    for keyid, key in _keys(draft.metadata.signed).items():
        if keyid in known or people.PERSON not in key.unrecognized_fields:
            continue
        if _is_online(keyid, draft):
            continue
        try:
            check_proof(proofs.get(keyid, b""), key, root=base.root_id, at=at)
        except Refused as problem:
            got = problem if keyid in proofs else "no proof"
            yield (
                f"nothing proves that {people.owner_of(key)} has the new key {keyid[:8]} ({got}): "
                "ask that person"
            )


def _keys(signed: object) -> dict[str, Key]:
    if isinstance(signed, Root):
        return dict(signed.keys)
    found = getattr(signed, "delegations", None)
    return dict(found.keys) if found is not None else {}


def _is_online(keyid: str, draft: Draft) -> bool:
    """Return whether only roles that a gateway signs list this key."""
    signed = draft.metadata.signed
    if isinstance(signed, Root):
        named = signed.roles
    else:
        delegations = store.as_targets(draft.metadata).delegations
        named = dict(delegations.roles or {}) if delegations is not None else {}
    using = [name for name, role in named.items() if keyid in role.keyids]
    return all(name in _ONLINE or roles.kind_of(name).family == "gates" for name in using)


_ONLINE = frozenset({layout.SNAPSHOT, layout.TIMESTAMP})
