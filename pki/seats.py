"""One role's seats: which keys it names, whose they are, and that one of them is to spare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from securesystemslib.signer import Key, SSlibKey
from tuf.api.metadata import Role, Root, Targets

from embrasure import fs
from embrasure.errors import Denied, Misuse
from embrasure.trust import policy
from embrasure.trust.policy import Policy
from pki import apprules, people, roles, store
from pki.folder import TrustFolder
from pki.people import PublicFile


def seats_of(signed: Root | Targets, role: str) -> dict[str, Key]:
    """Return the keys of a role by person; raises Misuse when the role names a key of nobody."""
    named = _role(signed, role)
    found = {}
    for keyid in named.keyids:
        key = signed.get_key(keyid)
        if people.PERSON not in key.unrecognized_fields:
            raise Misuse(role, expected="keys of persons", got=f"{keyid[:8]} of nobody")
        found[people.owner_of(key)] = key
    return found


def move(
    signed: Root | Targets,
    role: str,
    leave: Sequence[str],
    join: Sequence[SSlibKey],
    threshold: int | None,
) -> list[str]:
    """The role names the keys of those who stay and join; return what its signers should know.

    threshold: how many must sign from now on, None as before. Raises Misuse for a person who is not
    there or is there twice, and for a threshold that nobody could reach.
    """
    seated = seats_of(signed, role)
    leave = tuple(dict.fromkeys(leave))
    for name in leave:
        if name not in seated:
            raise Misuse(role, expected=f"one of {', '.join(sorted(seated))}", got=name)
    after = [seated[name] for name in seated if name not in leave] + list(join)
    named = [key for key in after if isinstance(key, SSlibKey)]
    needed = threshold if threshold is not None else _role(signed, role).threshold
    roles.check_threshold(role, named, needed)
    # Before anybody leaves: a key that is taken out and put in again keeps its owner too.
    for key in join:
        _check_owner(signed, key)
    for name in leave:
        signed.revoke_key(seated[name].keyid, role)
    for key in join:
        signed.add_key(key, role)
    _role(signed, role).threshold = needed
    stay = len(seated) - len(leave)
    if leave and stay < needed and role == "root":
        return [f"root: fewer than {needed} of the old keyholders stay; both sets must sign it"]
    return []


def _check_owner(signed: Root | Targets, key: SSlibKey) -> None:
    """Return only when this key is nobody else's in any role; raises Misuse.

    Listed again under another name it would change its owner in every role at once.
    """
    try:
        known = signed.get_key(key.keyid)
    except ValueError:
        return
    owner = known.unrecognized_fields.get(people.PERSON)
    if owner != people.owner_of(key):
        raise Misuse(
            f"key {key.keyid[:8]}",
            expected=f"{owner}, who has it already",
            got=people.owner_of(key),
        )


def check_spare(signed: Root | Targets, role: str, *, force: bool) -> None:
    """Return only when one key may be lost; raises Denied (`all-needed`) unless forced.

    Of an approval role one more is needed always: who proposes does not count.
    """
    found = _role(signed, role)
    if roles.kind_of(role).family == "app":
        apprules.check_operators(role, len(found.keyids), found.threshold)
    elif len(found.keyids) <= found.threshold and not force:
        raise Denied(
            role,
            expected=f"more than {found.threshold} keys for a threshold of {found.threshold}",
            got=f"{len(found.keyids)}: a single lost key would end this role",
            hint="--force, if that is meant",
            reason="all-needed",
        )


def with_people(
    found: Policy,
    *,
    gone: Sequence[str],
    listed: Mapping[str, Key],
    joining: Sequence[SSlibKey],
) -> Policy:
    """Return the policy whose persons have the keys that are still listed, and the new ones.

    gone: persons who left a role: of them what no role lists any more goes, the person too when
    nothing is left; listed: keys that roles of the environment name
    """
    persons = {person.id: person for person in found.people}
    for name in gone:
        known = persons.get(name)
        if known is not None:
            kept = tuple(keyid for keyid in known.keys if keyid in listed)
            persons[name] = policy.Person(id=name, keys=kept, groups=known.groups)
    for key in joining:
        name = people.owner_of(key)
        known = persons.get(name)
        before = known.keys if known is not None else ()
        held = before if key.keyid in before else (*before, key.keyid)
        groups = known.groups if known is not None else ()
        persons[name] = policy.Person(id=name, keys=held, groups=groups)
    for name in gone:
        if name in persons and not persons[name].keys:
            del persons[name]
    return msgspec.structs.replace(found, people=tuple(persons[name] for name in sorted(persons)))


def keep_public(trust: TrustFolder, pub: PublicFile) -> None:
    """`public/` has this public half under its owner's name; an older key of his gives way."""
    folder = trust.path / "public"
    store.make_folder(folder)
    fs.replace_file(folder, f"{pub.person}.pub", people.write_public_file(pub), mode=0o644)


def _role(signed: Root | Targets, role: str) -> Role:
    try:
        return signed.get_delegated_role(role)
    except ValueError:
        raise Misuse(role, expected="a role that exists", got="none") from None
