"""Policy of an environment: people, apps, lasting denials; and the on-call's revocations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust.documents import (
    AppName,
    Count,
    Digest,
    Document,
    EnvName,
    KeyId,
    Labels,
    Name,
    NodeId,
    Percent,
    PersonId,
    Positive,
    Time,
    check_unused,
    read,
)
from embrasure.trust.quota import unmet


class Person(Document, frozen=True, kw_only=True):
    """A person and all the keys that are his: however many sign, he counts once."""

    id: PersonId
    keys: Annotated[tuple[KeyId, ...], Meta(max_length=limits.KEYS_PER_PERSON)]
    groups: Annotated[tuple[Name, ...], Meta(max_length=16)]


class Quota(Document, frozen=True, kw_only=True):
    """At least `min` approvers of a group."""

    group: Name
    min: Annotated[int, Meta(ge=1, le=limits.KEYS_PER_ROLE)]


class WeeklyWindow(Document, frozen=True, kw_only=True):
    """Hours of a week in which an app may be changed."""

    day: Annotated[int, Meta(ge=0, le=6)]
    start: Annotated[str, Meta(pattern=r"^[0-2][0-9]:[0-5][0-9]$")]
    minutes: Positive
    zone: Annotated[str, Meta(max_length=64)]


class AppPolicy(Document, frozen=True, kw_only=True):
    """What a plan of an app must at least respect."""

    group: Labels
    quotas: Annotated[tuple[Quota, ...], Meta(max_length=16)]
    min_canary: Annotated[int, Meta(ge=1, le=limits.NAMED_NODES)]
    min_soak_s: Annotated[int, Meta(ge=0, le=86400)]
    max_second_percent: Percent
    windows: Annotated[tuple[WeeklyWindow, ...], Meta(max_length=limits.WINDOWS)]
    approval_expiry_s: Annotated[int, Meta(ge=60, le=limits.EXPIRY_MAX_SECONDS)]
    execution_expiry_s: Annotated[int, Meta(ge=60, le=limits.EXPIRY_MAX_SECONDS)]


Denials = Meta(max_length=limits.DENIED_PER_LIST)


class Denied(Document, frozen=True, kw_only=True):
    """Lasting denials; leaving an entry out of a later version lifts it."""

    plans: Annotated[tuple[Digest, ...], Denials]
    manifests: Annotated[tuple[Digest, ...], Denials]
    keys: Annotated[tuple[KeyId, ...], Denials]
    nodes: Annotated[tuple[NodeId, ...], Denials]
    gateway_certs: Annotated[tuple[Digest, ...], Denials]
    issuers: Annotated[tuple[Digest, ...], Denials]


class Freeze(Document, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """No new main install of an app (or `*`) between two times."""

    id: Name
    app: Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9-]{0,47})$")]
    start: Time
    end: Time
    reason: Annotated[str, Meta(max_length=limits.REASON_CHARACTERS)]
    hard: bool


class Lifetimes(Document, frozen=True, kw_only=True):
    """Longest life in seconds of what is signed online."""

    timestamp: Positive
    snapshot: Positive
    gates: Positive


class Policy(Document, frozen=True, kw_only=True):
    """The rules of one environment, signed by the fleet role."""

    v: Literal[1]
    type: Literal["policy"]
    root: Digest
    env: EnvName
    people: Annotated[tuple[Person, ...], Meta(max_length=limits.PEOPLE)]
    apps: Annotated[
        dict[Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9-]{0,47})$")], AppPolicy],
        Meta(max_length=limits.APPS),
    ]
    denied: Denied
    min_seq: dict[AppName, Count]
    seq_ceiling: dict[AppName, Count]
    denials_reset_through: Count
    freezes: Annotated[tuple[Freeze, ...], Meta(max_length=limits.FREEZES)]
    lifetimes: Lifetimes
    protocol_min: Positive
    skew_s: Annotated[int, Meta(ge=0, le=3600)]
    min_isolation: Annotated[int, Meta(ge=0, le=3)]
    shards: Literal[1, 16, 64, 256]
    collect_key: Digest
    tlog: None

    def rules_of(self, app: str) -> AppPolicy | None:
        """Return what holds for `app`: its own entry, else that of `*`, else None."""
        return self.apps.get(app) or self.apps.get("*")

    def person_of(self, key: str) -> str | None:
        """Return whose key this is, else None: a key of nobody never counts."""
        return next((person.id for person in self.people if key in person.keys), None)

    def quotas_unmet(self, app: str, persons: Iterable[str]) -> dict[str, int]:
        """Return group -> how many of it an approval of `app` by these persons still lacks."""
        rules = self.rules_of(app)
        groups = {person.id: person.groups for person in self.people}
        return unmet(rules.quotas, persons, groups) if rules is not None else {}


class Stop(Document, frozen=True, kw_only=True):
    """A freeze by the on-call."""

    id: Name
    app: Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9-]{0,47})$")]
    reason: Annotated[str, Meta(max_length=limits.REASON_CHARACTERS)]
    until: Time


class Revocations(Document, frozen=True, kw_only=True):
    """What one on-call signature stops; it can never start an install."""

    v: Literal[1]
    type: Literal["revocations"]
    root: Digest
    env: EnvName
    plans: Annotated[tuple[Digest, ...], Denials]
    manifests: Annotated[tuple[Digest, ...], Denials]
    keys: Annotated[tuple[KeyId, ...], Denials]
    nodes: Annotated[tuple[NodeId, ...], Denials]
    gateway_certs: Annotated[tuple[Digest, ...], Denials]
    freezes: Annotated[tuple[Stop, ...], Meta(max_length=limits.FREEZES)]
    issued: Time
    reason: Annotated[str, Meta(max_length=limits.REASON_CHARACTERS)]


def parse_policy(raw: bytes) -> Policy:
    """Return the policy in `raw`; raises Refused, NotSupported."""
    policy = read(raw, Policy, limit=limits.POLICY_BYTES, document="policy")
    keys = [key for person in policy.people for key in person.keys]
    if len(set(keys)) != len(keys) or len({p.id for p in policy.people}) != len(policy.people):
        raise Refused(
            "policy", expected="a key to have one person", got="a key twice", reason="bad-schema"
        )
    for app, rules in policy.apps.items():
        _check_quotas(app, rules.quotas)
    check_unused(
        "policy",
        windows=[rules.windows for rules in policy.apps.values() if rules.windows],
        freezes=policy.freezes,
    )
    return policy


def _check_quotas(app: str, quotas: tuple[Quota, ...]) -> None:
    """Return only when each group is named once, and no more persons are asked for than can be."""
    groups = [quota.group for quota in quotas]
    places = sum(quota.min for quota in quotas)
    if len(set(groups)) != len(groups) or places > limits.KEYS_PER_ROLE:
        raise Refused(
            f"quotas of {app}",
            expected=f"each group once, {limits.KEYS_PER_ROLE} persons at most",
            got=", ".join(f"{quota.group}={quota.min}" for quota in quotas),
            reason="bad-schema",
        )


def parse_revocations(raw: bytes) -> Revocations:
    """Return the revocations in `raw`; raises Refused, NotSupported."""
    found = read(raw, Revocations, limit=limits.REVOCATIONS_BYTES, document="revocations")
    check_unused("revocations", freezes=found.freezes)
    return found
