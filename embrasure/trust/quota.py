"""Quotas of approvers: so many of each group, each person counted for one group only.

Pure. A person of two groups could else be "1 of sre and 1 of security" all alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol


class Wanted(Protocol):
    """At least `min` approvers of `group`."""

    @property
    def group(self) -> str:
        """The group's name."""
        ...

    @property
    def min(self) -> int:
        """How many of it."""
        ...


def unmet(
    quotas: Iterable[Wanted], persons: Iterable[str], groups: Mapping[str, Collection[str]]
) -> dict[str, int]:
    """Return group -> how many persons of it are still missing; empty when every quota is met.

    persons: who has signed; groups: person -> the groups that he is in
    Each person fills one place at most. The fewest places stay empty that can (Kuhn's matching).
    """
    places = [quota.group for quota in quotas for _ in range(quota.min)]
    holder: dict[int, str] = {}  # place -> the person who fills it
    for person in sorted(set(persons)):
        _seat(person, places, holder, groups, set())
    missing: dict[str, int] = {}
    for number, group in enumerate(places):
        if number not in holder:
            missing[group] = missing.get(group, 0) + 1
    return missing


def _seat(
    person: str,
    places: list[str],
    holder: dict[int, str],
    groups: Mapping[str, Collection[str]],
    tried: set[int],
) -> bool:
    """Return whether `person` has a place now, others moved if need be; nobody loses one."""
    for number, group in enumerate(places):
        if number in tried or group not in groups.get(person, ()):
            continue
        tried.add(number)
        former = holder.get(number)
        if former is None or _seat(former, places, holder, groups, tried):
            holder[number] = person
            return True
    return False
