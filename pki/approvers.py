"""Who may approve each app: operators, threshold, quotas and groups, by what is in force."""

from __future__ import annotations

from dataclasses import dataclass

from embrasure.trust import layout
from embrasure.trust.policy import Policy, parse_policy
from pki import people, roles, store
from pki.folder import TrustFolder


@dataclass(frozen=True, slots=True)
class Approvers:
    """The approvers of one app. keys: person and kind of key; groups: person -> groups."""

    role: str
    version: int
    threshold: int
    keys: tuple[tuple[str, str, str], ...]
    quotas: tuple[tuple[str, int], ...]
    groups: dict[str, tuple[str, ...]]

    def as_json(self) -> dict[str, object]:
        """Return what `--json` shows."""
        return {
            "role": self.role,
            "by": f"targets v{self.version}",
            "threshold": self.threshold,
            "quotas": dict(self.quotas),
            "operators": [
                {
                    "person": person,
                    "keyid": keyid,
                    "scheme": scheme,
                    "groups": list(self.groups.get(person, ())),
                }
                for person, keyid, scheme in self.keys
            ],
        }

    def line(self) -> str:
        """Return one line for a person."""
        names = ", ".join(person + self._in(person) for person, _, _ in self.keys)
        asked = ", ".join(f"{count} of {group}" for group, count in self.quotas)
        among = f" ({asked} among them)" if asked else ""
        return f"{self.role}: {self.threshold}{among} of {names}"

    def _in(self, person: str) -> str:
        held = self.groups.get(person, ())
        return f" ({', '.join(held)})" if held else ""


def approvers(trust: TrustFolder) -> list[Approvers]:
    """Return the approvers of every app that targets in force delegates, by role."""
    held = trust.held(layout.TARGETS)
    delegations = store.as_targets(held).delegations if held is not None else None
    if held is None or delegations is None:
        return []
    found = []
    for name, role in sorted((delegations.roles or {}).items()):
        kind = roles.kind_of(name)
        if kind.family != "app":
            continue
        policy = _policy(trust, kind.env)
        rules = policy.rules_of(kind.app) if policy is not None else None
        keys = [delegations.keys[keyid] for keyid in role.keyids]
        found.append(
            Approvers(
                role=name,
                version=held.signed.version,
                threshold=role.threshold,
                keys=tuple(sorted((people.owner_of(k), k.keyid, k.scheme) for k in keys)),
                quotas=tuple((q.group, q.min) for q in rules.quotas) if rules else (),
                groups={p.id: p.groups for p in policy.people} if policy is not None else {},
            )
        )
    return found


def _policy(trust: TrustFolder, env: str) -> Policy | None:
    held = trust.held(layout.fleet_role(env))
    if held is None:
        return None
    files = store.read_targets(trust.path, store.as_targets(held))
    return parse_policy(files[layout.policy_path(env)])
