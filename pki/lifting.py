"""Lift a wrong denial for good, and see what is denied: by policy, or by which revocations.

Leaving an entry out of the next revocations lifts nothing: nodes keep the union of every version.
So the policy resets the union, and first takes over whatever else must last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from embrasure import limits
from embrasure.clock import Clock
from embrasure.errors import Misuse
from embrasure.trust import documents, layout, policy
from embrasure.trust.denied import LISTS, merge
from embrasure.trust.floors import Union
from embrasure.trust.policy import Policy
from pki import store
from pki.denials import Denial
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder

Entries = Mapping[str, tuple[str, ...]]  # list name -> entries


@dataclass(frozen=True, slots=True)
class Lifted:
    """The drafts that lift; dropped: entries no longer denied; kept: copied into the policy."""

    drafts: list[Draft]
    dropped: Entries
    kept: Entries
    through: int


def union_of(trust: TrustFolder, env: str) -> Union:
    """Return what every version of the revocations in this folder denied since the last reset."""
    rules = policy_of(trust, env)
    union = Union()
    for version in store.versions(trust.path, layout.REVOCATIONS):
        found = store.read_metadata(trust.path, layout.REVOCATIONS, version)
        listed = store.read_targets(trust.path, store.as_targets(found))
        raw = listed.get(layout.revocations_path(env))
        if raw is not None:
            reset = rules.denials_reset_through
            denied = policy.parse_revocations(raw)
            union = merge(union, denied, version=version, reset_through=reset)
    return union


def policy_of(trust: TrustFolder, env: str) -> Policy:
    """Return the policy in force; raises Misuse when there is none."""
    raw = trust.documents(trust.fleet_role(env)).get(layout.policy_path(env))
    if raw is None:
        raise Misuse(f"environment {env}", expected="a policy in force", got="none")
    return policy.parse_policy(raw)


def lift(
    trust: TrustFolder,
    env: str,
    what: Denial | None,
    *,
    through: int | None,
    clock: Clock,
) -> Lifted:
    """The next `fleet-<env>` is a draft under which `what` is no longer denied; None: nothing that
    the revocations denied.

    Every other entry of the union is copied into the policy, where it lasts. through: the
    `revocations` version up to which nodes drop what they hold; default the newest in this folder.
    """
    path, role = layout.policy_path(env), trust.fleet_role(env)
    work = Desk(trust, clock)
    rules = policy.parse_policy(work.document(role, path))
    union = union_of(trust, env)
    newest = max(store.versions(trust.path, layout.REVOCATIONS), default=0)
    reset = newest if through is None else through
    if reset < max(rules.denials_reset_through, 1):
        raise Misuse("--through", expected="a version above the last reset", got=reset)
    if reset > newest + limits.RESET_AHEAD:
        raise Misuse(
            "--through", expected=f"at most {newest + limits.RESET_AHEAD}", got=reset,
            hint="a number that high leaves none: take the on-call key away, and the role begins "
            "again (embrasure pki keyholder replace)",
        )  # fmt: skip
    held = {name: tuple(sorted(getattr(union, name))) for name in LISTS}
    wrong = held if what is None else {name: getattr(what, name) for name in LISTS}
    dropped = {name: _both(wrong[name], (*held[name], *_lasting(rules, name))) for name in LISTS}
    kept = {name: tuple(e for e in held[name] if e not in wrong[name]) for name in LISTS}
    denied = {name: _joined(_lasting(rules, name), kept[name], wrong[name]) for name in LISTS}
    changed = msgspec.structs.replace(
        rules,
        denied=msgspec.structs.replace(rules.denied, **denied),
        denials_reset_through=reset,
    )
    raw = documents.write(changed)
    policy.parse_policy(raw)
    work.put(role, path, raw)
    return Lifted(work.write(), dropped, kept, reset)


def keep(trust: TrustFolder, env: str, *, clock: Clock) -> Lifted:
    """The next `fleet-<env>` is a draft whose policy denies all that the revocations denied.

    For the change of an on-call key: with the key goes the whole union, true denials too.
    """
    path, role = layout.policy_path(env), trust.fleet_role(env)
    work = Desk(trust, clock)
    rules = policy.parse_policy(work.document(role, path))
    union = union_of(trust, env)
    kept = {name: tuple(sorted(getattr(union, name))) for name in LISTS}
    denied = {name: _joined(_lasting(rules, name), kept[name], ()) for name in LISTS}
    raw = documents.write(
        msgspec.structs.replace(rules, denied=msgspec.structs.replace(rules.denied, **denied))
    )
    policy.parse_policy(raw)
    work.put(role, path, raw)
    return Lifted(work.write(), {}, kept, rules.denials_reset_through)


def denials_json(trust: TrustFolder, env: str) -> list[dict[str, object]]:
    """Return every denial with where it stands; version 0: the policy, which lasts."""
    rules, union = policy_of(trust, env), union_of(trust, env)
    found: list[dict[str, object]] = []
    for name in (*LISTS, "issuers"):
        for entry in _lasting(rules, name):
            found.append({"list": name, "entry": entry, "by": "policy", "version": 0})
        for entry, version in sorted(getattr(union, name, {}).items()):
            by = layout.REVOCATIONS
            found.append({"list": name, "entry": entry, "by": by, "version": version})
    return found


def _lasting(rules: Policy, name: str) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(rules.denied, name)
    return found


def _both(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(entry for entry in one if entry in other)


def _joined(
    lasting: tuple[str, ...], kept: tuple[str, ...], wrong: tuple[str, ...]
) -> tuple[str, ...]:
    every = dict.fromkeys((*lasting, *kept))
    return tuple(entry for entry in every if entry not in wrong)
