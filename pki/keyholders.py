"""Add, remove and replace keyholders of any role, and change thresholds: drafts for signatures.

Any number of seats of any number of roles change in one step, also more than the threshold: the
next root carries the signatures of the old and of the new keyholders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from securesystemslib.signer import Key, SSlibKey
from tuf.api.metadata import Root, Targets

from embrasure.clock import Clock
from embrasure.errors import Misuse, Refused
from embrasure.trust import layout
from pki import apprules, people, possession, quotas, roles, seats, verify
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder
from pki.people import PublicFile


@dataclass(frozen=True, slots=True)
class Seats:
    """What changes in every role named. leave: persons; join: new keys, with `proofs` of them.

    thresholds: role -> signatures; members: group -> persons who join it (operators only)
    """

    leave: tuple[str, ...] = ()
    join: tuple[PublicFile, ...] = ()
    proofs: tuple[bytes, ...] = ()
    thresholds: Mapping[str, int] = field(default_factory=dict)
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_join(files: Sequence[Path], names: Collection[str]) -> tuple[PublicFile, ...]:
    """Return the public halves in these files, made for the purpose of the roles `names`."""
    purposes = {roles.kind_of(name).purpose for name in names}
    if len(purposes) != 1 or "online" in purposes:
        raise Misuse(
            "--role",
            expected="roles of the security team, or approval roles, not both",
            got=", ".join(sorted(names)) or "none",
            hint="a key serves one family of roles; online keys: embrasure pki online rotate",
        )
    (purpose,) = purposes
    for file in files:
        if "=" in str(file) and not file.exists():
            raise Misuse(
                str(file), expected="FILE.pub alone: the name is inside", got="NAME=FILE",
                hint="`replace` and `trust app add` take NAME=FILE",
            )  # fmt: skip
    return tuple(people.read_public(file, purpose=purpose) for file in files)


def read_thresholds(texts: Sequence[str]) -> dict[str, int]:
    """Return `ROLE=N` arguments as a mapping; raises Misuse."""
    found: dict[str, int] = {}
    for text in texts:
        role, _, count = text.partition("=")
        if not role or not count.isascii() or not count.isdigit() or role in found:
            raise Misuse("--threshold", expected="ROLE=NUMBER, each role once", got=text)
        found[role] = int(count)
    return found


def change(
    trust: TrustFolder,
    names: Sequence[str],
    what: Seats,
    *,
    force: bool,
    clock: Clock,
) -> tuple[list[Draft], list[str]]:
    """Drafts in which these seats of these roles change; return them, and what signers should know.

    force: allow that a role needs every one of its keys from now on (n = k). Roles whose version in
    force would lose its signatures are drafted too, for the new keyholders to sign. Raises Misuse,
    Denied (`all-needed`, `possession`): then nothing is drafted.
    """
    if not names:
        raise Misuse("--role", expected="at least one role", got="none")
    at, work = clock(), Desk(trust, clock)
    joining = [people.named_key(pub) for pub in what.join]
    proofs = {
        key.keyid: possession.proof_of(what.proofs, key, root=trust.root_id, at=at)
        for key in joining
    }
    told: list[str] = []
    for name in dict.fromkeys(names):
        family = roles.kind_of(name).family
        if family in ("snapshot", "timestamp", "gates"):
            raise Misuse(name, expected="a role of people", got="an online role")
        signed = _delegating(work, name)
        told += seats.move(signed, name, what.leave, joining, what.thresholds.get(name))
        seats.check_spare(signed, name, force=force)
        if family == "app":
            _people(work, name, what, joining)
    unknown = set(what.thresholds) - set(names)
    if unknown:
        raise Misuse("--threshold", expected="a role named by --role", got=sorted(unknown))
    told += _sign_anew(work)
    made = work.write()
    possession.attach(made, proofs)
    for pub in what.join:
        seats.keep_public(trust, pub)
    return made, told


def _delegating(work: Desk, role: str) -> Root | Targets:
    """Return who says who signs `role`, for editing; raises Misuse when nobody does."""
    signed: Root | Targets
    signed = work.root() if role in (layout.ROOT, layout.TARGETS) else work.targets()
    if not verify.delegates(signed, role):
        raise Misuse(role, expected="a role that exists", got="none")
    return signed


def _people(work: Desk, role: str, what: Seats, joining: Sequence[SSlibKey]) -> None:
    """The policy lists the operators whose keys some app of the environment still names."""
    kind = roles.kind_of(role)
    targets = work.targets()
    listed = _operator_keys(targets, kind.env)
    found = seats.with_people(
        apprules.read_policy(work, kind.env),
        gone=what.leave,
        listed=listed,
        joining=joining,
    )
    found = quotas.with_members(found, what.members)
    quotas.check_reachable(found, kind.app, apprules.operators_of(targets, role))
    apprules.put_policy(work, kind.env, found)


def _operator_keys(targets: Targets, env: str) -> dict[str, Key]:
    """Return the keys that approval roles of `env` name, by key id."""
    found: dict[str, Key] = {}
    delegations = targets.delegations
    for name, role in (delegations.roles or {}).items() if delegations is not None else ():
        kind = roles.kind_of(name)
        if kind.family == "app" and kind.env == env and delegations is not None:
            found.update({keyid: delegations.keys[keyid] for keyid in role.keyids})
    return found


def _sign_anew(work: Desk) -> list[str]:
    """Every role in force that the drafts would orphan is drafted too, unchanged but for its
    expiry; return what to tell. Its old and new keyholders may both sign.
    """
    told = []
    for role, version in work.trust.roles().items():
        held = work.trust.held(role)
        if role == layout.ROOT or held is None or work.edits(role):
            continue
        delegator = _newest(work, layout.ROOT if role == layout.TARGETS else layout.TARGETS)
        try:
            verify.check_signed(role, held, delegator)
        except Refused:
            work.targets(role)
            told.append(f"{role} v{version} would lose its signatures: v{version + 1} is drafted")
    return told


def _newest(work: Desk, role: str) -> Root | Targets:
    if work.edits(role):
        return work.root() if role == layout.ROOT else work.targets()
    return work.trust.root() if role == layout.ROOT else work.trust.targets()
