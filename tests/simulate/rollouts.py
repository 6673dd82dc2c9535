"""Roll-outs in memory for tests of the pure states: a plan, its members, and a receipt of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from embrasure.trust.documents import digest
from embrasure.trust.evidence import counts_as_evidence
from embrasure.trust.plan import Plan
from embrasure.trust.receipt import Kind, Outcome, Ran, Reason, Receipt, parse_receipt
from embrasure.trust.waves import wave_of
from gateway import reports
from gateway.rollout import Facts, Member, Publish, Rollout, Step, step
from tests.simulate.nodes import SimNode, fixed_node_id
from tests.simulate.releases import make_plan, make_release

AT = datetime(2030, 1, 1, 12, tzinfo=UTC)
START = int(AT.timestamp())
ROOT = "ab" * 32
LENIENT: dict[str, Any] = {"max_failed_pct": 50, "min_reached_pct": 50}


def make_nodes(count: int, *, pull: Sequence[int] = ()) -> list[SimNode]:
    """Return nodes with fixed ids; those in `pull` fetch by themselves."""
    return [
        SimNode(id=fixed_node_id(number), mode="pull" if number in pull else "push")
        for number in range(count)
    ]


def plan_for(
    nodes: Sequence[SimNode], *, percents: Sequence[int] = (50, 100), seq: int = 3, **failure: Any
) -> Plan:
    """Return a plan whose canary is the first node; soak 1 s, deadline 600 s."""
    plan = make_plan(
        root_id=ROOT,
        env="dev",
        release=make_release("shop"),
        seq=seq,
        group={},
        nodes=nodes,
        canary=nodes[:1],
        percents=percents,
        soak_s=1,
        proposer="anna",
        at=AT,
    )
    policy = msgspec.structs.replace(plan.failure, **failure)
    return msgspec.structs.replace(plan, failure=policy)


@dataclass
class SimRollout:
    """A roll-out that does what the engine does, without database, keys or network."""

    nodes: Sequence[SimNode]
    plan: Plan
    now: int = START
    hold: str = ""
    newer: bool = False
    published: list[Publish] = field(default_factory=list)
    rollout: Rollout = field(init=False)
    members: dict[str, Member] = field(init=False)
    evidence: list[set[str]] = field(init=False)

    def __post_init__(self) -> None:
        name = digest(self.plan)
        self.rollout = Rollout(
            id=name[:16], env="dev", app="shop", plan=name, seq=self.plan.seq, state="running",
            gate_state="open", wave_since=self.now,
        )  # fmt: skip
        self.members = {}
        for node in self.nodes:
            wave = wave_of(self.plan, node.id, node.labels)
            if wave is not None:
                self.members[node.id] = Member(
                    node=node.id, wave=wave, mode=node.mode, changed=self.now
                )
        self.evidence = [set() for _ in self.plan.waves]

    @property
    def facts(self) -> Facts:
        """What the step looks at now."""
        counted = tuple(len(found) for found in self.evidence)
        return Facts(now=self.now, evidence=counted, hold=self.hold, newer=self.newer)

    def all(self) -> list[Member]:
        """Return every member."""
        return list(self.members.values())

    def of(self, wave: int) -> list[Member]:
        """Return the members of one wave."""
        return [member for member in self.members.values() if member.wave == wave]

    def take(self, found: Step | None) -> None:
        """Make `found` true."""
        if found is None:
            return
        self.rollout = found.rollout
        self.members.update({member.node: member for member in found.members})
        if found.publish is not None:
            self.published.append(found.publish)

    def settle(self) -> None:
        """Step until nothing follows."""
        for _ in range(50):
            found = step(self.rollout, self.plan, self.all(), self.facts)
            if found is None:
                return
            self.take(found)
        raise AssertionError("the roll-out never comes to rest")

    def put(self, member: Member) -> None:
        """Store a member as a report left it, and step."""
        old = self.members[member.node]
        self.members[member.node] = member
        if member.changed != old.changed and member.wave == self.rollout.open_wave:
            self.rollout = replace(self.rollout, wave_since=self.now)
        self.settle()

    def receipt(self, node: str, **changes: Any) -> Receipt:
        """Let `node` sign a receipt about this plan (default: soaked) and take it."""
        found = next(item for item in self.nodes if item.id == node)
        member = self.members[node]
        changes = {"attempt": member.attempt, **changes}
        signed = found.receipt(self.plan, member.wave, at=AT, **changes)
        receipt = parse_receipt(signed, found.receipt_public)
        if counts_as_evidence(receipt, self.plan, digest(self.plan), wave=member.wave):
            named = {item.id for item in self.plan.waves[member.wave].nodes}
            self.evidence[member.wave] |= {node} & named
        name = digest(self.plan)
        self.put(reports.on_receipt(member, receipt, self.plan, name, now=self.now))
        return receipt

    def soak_wave_of_counted(self, wave: int) -> None:
        """Every counted member of `wave` soaks."""
        for member in self.of(wave):
            if not member.late:
                self.receipt(member.node)

    def soak_wave(self, wave: int) -> None:
        """Every member of `wave` that is not done soaks."""
        for member in self.of(wave):
            if self.members[member.node].state != "healthy":
                self.receipt(member.node)


def start(count: int = 8, *, pull: tuple[int, ...] = (), **failure: Any) -> SimRollout:
    """Return a roll-out of new nodes; failure: the plan's failure policy."""
    nodes = make_nodes(count, pull=pull)
    return SimRollout(nodes, plan_for(nodes, **failure))


def canary(run: SimRollout) -> str:
    """Return the id of the canary."""
    return run.of(0)[0].node


def fail(run: SimRollout, node: str, outcome: Outcome = Outcome.ROLLED_BACK) -> None:
    """The node tells that it went back."""
    run.receipt(node, kind=Kind.STATUS, outcome=outcome, ran=Ran.PREVIOUS, reason=Reason.PROBE)
