"""Who may open the secrets of one app: verified metadata in, recipients out.

Swapped public keys are the real attack, so nothing else names a key: no database, file or flag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from embrasure import limits
from embrasure.errors import Denied, Refused
from embrasure.fingerprint import groups
from embrasure.secret.sealed import RECOVERY, Sealed
from embrasure.trust import layout
from embrasure.trust.denied import DeniedSets, denied_sets, merge
from embrasure.trust.directory import (
    Entry,
    Recovery,
    SealKey,
    parse_recovery,
    parse_shard,
    shard_names,
)
from embrasure.trust.floors import Union
from embrasure.trust.policy import Policy, parse_policy, parse_revocations
from pki import store
from pki.folder import TrustFolder


@dataclass(frozen=True, slots=True)
class Recipients:
    """The nodes of an app that are active and not denied, and the recovery recipient, sorted."""

    root: str
    env: str
    app: str
    keys: tuple[tuple[str, SealKey], ...]

    def lines(self) -> list[str]:
        """Return who could open it and under which key, for a person to compare."""
        return [
            f"{name}  {key.suite} epoch {key.epoch}  {groups(key.fingerprint)}"
            for name, key in self.keys
        ]

    def as_json(self) -> list[dict[str, object]]:
        """Return what `--json` shows of them."""
        return [
            {"to": name, "suite": key.suite, "epoch": key.epoch, "fingerprint": key.fingerprint}
            for name, key in self.keys
        ]

    def check_same_app(self, sealed: Sealed) -> None:
        """Return only when the file is of this very app; raises Refused."""
        mine, theirs = (self.root, self.env, self.app), (sealed.root, sealed.env, sealed.app)
        if mine != theirs:
            raise Refused(
                f"secret {sealed.label}",
                expected=f"one of {self.env}-{self.app} of this fleet",
                got=f"one of {sealed.env}-{sealed.app}",
                reason="not-mine",
            )

    def differences(self, sealed: Sealed) -> tuple[list[str], list[str]]:
        """Return who lacks a stanza that fits his key of today, and who has one too many."""
        wanted = {name: (key.suite, key.epoch) for name, key in self.keys}
        there = {one.recipient: (one.suite, one.epoch) for one in sealed.stanzas}
        missing = sorted(name for name in wanted if there.get(name) != wanted[name])
        return missing, sorted(set(there) - set(wanted))

    def lost(self, sealed: Sealed) -> list[str]:
        """Return whose stanza a rewrap drops or replaces: whoever has that key knows the value."""
        wanted = {name: (key.suite, key.epoch) for name, key in self.keys}
        there = {one.recipient: (one.suite, one.epoch) for one in sealed.stanzas}
        return sorted(name for name, key in there.items() if wanted.get(name) != key)


def recipients(
    entries: Iterable[Entry],
    *,
    policy: Policy,
    denied: DeniedSets,
    recovery: Recovery | None,
    app: str,
) -> Recipients:
    """Return who may open secrets of `app`; raises Denied (`no-recovery`, `no-app`, `limit`).

    Never a node that is retired, denied, of another environment or outside the app's group.
    """
    rules = policy.rules_of(app)
    if rules is None:
        raise Denied(f"app {app}", expected=f"an app of {policy.env}", got="none", reason="no-app")
    if recovery is None:
        raise Denied(
            f"environment {policy.env}",
            expected="a recovery recipient, without which a replaced node gets no secret",
            got="none",
            hint="embrasure secret recovery generate, then embrasure secret recovery adopt",
            reason="no-recovery",
        )
    if (recovery.root, recovery.env) != (policy.root, policy.env):
        raise Refused("recovery recipient", expected=policy.env, got=recovery.env,
                      reason="not-mine")  # fmt: skip
    found = [
        (entry.id, entry.hpke)
        for entry in entries
        if may_open(entry, env=policy.env, group=rules.group, denied=denied)
    ]
    if not 1 <= len(found) <= limits.SECRET_RECIPIENTS:
        raise Denied(
            f"secrets of {app}",
            expected=f"1 to {limits.SECRET_RECIPIENTS} nodes that may open them",
            got=len(found),
            reason="limit",
        )
    keys = sorted([*found, (RECOVERY, recovery.hpke)])
    return Recipients(policy.root, policy.env, app, tuple(keys))


def may_open(entry: Entry, *, env: str, group: Mapping[str, str], denied: DeniedSets) -> bool:
    """Return whether a node of the directory may be given the app's secrets."""
    return (
        entry.env == env
        and entry.state == "active"
        and entry.id not in denied.nodes
        and entry.receipt_id not in denied.keys
        and all(entry.labels.get(name) == value for name, value in group.items())
    )


def from_folder(trust: TrustFolder, env: str, app: str, *, at: datetime) -> Recipients:
    """Return the recipients that the verified roles in force in `trust` name; drafts never count.

    Raises Refused when a role does not verify or has expired, Denied.
    """
    fleet = layout.fleet_role(layout.check_env(env))
    layout.check_app(app)
    for role in trust.verify(at):
        if role.expired and role.role in (layout.ROOT, layout.TARGETS, layout.REVOCATIONS, fleet):
            raise Refused(role.role, expected="a role that has not expired", got="an expired one",
                          hint="embrasure trust renew", reason="stale")  # fmt: skip
    held = trust.held(fleet)
    if held is None:
        raise Denied(
            f"environment {env}", expected="one that is in force", got="none", reason="no-env"
        )
    documents = store.read_targets(trust.path, store.as_targets(held))
    policy = parse_policy(documents[layout.policy_path(env)])
    if (policy.root, policy.env) != (trust.root_id, env):
        raise Refused("policy", expected=f"one of {env}", got=policy.env, reason="not-mine")
    spare = documents.get(layout.recovery_path(env))
    return recipients(
        entries_of(documents, policy),
        policy=policy,
        denied=denied_sets(policy, _union(trust, policy)),
        recovery=None if spare is None else parse_recovery(spare),
        app=app,
    )


def entries_of(documents: Mapping[str, bytes], policy: Policy) -> list[Entry]:
    """Return every entry of the directory, shard by shard."""
    shards = [
        parse_shard(documents[layout.shard_path(policy.env, name)])
        for name in shard_names(policy.shards)
    ]
    if any((shard.root, shard.env) != (policy.root, policy.env) for shard in shards):
        raise Refused("directory", expected=f"one of {policy.env}", got="another",
                      reason="not-mine")  # fmt: skip
    return [entry for shard in shards for entry in shard.entries]


def _union(trust: TrustFolder, policy: Policy) -> Union:
    held = trust.held(layout.REVOCATIONS)
    if held is None:
        return Union()
    documents = store.read_targets(trust.path, store.as_targets(held))
    raw = documents.get(layout.revocations_path(policy.env))
    if raw is None:
        return Union()
    reset, version = policy.denials_reset_through, held.signed.version
    return merge(Union(), parse_revocations(raw), version=version, reset_through=reset)
