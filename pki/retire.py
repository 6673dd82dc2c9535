"""A node leaves the directory by routine: its entry is retired, its id is never used again.

No denial: receipts that it signed before stay evidence where a plan names it. Theft is another
verb (`trust deny`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from embrasure.clock import Clock
from embrasure.errors import NotFound
from embrasure.trust import directory, documents, layout, policy
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder


def retire(trust: TrustFolder, env: str, nodes: Sequence[str], *, clock: Clock) -> list[Draft]:
    """`fleet-<env>` is a draft in which these nodes are retired; no draft when all are already.

    Raises NotFound for an id that the directory does not list, Misuse.
    """
    trust.fleet_role(env)
    work = Desk(trust, clock)
    changed = [_retire(work, env, node) for node in nodes]
    return work.write() if any(changed) else []


def _retire(work: Desk, env: str, node: str) -> bool:
    role = layout.fleet_role(env)
    rules = policy.parse_policy(work.document(role, layout.policy_path(env)))
    path = layout.shard_path(env, directory.shard_of(node, rules.shards))
    shard = directory.parse_shard(work.document(role, path))
    known = {entry.id: entry for entry in shard.entries}
    if node not in known:
        raise NotFound(f"node {node}", expected=f"an entry of {role}", got="none")
    if known[node].state == "retired":
        return False
    known[node] = msgspec.structs.replace(known[node], state="retired")
    entries = tuple(known[name] for name in sorted(known))
    raw = documents.write(msgspec.structs.replace(shard, entries=entries))
    directory.parse_shard(raw)
    work.put(role, path, raw)
    return True
