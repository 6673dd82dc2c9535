"""What a plan means for the nodes of today: members of each wave, and what to look at twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embrasure.errors import Denied, shown
from embrasure.trust.directory import Entry
from embrasure.trust.plan import Plan
from embrasure.trust.waves import need_of, wave_of, witnesses


@dataclass(frozen=True, slots=True)
class Preview:
    """What the plan means today: node ids of each wave, and what a person should look at.

    faults: why nobody may sign it; they are among the warnings, too
    """

    members: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]
    faults: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """The number of nodes in all waves."""
        return sum(len(wave) for wave in self.members)


def members_of(plan: Plan, entries: Sequence[Entry]) -> tuple[tuple[str, ...], ...]:
    """Return the ids of the active nodes of each wave, sorted; each node is in at most one."""
    found: list[list[str]] = [[] for _ in plan.waves]
    for entry in sorted(entries, key=lambda entry: entry.id):
        if entry.state != "active" or entry.env != plan.env:
            continue
        number = wave_of(plan, entry.id, entry.labels)
        if number is not None:
            found[number].append(entry.id)
    return tuple(tuple(wave) for wave in found)


def preview(plan: Plan, entries: Sequence[Entry]) -> Preview:
    """Return who is in which wave of `plan` today, and what deserves a second look.

    Approvers call this on the proposed plan: it also names witnesses that are not the ones which
    the rule would choose, and nodes whose receipt key is not the directory's.
    """
    members = members_of(plan, entries)
    total = sum(len(wave) for wave in members)
    keys = {entry.id: entry.receipt.key for entry in entries if entry.state == "active"}
    faults = [
        fault for number, mine in enumerate(members) for fault in _faults(plan, number, mine, keys)
    ]
    warnings = list(faults)
    for number, (wave, mine) in enumerate(zip(plan.waves, members, strict=True)):
        if number == 0:
            continue
        if set(witnesses(plan, mine)) != {node.id for node in wave.nodes}:
            warnings.append(
                f"the witnesses of wave {wave.name} are not the ones that the rule chooses"
            )
        done = sum(len(m) for m in members[: number + 1])
        if total and abs(done * 100 - wave.percent * total) > wave.percent * total / 2:
            warnings.append(
                f"wave {wave.name} ends at {100 * done // total} percent of the nodes, "
                f"not {wave.percent}"
            )
        if 1 <= len(wave.nodes) <= 2 and number < len(plan.waves) - 1:
            warnings.append(
                f"wave {wave.name} needs all of its {len(wave.nodes)} witnesses: "
                "one dead node stalls the roll-out"
            )
        if not mine and number < len(plan.waves) - 1:
            warnings.append(f"wave {wave.name} is empty and stays because of the policy")
    return Preview(members, tuple(warnings), tuple(faults))


def _faults(plan: Plan, number: int, mine: Sequence[str], keys: dict[str, str]) -> list[str]:
    """Named nodes that could not honestly prove the wave: whoever holds their keys opens the next.

    keys: node id -> receipt key of the directory
    """
    wave, found = plan.waves[number], []
    for node in wave.nodes:
        if node.id not in mine:
            found.append(f"{node.id} is named in wave {wave.name} and is no member of it")
        elif keys.get(node.id) != node.key:
            found.append(f"{node.id} is named with a key that is not the directory's")
    if number and wave.need < need_of(len(wave.nodes)):
        found.append(f"wave {wave.name} needs fewer witnesses than two thirds")
    if mine and not wave.nodes and number < len(plan.waves) - 1:
        found.append(f"wave {wave.name} has members and names no witness")
    return found


def check_evidence(plan: Plan, found: Preview) -> None:
    """Return only when the nodes that the plan names can prove its waves; raises Denied.

    A plan carries the receipt keys that open its waves. With a key of his own in it, its proposer
    and a stolen gateway would need no canary.
    """
    if found.faults:
        raise Denied(
            f"plan {plan.env}-{plan.app} seq {plan.seq}",
            expected="named nodes of the directory, in their waves, with their own keys",
            got=shown("; ".join(found.faults), 500),
            untouched="nothing was signed",
            hint="propose it again: the directory may have changed since",
            reason="witness",
        )
