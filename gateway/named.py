"""Nodes that an open plan names keep their keys and labels until it ends: else it never completes.

A plan carries the receipt keys of its canary and witnesses. A node whose key, labels or state
change under it can give no evidence any more, and the roll-out stalls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import select

from embrasure.errors import Denied
from embrasure.trust import directory
from embrasure.trust.directory import Entry
from embrasure.trust.plan import Plan, parse_plan
from gateway import tables
from gateway.database import Database


def open_plans(database: Database) -> list[Plan]:
    """Return every plan from its proposal to its end."""
    row = tables.proposals.c
    found = database.all(select(row.plan).where(row.state.in_(tables.OPEN_PROPOSALS)))
    return [parse_plan(bytes(one.plan)) for one in found]


def check_named(
    plans: Sequence[Plan], held: Mapping[str, Entry], documents: Mapping[str, bytes]
) -> None:
    """Return only when no node that an open plan names changes; raises Denied (`open-plan`).

    held: the directory in force, of every environment, by node id; documents: the new ones.
    """
    changed = {entry.id for entry in _changed(held, documents)}
    for plan in plans:
        named = sorted({node.id for wave in plan.waves for node in wave.nodes} & changed)
        if named:
            raise Denied(
                f"directory of {plan.env}",
                expected=f"the nodes that the open plan {plan.app} seq {plan.seq} names, as they "
                "are",
                got=f"a change of {', '.join(named)}",
                untouched="nothing was published",
                hint="end the plan first, or say --force: then propose it anew",
                reason="open-plan",
            )


def _changed(held: Mapping[str, Entry], documents: Mapping[str, bytes]) -> Iterator[Entry]:
    """Yield the entries in force that the new shards change or leave out."""
    new: dict[str, Entry] = {}
    envs: set[str] = set()
    for path, raw in documents.items():
        if path.startswith("targets/fleet/") and "/dir/" in path:
            shard = directory.parse_shard(raw)
            envs.add(f"{shard.env}/{shard.shard}")
            new |= {entry.id: entry for entry in shard.entries}
    if not envs:
        return
    for entry in held.values():
        after = new.get(entry.id)
        if (after is not None and after != entry) or (after is None and _was_in(entry, envs)):
            yield entry


def _was_in(entry: Entry, shards: set[str]) -> bool:
    """Return whether a new shard stands where `entry` was listed, whatever the number of shards."""
    sizes = (1, 16, 64, 256)
    return any(f"{entry.env}/{directory.shard_of(entry.id, size)}" in shards for size in sizes)
