"""Draft an app in an environment: who may approve it, how many of them, within which rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from securesystemslib.signer import SSlibKey

from embrasure import limits
from embrasure.clock import Clock
from embrasure.errors import Misuse
from embrasure.trust import documents, layout, policy
from pki import people, quotas, roles
from pki.apprules import check_operators
from pki.desk import Desk
from pki.folder import TrustFolder
from pki.keyfile import Cost
from pki.makekeys import NewKey, new_key, write_keys, write_public
from pki.people import PublicFile


@dataclass(frozen=True, slots=True)
class Rules:
    """What a plan of the app must at least respect. group: labels of its nodes.

    quotas: group of persons -> how many of it must approve; members: group -> persons who join it
    """

    group: Mapping[str, str]
    min_canary: int
    min_soak_s: int
    max_second_percent: int
    quotas: Mapping[str, int] = field(default_factory=dict)
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operators:
    """The app's operators. made: keys made here; known: public halves of keys made elsewhere."""

    made: tuple[NewKey, ...]
    known: tuple[PublicFile, ...]

    @property
    def keys(self) -> list[SSlibKey]:
        """All keys as metadata lists them."""
        return [key.named for key in self.made] + [people.named_key(pub) for pub in self.known]


def operators(trust: TrustFolder, named: Sequence[str], *, generate: bool) -> Operators:
    """Return the operators of `NAME` or `NAME=FILE.pub`; raises Misuse, Refused, NotFound.

    A plain name means the public half in this folder, else, with `generate`, a new key.
    """
    made, known = [], []
    for text in named:
        name, has_file, file = text.partition("=")
        people.check_person(name)
        held = trust.path / "public" / f"{name}.pub"
        if has_file or held.exists():
            found = people.read_public(Path(file) if has_file else held, purpose="operator")
            if found.person != name:
                raise Misuse(file, expected=f"the key of {name}", got=f"that of {found.person}")
            known.append(found)
        elif generate:
            made.append(new_key(name, purpose="operator", file=f"keys/{name}.key"))
        else:
            raise Misuse(
                f"operator {name}",
                expected=f"{name}=FILE.pub",
                got="no public key",
                hint="--generate makes the key here",
            )
    return Operators(tuple(made), tuple(known))


def add_app(
    trust: TrustFolder,
    env: str,
    app: str,
    *,
    who: Operators,
    threshold: int,
    rules: Rules,
    clock: Clock,
) -> Desk:
    """Return the edits of targets and `fleet-<env>` by which `who` may approve `app`.

    Nothing is on disk yet: keys come first (`keep_keys`), drafts that name them after. Raises
    Misuse when all but one could not reach the threshold: who proposes does not count.
    """
    fleet = trust.fleet_role(env)
    role = layout.app_role(env, layout.check_app(app))
    check_operators(role, len(who.keys), threshold)
    work = Desk(trust, clock)
    roles.delegate(work.targets(), role, who.keys, threshold=threshold)
    path = layout.policy_path(env)
    found = policy.parse_policy(work.document(fleet, path))
    changed = with_app(found, app, who.keys, rules)
    quotas.check_reachable(changed, app, [people.owner_of(key) for key in who.keys])
    raw = documents.write(changed)
    policy.parse_policy(raw)
    work.put(fleet, path, raw)
    return work


def keep_keys(trust: TrustFolder, who: Operators, passphrase: bytes | None, cost: Cost) -> None:
    """The folder has the operators' public halves, and the key files of keys made here."""
    for pub in who.known:
        write_public(trust.path / "public", people.write_public_file(pub), pub.person)
    if who.made and passphrase is not None:
        write_keys(trust.path, list(who.made), passphrase, root=trust.root_id, cost=cost)


def with_app(
    found: policy.Policy, app: str, keys: Sequence[SSlibKey], rules: Rules
) -> policy.Policy:
    """Return the policy with the app's rules, and its operators as persons."""
    persons = {person.id: person for person in found.people}
    for key in keys:
        name = people.owner_of(key)
        known = persons.get(name)
        before = known.keys if known is not None else ()
        held = before if key.keyid in before else (*before, key.keyid)
        groups = known.groups if known is not None else ()
        persons[name] = policy.Person(id=name, keys=held, groups=groups)
    entry = {
        "group": dict(rules.group),
        "quotas": quotas.listed(rules.quotas),
        "min_canary": rules.min_canary,
        "min_soak_s": rules.min_soak_s,
        "max_second_percent": rules.max_second_percent,
        "windows": [],
        "approval_expiry_s": limits.APPROVE_SECONDS,
        "execution_expiry_s": limits.START_SECONDS,
    }
    made = documents.convert(entry, policy.AppPolicy, f"rules of {app}")
    changed = msgspec.structs.replace(
        found,
        people=tuple(persons[name] for name in sorted(persons)),
        apps={**found.apps, app: made},
        seq_ceiling={**found.seq_ceiling, app: limits.SEQ_AHEAD},
    )
    return quotas.with_members(changed, rules.members)
