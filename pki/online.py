"""Rotate online keys: a new key file beside the old one, and the drafts that name only the new.

The gateway is given the new key files first (`gateway init` again, also while it runs); it signs
with whichever key the published root and targets name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root, Targets

from embrasure.clock import Clock
from embrasure.errors import Misuse, NotSupported
from embrasure.trust import layout
from pki import keyrecords, people, roles
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder
from pki.keyfacts import check_use, public_key
from pki.keyfile import Cost
from pki.keyrecords import KeyRecord
from pki.makekeys import NewKey, new_key, write_keys

_BY_ROOT = (layout.SNAPSHOT, layout.TIMESTAMP)


def check_online(role: str) -> str:
    """Return `role` when a gateway signs it; raises Misuse."""
    if role in _BY_ROOT or roles.kind_of(role).family == "gates":
        return role
    raise Misuse(
        role,
        expected="snapshot, timestamp or gates-ENV",
        got="no role that a gateway signs",
        hint="embrasure pki keyholder replace is for the keys of people",
    )


def outside_keys(texts: Sequence[str], names: Sequence[str]) -> dict[str, KeyRecord]:
    """Return the records of keys in tokens or key services, of `ROLE=URI` texts, by role.

    Raises Misuse, Denied (not made for `online`), NotSupported (ML-DSA for gates: its signature is
    larger than an order may be).
    """
    found: dict[str, KeyRecord] = {}
    for text in texts:
        role, equals, uri = text.partition("=")
        if not equals or role not in names or role in found:
            raise Misuse("--key", expected="ROLE=URI of a role that is rotated, once", got=text)
        record = keyrecords.of(uri)
        check_use(record, purpose="online", root=None)
        if record.scheme == "ml-dsa-65" and role not in _BY_ROOT:
            raise NotSupported(role, expected="a key with small signatures", got=record.scheme)
        found[role] = record
    return found


def rotate(
    trust: TrustFolder,
    names: Sequence[str],
    *,
    secret: bytes,
    cost: Cost,
    clock: Clock,
    outside: Mapping[str, KeyRecord] | None = None,
) -> tuple[list[Draft], list[str]]:
    """Drafts of root and targets in which these online roles have new keys; return them, and the
    new key files below the folder. The old key counts until the drafts are published.

    secret: the passphrase of the new files, which the gateway must know; outside: keys that lie in
    tokens or key services, whose records are copied instead. Raises Misuse, Denied.
    """
    asked = [check_online(name) for name in dict.fromkeys(names)]
    if not asked:
        raise Misuse("online role", expected="snapshot, timestamp or gates-ENV", got="none")
    work = Desk(trust, clock)
    made: list[NewKey] = []
    held: dict[str, KeyRecord] = {}
    for role in asked:
        signed = work.root() if role in _BY_ROOT else work.targets()
        record = (outside or {}).get(role)
        if record is None:
            made.append(_give_new_key(signed, role))
        else:
            _name_key(signed, role, public_key(record))
            held[f"{role}-{record.keyid[:8]}.json"] = record
    # Keys first: a draft that names a key which no disk holds would lock the gateway out.
    write_keys(trust.path, made, secret, root=trust.root_id, cost=cost)
    for file, record in held.items():
        keyrecords.write_record(trust.path / "online", file, record, root=trust.root_id)
    return work.write(), [*(key.file for key in made), *(f"online/{file}" for file in held)]


def _give_new_key(signed: Root | Targets, role: str) -> NewKey:
    plain = new_key(role, purpose="online", file="")
    file = f"online/{role}-{plain.public.keyid[:8]}.key"
    _name_key(signed, role, plain.public)
    return NewKey(role, "online", file, plain.private)


def _name_key(signed: Root | Targets, role: str, public: SSlibKey) -> None:
    try:
        old = list(signed.get_delegated_role(role).keyids)
    except ValueError:
        raise Misuse(role, expected="a role that exists", got="none") from None
    for keyid in old:
        signed.revoke_key(keyid, role)
    signed.add_key(people.with_owner(public, role) if role not in _BY_ROOT else public, role)


def listed_keys(trust: TrustFolder) -> dict[str, frozenset[str]]:
    """Return the ids of the keys that may sign each online role, by what is in force."""
    found: dict[str, frozenset[str]] = {}
    root, targets = trust.held(layout.ROOT), trust.held(layout.TARGETS)
    if root is not None and isinstance(root.signed, Root):
        found.update({name: frozenset(root.signed.roles[name].keyids) for name in _BY_ROOT})
    if targets is not None and isinstance(targets.signed, Targets):
        delegations = targets.signed.delegations
        named = (delegations.roles or {}) if delegations is not None else {}
        for name, role in named.items():
            if roles.kind_of(name).family == "gates":
                found[name] = frozenset(role.keyids)
    return found
