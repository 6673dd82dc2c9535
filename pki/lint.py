"""What a draft must be before anybody signs it or puts it in force, role by role.

A signature by mistake is still a signature: what a node would refuse, no tool signs.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from tuf.api.metadata import DelegatedRole, Key, Role, Root, Targets

from embrasure import limits
from embrasure.errors import Refused
from embrasure.secret.keys import check_sound
from embrasure.trust import directory, layout, policy
from pki import people, roles, store
from pki.drafts import Draft


def check_content(draft: Draft, *, root_id: str, at: datetime) -> None:
    """Return only when the draft is a sound version of its role; raises Refused, NotSupported."""
    if draft.metadata.signed.is_expired(at):
        raise _refuse(draft, "an expiry in the future", draft.metadata.signed.expires)
    if draft.role == layout.ROOT:
        check_root(store.as_root(draft.metadata))
    elif draft.role == layout.TARGETS:
        check_targets(store.as_targets(draft.metadata))
    else:
        if store.as_targets(draft.metadata).delegations is not None:
            raise _refuse(draft, "no delegation", "one")
        check_listed(store.as_targets(draft.metadata))
        check_documents(draft.role, draft.documents, root_id=root_id)


def check_listed(targets: Targets) -> None:
    """Return only when each file is listed by length and SHA-256 alone; raises Refused.

    A signer is shown the file; whatever else stood in its entry he would sign unseen.
    """
    for path, entry in targets.targets.items():
        if set(entry.hashes) != {"sha256"} or entry.unrecognized_fields:
            odd = sorted({*entry.hashes, *entry.unrecognized_fields} - {"sha256"})
            raise Refused(path, expected="length and SHA-256", got=", ".join(odd) or "no SHA-256")


def check_root(root: Root) -> None:
    """Return only when thresholds can be met and the online keys are no keyholder's."""
    if not root.consistent_snapshot:
        raise Refused("root", expected="consistent snapshots", got="none")
    used = {name: _check_role(name, role, root.keys) for name, role in root.roles.items()}
    offline = used[layout.ROOT] | used[layout.TARGETS]
    if used[layout.SNAPSHOT] & used[layout.TIMESTAMP] or offline & (
        used[layout.SNAPSHOT] | used[layout.TIMESTAMP]
    ):
        raise Refused("root", expected="a key to serve one role family", got="a key in two")


def check_targets(targets: Targets) -> None:
    """Return only when every delegation is of a known kind, bounded, and of its own keys."""
    if targets.targets:
        raise Refused("targets", expected="delegations only", got="target files")
    found = targets.delegations
    if found is None or found.roles is None:
        raise Refused("targets", expected="a list of delegations", got="none")
    families: dict[str, str] = {}
    for name, role in found.roles.items():
        _check_delegation(name, role)
        purpose = roles.kind_of(name).purpose
        for material in _check_role(name, role, found.keys):
            if families.setdefault(material, purpose) != purpose:
                raise Refused(name, expected="a key to serve one role family", got="a key in two")


def _check_delegation(name: str, role: DelegatedRole) -> None:
    if not role.terminating or role.paths != roles.patterns(name) or role.path_hash_prefixes:
        raise Refused(
            name, expected=f"terminating, for {roles.patterns(name)}", got=f"{role.paths}"
        )


def _check_role(name: str, role: Role, keys: Mapping[str, Key]) -> set[str]:
    """Return the public keys of a role: each once, known, as many as its threshold at least."""
    if any(keyid not in keys for keyid in role.keyids):
        raise Refused(name, expected="keys that are listed", got="an unknown key id")
    material = [str(keys[keyid].keyval.get("public", "")).strip() for keyid in role.keyids]
    if len(set(material)) != len(material):
        # Under two ids one key would count twice.
        raise Refused(name, expected="each key once", got="one key twice", reason="threshold")
    if not 1 <= role.threshold <= len(material) <= limits.KEYS_PER_ROLE:
        raise Refused(
            name,
            expected=f"1 <= threshold <= keys <= {limits.KEYS_PER_ROLE}",
            got=f"{role.threshold} of {len(material)}",
            reason="threshold",
        )
    named = [
        keys[keyid] for keyid in role.keyids if people.PERSON in keys[keyid].unrecognized_fields
    ]
    owners = [people.owner_of(key) for key in named]
    if len(set(owners)) != len(owners):
        raise Refused(name, expected="each person once", got="a person twice", reason="threshold")
    return set(material)


def check_documents(role: str, documents: Mapping[str, bytes], *, root_id: str) -> None:
    """Return only when the target files of a fleet or revocations role are whole and its own."""
    kind = roles.kind_of(role)
    if kind.family == "fleet":
        _check_fleet(kind.env, documents, root_id=root_id)
        return
    for path, raw in documents.items():
        found = policy.parse_revocations(raw)
        if found.root != root_id or path != layout.revocations_path(found.env):
            raise Refused(path, expected="revocations of its environment and fleet", got="others")


def _check_fleet(env: str, documents: Mapping[str, bytes], *, root_id: str) -> None:
    known = dict(documents)
    try:
        rules = policy.parse_policy(known.pop(layout.policy_path(env)))
        tls = directory.parse_tls_bundle(known.pop(layout.tls_path(env)))
        spare = known.pop(layout.recovery_path(env), None)
        names = directory.shard_names(rules.shards)
        shards = {
            name: directory.parse_shard(known.pop(layout.shard_path(env, name))) for name in names
        }
    except KeyError as missing:
        raise Refused(f"fleet-{env}", expected=f"the document {missing}", got="none") from None
    if known:
        raise Refused(f"fleet-{env}", expected="policy, tls and directory", got=sorted(known))
    fleets = {(rules.root, rules.env), (tls.root, tls.env)}
    if spare is not None:
        recovery = directory.parse_recovery(spare)
        check_sound(recovery.hpke)
        fleets.add((recovery.root, recovery.env))
    if fleets | {(shard.root, shard.env) for shard in shards.values()} != {(root_id, env)}:
        raise Refused(f"fleet-{env}", expected="documents of this fleet", got="others")
    for name, shard in shards.items():
        wrong = [e.id for e in shard.entries if directory.shard_of(e.id, rules.shards) != name]
        if shard.shard != name or wrong:
            raise Refused(f"fleet-{env}", expected="nodes in their shard", got=wrong or shard.shard)
    keys = [entry.receipt.key for shard in shards.values() for entry in shard.entries]
    if len(set(keys)) != len(keys):
        raise Refused(f"fleet-{env}", expected="each receipt key once", got="one twice")


def _refuse(draft: Draft, expected: str, got: object) -> Refused:
    return Refused(f"draft of {draft.role} v{draft.version}", expected=expected, got=got)
