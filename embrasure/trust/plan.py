"""The plan: what k operators approve. Its SHA-256 is the id in all that follows."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust.documents import (
    AppName,
    Content,
    Count,
    Digest,
    Document,
    EnvName,
    Labels,
    Name,
    NodeId,
    Percent,
    PersonId,
    Positive,
    PublicKey,
    Time,
    check_unused,
    read,
)


class NamedNode(Document, frozen=True, kw_only=True):
    """A node whose receipts count as evidence, with its raw Ed25519 receipt key (hex).

    The key itself, not its id: evidence is checked from the plan alone, without the directory.
    """

    id: NodeId
    key: PublicKey


class Wave(Document, frozen=True, kw_only=True):
    """Who may install at this step, and what must be seen before the next one opens."""

    name: Name
    nodes: Annotated[tuple[NamedNode, ...], Meta(max_length=limits.NAMED_NODES)]
    match: Labels
    percent: Percent
    need: Annotated[int, Meta(ge=0, le=limits.NAMED_NODES)]
    soak_s: Annotated[int, Meta(ge=0, le=limits.SOAK_SECONDS)]
    max_parallel: Annotated[int, Meta(ge=1, le=100_000)]
    deadline_s: Annotated[int, Meta(ge=1, le=86400)]


class After(Document, frozen=True, kw_only=True):
    """Another app that must have soaked first."""

    app: AppName
    min_seq: Count
    nodes: Annotated[tuple[NamedNode, ...], Meta(max_length=limits.NAMED_NODES)]
    need: Count
    max_age_s: Count


class Window(Document, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """Absolute times between which a switch may happen."""

    start: Time
    end: Time


class Failure(Document, frozen=True, kw_only=True):
    """When the gateway stops a roll-out by itself."""

    max_failed: Count
    max_failed_pct: Percent
    min_reached_pct: Percent
    scope: Literal["node", "all"]
    on_no_target: Literal["stop", "keep"]


class Former(Document, frozen=True, kw_only=True):
    """The way back that the approvers named."""

    sha256: Digest
    length: Count
    seq: Positive


class Plan(Document, frozen=True, kw_only=True):
    """Which manifest goes to which group, in which waves, behind which evidence."""

    v: Literal[1]
    type: Literal["plan"]
    root: Digest
    env: EnvName
    app: AppName
    seq: Positive
    manifest: Content
    fallback: Former | None
    group: Labels
    waves: Annotated[tuple[Wave, ...], Meta(min_length=1, max_length=limits.WAVES)]
    after: Annotated[tuple[After, ...], Meta(max_length=limits.AFTER)]
    windows: Annotated[tuple[Window, ...], Meta(max_length=limits.WINDOWS)]
    overrides_freeze: Annotated[tuple[Name, ...], Meta(max_length=limits.FREEZES)]
    failure: Failure
    max_attempts: Annotated[int, Meta(ge=1, le=limits.MAX_ATTEMPTS)]
    settings: Annotated[
        dict[
            Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")],
            Annotated[str, Meta(max_length=limits.SETTING_BYTES)],
        ],
        Meta(max_length=limits.SETTINGS),
    ]
    proposer: PersonId
    created: Time
    approve_by: Time
    not_after: Time
    title: Annotated[str, Meta(max_length=limits.TITLE_CHARACTERS)]
    comment: Annotated[str, Meta(max_length=limits.COMMENT_CHARACTERS)]


def parse_plan(raw: bytes) -> Plan:
    """Return the plan in `raw`; raises Refused, NotSupported."""
    plan = read(raw, Plan, limit=limits.PLAN_BYTES, document="plan")
    check_waves(plan)
    check_unused(
        "plan",
        fallback=plan.fallback,
        after=plan.after,
        windows=plan.windows,
        overrides_freeze=plan.overrides_freeze,
        failure_scope_all=plan.failure.scope == "all",
    )
    return plan


def check_waves(plan: Plan) -> None:
    """Return only when the waves give every node of the group exactly one wave.

    Canary by id, later waves by percent that never falls, the last one takes all that is left;
    times rise; named nodes are distinct; the sum of `need` fits a gate.
    """

    def refuse(expected: str, got: object) -> Refused:
        return Refused("plan", expected=expected, got=got, reason="bad-schema")

    canary, last = plan.waves[0], plan.waves[-1]
    if not canary.nodes or canary.match or canary.percent:
        raise refuse("a canary wave of named nodes, without match and percent", canary.name)
    if canary.need != len(canary.nodes):
        raise refuse("every canary to be needed", f"need {canary.need}")
    if len(plan.waves) > 1 and (last.percent != 100 or last.match):
        raise refuse("a last wave of 100 percent that matches all", f"{last.percent} percent")
    percents = [wave.percent for wave in plan.waves]
    if percents != sorted(percents) or any(p == 0 for p in percents[1:]):
        raise refuse("percentages that rise", percents)
    if len({wave.name for wave in plan.waves}) != len(plan.waves):
        raise refuse("distinct names of waves", "a name twice")
    for wave in plan.waves:
        if len({n.id for n in wave.nodes}) != len(wave.nodes):
            raise refuse("distinct named nodes", f"a node twice in wave {wave.name}")
        if len({n.key for n in wave.nodes}) != len(wave.nodes):
            raise refuse("distinct receipt keys", f"a key twice in wave {wave.name}")
        if wave.need > len(wave.nodes):
            raise refuse("no more needed than named", f"need {wave.need} in wave {wave.name}")
    if sum(wave.need for wave in plan.waves) > limits.RECEIPTS_PER_GATE:
        raise refuse(f"at most {limits.RECEIPTS_PER_GATE} receipts in all", "more")
    if not plan.created < plan.approve_by < plan.not_after:
        raise refuse("created < approve_by < not_after", plan.created)
