"""Quotas of an app's approvers, and the groups of persons that they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from embrasure.errors import Misuse
from embrasure.trust import policy
from embrasure.trust.policy import Policy


def listed(quotas: Mapping[str, int]) -> list[dict[str, object]]:
    """Return quotas as the policy holds them, sorted by group."""
    return [{"group": group, "min": count} for group, count in sorted(quotas.items())]


def read_quotas(texts: Sequence[str]) -> dict[str, int]:
    """Return `GROUP=N` arguments as a mapping; raises Misuse."""
    found: dict[str, int] = {}
    for text in texts:
        group, _, count = text.partition("=")
        if not group or not count.isascii() or not count.isdigit() or group in found:
            raise Misuse("--quota", expected="GROUP=NUMBER, each group once", got=text)
        found[group] = int(count)
    return found


def read_members(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return `GROUP=NAME` arguments as group -> names; raises Misuse."""
    found: dict[str, list[str]] = {}
    for text in texts:
        group, _, name = text.partition("=")
        if not group or not name or name in found.get(group, []):
            raise Misuse("--member", expected="GROUP=NAME, each pair once", got=text)
        found.setdefault(group, []).append(name)
    return found


def with_members(found: Policy, members: Mapping[str, Sequence[str]]) -> Policy:
    """Return the policy in which these persons are in these groups too; raises Misuse."""
    persons = {person.id: person for person in found.people}
    for group, names in members.items():
        for name in names:
            if name not in persons:
                raise Misuse(f"group {group}", expected="a person of this policy", got=name)
            known = persons[name]
            groups = tuple(sorted({*known.groups, group}))
            persons[name] = policy.Person(id=name, keys=known.keys, groups=groups)
    return msgspec.structs.replace(found, people=tuple(persons[name] for name in sorted(persons)))


def without_members(found: Policy, group: str, names: Sequence[str]) -> Policy:
    """Return the policy in which these persons are no longer in `group`; raises Misuse."""
    inside = {person.id for person in found.people if group in person.groups}
    for name in names:
        if name not in inside:
            raise Misuse(f"group {group}", expected="a person of it", got=name)
    kept = tuple(
        policy.Person(
            id=person.id,
            keys=person.keys,
            groups=tuple(g for g in person.groups if g != group or person.id not in names),
        )
        for person in found.people
    )
    return msgspec.structs.replace(found, people=kept)


def check_reachable(found: Policy, app: str, operators: Sequence[str]) -> None:
    """Return only when somebody can propose whose colleagues meet every quota; raises Misuse.

    Who proposes does not count, so a group that has just enough persons must not propose.
    """
    if not any(_lack(found, app, operators, without=one) == {} for one in operators):
        missing = _lack(found, app, operators, without="")
        got = ", ".join(f"{count} too few of {group}" for group, count in missing.items())
        raise Misuse(
            f"quotas of {app}",
            expected="enough operators in each group beside the one who proposes",
            got=got or "just enough, the proposer among them",
            hint="--member GROUP=NAME puts an operator into a group",
        )


def blocked_proposers(found: Policy, app: str, operators: Sequence[str]) -> list[str]:
    """Return the operators who cannot propose: without them a quota cannot be met."""
    return [one for one in operators if _lack(found, app, operators, without=one)]


def _lack(found: Policy, app: str, operators: Sequence[str], *, without: str) -> dict[str, int]:
    return found.quotas_unmet(app, [name for name in operators if name != without])
