"""The verified facts by which an approval is judged, by the gateway and by each approver."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from securesystemslib.signer import Key
from tuf.api.metadata import TargetFile, Targets

from embrasure import limits
from embrasure.bundle.manifest import Manifest, parse_manifest
from embrasure.errors import Denied, NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.denied import DeniedSets, denied_sets, merge
from embrasure.trust.directory import Entry, parse_shard, shard_names
from embrasure.trust.floors import Union
from embrasure.trust.load import Targets as Documents
from embrasure.trust.plan import Plan, parse_plan
from embrasure.trust.policy import Policy, parse_policy, parse_revocations
from embrasure.trust.source import Source
from embrasure.trust.view import View
from gateway.metadata import read_metadata

RESERVED_NUMBERS = 64  # of one app by one person, until a plan of it is published


class Verified(Documents, Protocol):
    """What reads verified files and the metadata that lists them: `TrustClient`."""

    def role_bytes(self, view: View, role: str) -> bytes:
        """Return the verified metadata file of a role of `view`."""
        ...


@dataclass(frozen=True, slots=True)
class Running:
    """The published version of an approval role, and what its plan names."""

    version: int
    targets: Targets
    plan: Plan
    plan_digest: str
    manifest: Manifest

    @property
    def kept(self) -> dict[str, TargetFile]:
        """The running manifest as it is listed: the next version lists it too."""
        path = layout.manifest_path(self.plan.env, self.plan.app, self.plan.manifest.sha256)
        return {path: self.targets.targets[path]} if path in self.targets.targets else {}


@dataclass(frozen=True, slots=True)
class Grounds:
    """Facts about one app in one environment, all out of verified files.

    keys: who may sign `<env>-<app>`, by key id; threshold: how many persons it takes
    orphaned: what is published has lost its signatures, so nothing counts as running
    """

    root: str
    env: str
    app: str
    policy: Policy
    policy_digest: str
    denied: DeniedSets
    keys: Mapping[str, Key]
    threshold: int
    targets: Targets
    running: Running | None
    orphaned: bool = False

    @property
    def role(self) -> str:
        """The name of the approval role."""
        return layout.app_role(self.env, self.app)

    @property
    def kept(self) -> dict[str, TargetFile]:
        """What the next version may list beside its own plan and manifest."""
        return self.running.kept if self.running else {}

    def person_of(self, key: str) -> str:
        """Return whose key this is, when it counts for this app; raises Denied."""
        person = self.policy.person_of(key)
        if key not in self.keys or person is None or key in self.denied.keys:
            raise Denied(
                f"key {key[:12]}",
                expected=f"a key that may sign {self.role}, of a person of the policy",
                got="denied" if key in self.denied.keys else "another key",
                reason="not-an-operator",
            )
        return person

    def quotas(self) -> dict[str, int]:
        """Return group -> how many of its persons must approve."""
        rules = self.policy.rules_of(self.app)
        return {quota.group: quota.min for quota in rules.quotas} if rules is not None else {}

    def lacking(self, persons: Collection[str]) -> str:
        """Return what an approval by these persons still lacks, in words; empty for nothing."""
        more = self.threshold - len(set(persons))
        unmet = self.policy.quotas_unmet(self.app, persons)
        parts = [f"{more} more"] if more > 0 else []
        return ", ".join([*parts, *(f"{count} of {group}" for group, count in unmet.items())])

    def people(self) -> list[str]:
        """Return the persons who may approve, sorted."""
        found = {self.policy.person_of(key) for key in self.keys if key not in self.denied.keys}
        return sorted(person for person in found if person is not None)

    def needs(self) -> str:
        """Return what it takes, as an approver reads it."""
        quotas = ", ".join(f"{count} of {group}" for group, count in self.quotas().items())
        return f"{self.threshold} persons" + (f" ({quotas} among them)" if quotas else "")


def check_operator(person: str, grounds: Grounds) -> None:
    """Return only when `person` may sign for the app; raises Denied."""
    if person not in grounds.people():
        raise Denied(
            f"operator {person}", expected=f"a person who may sign {grounds.role}",
            got="another one", reason="not-an-operator",
        )  # fmt: skip


def check_reserved(count: int, grounds: Grounds, person: str) -> None:
    """Return only while the person has not taken too many numbers of one published version.

    A number decides who is in which wave, and too high ones would stop every honest proposer.
    """
    if count > RESERVED_NUMBERS:
        raise Denied(
            f"numbers of {grounds.role}",
            expected=f"at most {RESERVED_NUMBERS} by {person} until a plan is published",
            got="one more", hint="ask another operator of the app to propose", reason="limit",
        )  # fmt: skip


def roles_for(env: str, app: str) -> tuple[str, ...]:
    """Return the delegated roles that `load_grounds` needs."""
    return (layout.REVOCATIONS, layout.fleet_role(env), layout.app_role(env, app))


def load_grounds(
    client: Verified,
    view: View,
    source: Source,
    *,
    env: str,
    app: str,
    denied: DeniedSets | None = None,
) -> Grounds:
    """Return the facts about `<env>-<app>`; raises Denied when there is no such role, Refused.

    denied: what the gateway has ever seen denied; without it (an operator's machine) policy and
    the newest revocations count
    """
    layout.check_env(env)
    layout.check_app(app)
    role = layout.app_role(env, app)
    targets = read_metadata(client.role_bytes(view, layout.TARGETS), Targets, layout.TARGETS).signed
    keys, threshold = _delegation(targets, role)
    policy, raw = load_policy(client, view, source, env=env)
    return Grounds(
        root=view.root_id,
        env=env,
        app=app,
        policy=policy,
        policy_digest=sha256_hex(raw),
        denied=denied or load_denied(client, view, source, policy),
        keys=keys,
        threshold=threshold,
        targets=targets,
        running=_running(client, view, source, env=env, app=app),
    )


def load_policy(client: Documents, view: View, source: Source, *, env: str) -> tuple[Policy, bytes]:
    """Return the environment's verified policy and its bytes; raises Denied, Refused."""
    fleet = layout.fleet_role(env)
    try:
        raw = client.target(view, fleet, layout.policy_path(env), source, limit=limits.POLICY_BYTES)
    except NotFound:
        raise Denied(
            f"environment {env}", expected="a published policy", got="none", reason="no-env"
        ) from None
    policy = parse_policy(raw)
    if (policy.root, policy.env) != (view.root_id, env):
        raise Refused("policy", expected=f"one of {env}", got=policy.env, reason="not-mine")
    return policy, raw


def load_entries(client: Documents, view: View, source: Source, policy: Policy) -> list[Entry]:
    """Return every node that the verified directory of the policy's environment lists."""
    fleet = layout.fleet_role(policy.env)
    found: list[Entry] = []
    for name in shard_names(policy.shards):
        path = layout.shard_path(policy.env, name)
        try:
            raw = client.target(view, fleet, path, source, limit=limits.SHARD_BYTES)
        except NotFound:
            continue
        shard = parse_shard(raw)
        if (shard.root, shard.env, shard.shard) != (view.root_id, policy.env, name):
            raise Refused("directory", expected=f"shard {name}", got=shard.shard, reason="not-mine")
        found.extend(shard.entries)
    return sorted(found, key=lambda entry: entry.id)


def _delegation(targets: Targets, role: str) -> tuple[dict[str, Key], int]:
    found = targets.delegations
    delegated = (found.roles or {}).get(role) if found is not None else None
    if found is None or delegated is None:
        raise Denied(
            f"role {role}",
            expected="an app that the security team has delegated",
            got="no such role",
            hint="embrasure trust app add",
            reason="no-app",
        )
    keys = {key: found.keys[key] for key in delegated.keyids if key in found.keys}
    if not 1 <= delegated.threshold <= len(keys):
        raise Refused(
            f"role {role}",
            expected="a threshold between 1 and the number of its keys",
            got=delegated.threshold,
            reason="threshold",
        )
    return keys, delegated.threshold


def load_denied(client: Documents, view: View, source: Source, policy: Policy) -> DeniedSets:
    """Return what policy and newest revocations of its environment deny; raises Refused."""
    union = Union()
    found = view.role(layout.REVOCATIONS)
    path = layout.revocations_path(policy.env)
    if found is not None and path in found.targets:
        raw = client.target(view, layout.REVOCATIONS, path, source, limit=limits.REVOCATIONS_BYTES)
        reset = policy.denials_reset_through
        union = merge(union, parse_revocations(raw), version=found.version, reset_through=reset)
    return denied_sets(policy, union)


def _running(client: Verified, view: View, source: Source, *, env: str, app: str) -> Running | None:
    role, path = layout.app_role(env, app), layout.plan_path(env, app)
    found = view.role(role)
    if found is None or path not in found.targets:
        return None
    raw = client.target(view, role, path, source, limit=limits.PLAN_BYTES)
    plan = parse_plan(raw)
    content = client.target(
        view,
        role,
        layout.manifest_path(env, app, plan.manifest.sha256),
        source,
        limit=limits.MANIFEST_BYTES,
    )
    return Running(
        version=found.version,
        targets=read_metadata(client.role_bytes(view, role), Targets, role).signed,
        plan=plan,
        plan_digest=sha256_hex(raw),
        manifest=parse_manifest(content),
    )
