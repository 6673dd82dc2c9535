"""Draft other rules of an app that exists: threshold, quotas and groups, canary, soak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from tuf.api.metadata import DelegatedRole, Targets

from embrasure.clock import Clock
from embrasure.errors import Misuse
from embrasure.trust import documents, layout, policy
from pki import people, quotas
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder


@dataclass(frozen=True, slots=True)
class Change:
    """What changes; None stays as it is. quotas: all of them; members: who joins which group."""

    threshold: int | None = None
    min_soak_s: int | None = None
    min_canary: int | None = None
    max_second_percent: int | None = None
    quotas: Mapping[str, int] | None = None
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)


def change_app(
    trust: TrustFolder, env: str, app: str, change: Change, *, clock: Clock
) -> tuple[list[Draft], list[str]]:
    """Targets and `fleet-<env>` are drafts with the changed rules, as far as they change; return
    them, and what their signers should know. Raises Misuse for rules that nobody could meet.
    """
    role = layout.app_role(layout.check_env(env), layout.check_app(app))
    work = Desk(trust, clock)
    names = operators_of(trust.targets(), role)
    if change.threshold is not None:
        check_operators(role, len(names), change.threshold)
        delegated(work.targets(), role).threshold = change.threshold
    found = read_policy(work, env) if _changes_policy(change) else None
    if found is None:
        return work.write(), []
    rules = found.apps.get(app)
    if rules is None:
        raise Misuse(f"app {app}", expected=f"one of {env}", got="none", hint="trust app add")
    changed = quotas.with_members(
        msgspec.structs.replace(found, apps={**found.apps, app: _with(rules, change, app)}),
        change.members,
    )
    quotas.check_reachable(changed, app, names)
    put_policy(work, env, changed)
    blocked = quotas.blocked_proposers(changed, app, names)
    told = [f"{name} can no longer propose: a quota needs that signature" for name in blocked]
    return work.write(), told


def change_group(
    trust: TrustFolder, env: str, group: str, names: Sequence[str], *, leave: bool, clock: Clock
) -> list[Draft]:
    """`fleet-<env>` is a draft in which these persons join the group, or leave it; return it.

    Raises Misuse for strangers, and when an app's quota could not be met any more.
    """
    layout.check_env(env)
    work = Desk(trust, clock)
    found = read_policy(work, env)
    if leave:
        found = quotas.without_members(found, group, names)
    else:
        found = quotas.with_members(found, {group: names})
    for app in found.apps:
        quotas.check_reachable(found, app, operators_of(trust.targets(), f"{env}-{app}"))
    put_policy(work, env, found)
    return work.write()


def read_policy(work: Desk, env: str) -> policy.Policy:
    """Return the policy of `env` as the desk has it; raises Misuse for no such environment."""
    role = work.trust.fleet_role(env)
    return policy.parse_policy(work.document(role, layout.policy_path(env)))


def put_policy(work: Desk, env: str, found: policy.Policy) -> None:
    """The next `fleet-<env>` has this policy, which every node can read."""
    raw = documents.write(found)
    policy.parse_policy(raw)
    work.put(layout.fleet_role(env), layout.policy_path(env), raw)


def delegated(targets: Targets, role: str) -> DelegatedRole:
    """Return the delegation of `role`, for editing; raises Misuse when there is none."""
    known = targets.delegations.roles if targets.delegations is not None else None
    if known is None or role not in known:
        raise Misuse(role, expected="a role that is delegated", got="none")
    return known[role]


def operators_of(targets: Targets, role: str) -> list[str]:
    """Return the persons who may sign `role`; raises Misuse when there is no such role."""
    found = delegated(targets, role)
    keys = targets.delegations.keys if targets.delegations is not None else {}
    return [people.owner_of(keys[keyid]) for keyid in found.keyids]


def check_operators(role: str, count: int, threshold: int) -> None:
    """Return only when all but one of the operators can reach the threshold; raises Misuse."""
    if not 1 <= threshold < count:
        raise Misuse(
            role,
            expected=f"at least {threshold + 1} operators, since who proposes does not count",
            got=count,
        )


def _changes_policy(change: Change) -> bool:
    fields = (change.min_soak_s, change.min_canary, change.max_second_percent, change.quotas)
    return any(value is not None for value in fields) or bool(change.members)


def _with(rules: policy.AppPolicy, change: Change, app: str) -> policy.AppPolicy:
    entry: dict[str, object] = dict(msgspec.to_builtins(rules))
    for name in ("min_soak_s", "min_canary", "max_second_percent"):
        value = getattr(change, name)
        if value is not None:
            entry[name] = value
    if change.quotas is not None:
        entry["quotas"] = quotas.listed(change.quotas)
    return documents.convert(entry, policy.AppPolicy, f"rules of {app}")
