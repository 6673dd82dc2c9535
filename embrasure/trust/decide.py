"""The install decision: verified documents and a node's state in, one verdict out.

Pure: no file, no socket, no clock of its own. The steps are numbered as in docs/trust.md; the first
that decides wins. Steps 7 and 8 (gate fallback, late joiner) have no rule yet: their fields are
refused when the documents are parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from embrasure.clock import read_time
from embrasure.errors import Denied, Refused
from embrasure.trust import layout
from embrasure.trust.denied import DeniedSets, denied_sets, is_full, merge
from embrasure.trust.directory import Entry
from embrasure.trust.evidence import check_gate_evidence
from embrasure.trust.floors import AppFloor, Union
from embrasure.trust.gate import Gate
from embrasure.trust.load import Docs
from embrasure.trust.plan import Plan
from embrasure.trust.policy import Policy, Revocations
from embrasure.trust.view import Role
from embrasure.trust.waves import wave_of
from embrasure.trust.within import is_within_policy

PROTOCOL = 1  # the `v` of the documents that this code speaks
Word = Literal["install", "none", "wait", "hold", "refuse"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """install: now. none: nothing to do. wait: clears by itself. hold: a person must act.
    refuse: attack or fault, raise an alarm; the state stays untouched.

    stage: it waits for nothing but its moment, so its content may be fetched and built already.
    """

    kind: Word
    reason: str
    plan: str = ""
    manifest: str = ""
    wave: int = 0
    stage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What a node knows of itself: time_floor in Unix seconds, receipt_key as raw key in hex."""

    node: str
    env: str
    epoch: int
    receipt_key: str
    isolation: int
    busy: bool
    held: bool
    time_floor: int
    union: Union
    app: AppFloor


@dataclass(frozen=True, slots=True)
class _Case:
    """Everything the later steps need, once the earlier ones have shown that it is there."""

    docs: Docs
    state: NodeState
    now: datetime
    entry: Entry
    policy: Policy
    revocations: Revocations
    role: Role
    plan: Plan
    union: Union
    denied: DeniedSets


def decide(docs: Docs, state: NodeState, *, now: datetime) -> Verdict:
    """Return the verdict for one app on one node at the clock's time `now`. Raises nothing."""
    found = _ground(docs, state, now)
    if isinstance(found, Verdict):
        return found
    said = next((v for step in _STEPS if (v := step(found)) is not None), Verdict("install", ""))
    # Only what was approved, is not denied and has not failed here is ever fetched ahead of time.
    stage = (said.kind, said.reason) in _PATIENT and not state.app.tries.get(docs.plan_digest)
    if said.kind != "install" and not stage:
        return said
    wave = wave_of(found.plan, state.node, found.entry.labels) or 0
    return replace(
        said, plan=docs.plan_digest, manifest=found.plan.manifest.sha256, wave=wave, stage=stage
    )


def _ground(docs: Docs, state: NodeState, clock: datetime) -> _Case | Verdict:
    """Steps 1 to 4, and that there is a plan at all."""
    # 1. Clock. Whoever sets it back reopens nothing.
    floor = datetime.fromtimestamp(state.time_floor, UTC)
    now = max(clock, floor)
    skew = timedelta(seconds=docs.policy.skew_s if docs.policy else 0)
    if clock < floor - skew:
        return Verdict("wait", "clock_behind")
    # 2. Fresh. Roles absent from the snapshot are judged where they are needed.
    for held in docs.view.roles.values():
        if now >= held.expires and _matters(held.name, docs):
            return Verdict("wait", f"stale:{held.name}")
    # 3. Me.
    identity = _identity(docs, state)
    if isinstance(identity, Verdict):
        return identity
    # 4. Rules. A listed document that is withheld never counts as an empty one.
    for name in ("policy", "revocations"):
        if name in docs.problems:
            return Verdict("refuse", name)
    if docs.policy is None or docs.revocations is None:
        return Verdict("hold", "no_rules")
    if docs.policy.protocol_min > PROTOCOL:
        return Verdict("hold", "protocol")
    for document in (docs.policy, docs.revocations):
        if (document.root, document.env) != (docs.view.root_id, state.env):
            return Verdict("refuse", "rules_of_another_fleet")
    # 5, first half: is there a plan?
    role = docs.view.role(layout.app_role(docs.env, docs.app))
    listed = docs.view.target(
        layout.app_role(docs.env, docs.app), layout.plan_path(docs.env, docs.app)
    )
    if role is None or listed is None:
        return Verdict("none", "no_plan")
    if "plan" in docs.problems:
        return Verdict("refuse", "plan")
    if docs.plan is None:
        return Verdict("wait", "withheld")
    union = union_after(state.union, docs, docs.policy, docs.revocations)
    return _Case(
        docs, state, now, identity, docs.policy, docs.revocations, role, docs.plan, union,
        denied_sets(docs.policy, union),
    )  # fmt: skip


def union_after(union: Union, docs: Docs, policy: Policy | None, revocations: Revocations) -> Union:
    """Return the denials that hold once these documents were seen: resets first, then additions."""
    role = docs.view.role(layout.REVOCATIONS)
    return merge(
        union,
        revocations,
        version=docs.revocations_version,
        reset_through=0 if policy is None else policy.denials_reset_through,
        holders=None if role is None else role.keys,
    )


def _matters(role: str, docs: Docs) -> bool:
    return role in (
        *layout.TOP_ROLES,
        layout.REVOCATIONS,
        layout.fleet_role(docs.env),
        layout.app_role(docs.env, docs.app),
        layout.gates_role(docs.env),
    )


def _identity(docs: Docs, state: NodeState) -> Entry | Verdict:
    """Step 3: the directory's entry is this very node, of this epoch, with this receipt key."""
    if "directory" in docs.problems:
        return Verdict("refuse", "directory")
    entry = docs.entry
    if entry is None or entry.state != "active":
        return Verdict("hold", "not_enrolled")
    mine = (state.node, state.env, state.epoch, state.receipt_key)
    if (entry.id, entry.env, entry.epoch, entry.receipt.key) != mine or docs.env != state.env:
        return Verdict("refuse", "identity")
    return entry


def _step_5_sequence(case: _Case) -> Verdict | None:
    """The plan fits its role, this node is in its group, and numbers only rise."""
    plan, docs, ceiling = case.plan, case.docs, case.policy.seq_ceiling.get(case.docs.app)
    floor = below_ceiling(case.state.app, ceiling)
    if (plan.root, plan.env, plan.app) != (docs.view.root_id, docs.env, docs.app):
        return Verdict("refuse", "plan")
    if wave_of(plan, case.state.node, case.entry.labels) is None:
        return Verdict("none", "not_in_group")
    if plan.seq < floor.seen_seq:
        return Verdict("refuse", "rollback")
    if plan.seq > case.role.version or (ceiling is not None and plan.seq > ceiling):
        return Verdict("refuse", "seq_ahead")
    if plan.seq == floor.seen_seq and floor.seen_plan not in ("", docs.plan_digest):
        return Verdict("refuse", "equivocation")
    if plan.seq < case.policy.min_seq.get(docs.app, 0):
        return Verdict("hold", "min_seq")
    if case.state.busy:
        return Verdict("wait", "busy")
    return None


def below_ceiling(floor: AppFloor, ceiling: int | None) -> AppFloor:
    """Return the floor as the policy's `seq_ceiling` lets it be read: a burnt number is no wall.

    A number above the ceiling counts as not seen; what is committed here below it still does. To
    read it as the ceiling would leave the honest team no number but that one.
    """
    if ceiling is None:
        return floor
    if floor.seen_seq > ceiling:
        done = floor.committed
        held = done if done is not None and done.seq <= ceiling and done.ran == "main" else None
        floor = msgspec.structs.replace(
            floor, seen_seq=held.seq if held else 0, seen_plan=held.plan if held else ""
        )
    if floor.gate_seq > ceiling:
        floor = msgspec.structs.replace(floor, gate_seq=0, gseq=0, gate_digest="")
    return floor


def _step_6_done(case: _Case) -> Verdict | None:
    """This plan's content is committed here already."""
    committed = case.state.app.committed
    if committed is not None and committed.plan == case.docs.plan_digest:
        return Verdict("none", "done", committed.plan, committed.manifest, committed.wave)
    return None


def _step_9_approval(case: _Case) -> Verdict | None:
    """Enough distinct persons signed, quotas are met, and the plan respects the app's policy."""
    signers = case.role.signers - case.denied.keys
    found = (case.policy.person_of(key) for key in signers)
    people = {person for person in found if person is not None}
    if len(people) < case.role.threshold or case.policy.quotas_unmet(case.docs.app, people):
        return Verdict("hold", "approval")
    return None if is_within_policy(case.plan, case.policy) else Verdict("hold", "policy")


def _step_10_denied(case: _Case) -> Verdict | None:
    """Neither plan, manifest nor this node was denied."""
    if is_full(case.union):
        return Verdict("hold", "union_full")
    if (
        case.docs.plan_digest in case.denied.plans
        or case.plan.manifest.sha256 in case.denied.manifests
        or case.state.node in case.denied.nodes
    ):
        return Verdict("hold", "denied")
    return None


def _step_11_manifest(case: _Case) -> Verdict | None:
    """The manifest is a target of the same role, exactly the one that the plan names."""
    docs, wanted = case.docs, case.plan.manifest
    path = layout.manifest_path(docs.env, docs.app, wanted.sha256)
    listed = docs.view.target(case.role.name, path)
    if "manifest" in docs.problems or listed is None:
        return Verdict("refuse", "manifest")
    if (listed.sha256, listed.length) != (wanted.sha256, wanted.length):
        return Verdict("refuse", "manifest")
    if docs.manifest is None:
        return Verdict("wait", "withheld")
    return None if docs.manifest.app == docs.app else Verdict("refuse", "manifest")


def _step_12_owner(case: _Case) -> Verdict | None:
    """This node's owner holds nothing back."""
    return Verdict("hold", "owner") if case.state.held else None


def _step_13_gate(case: _Case) -> Verdict | None:
    """There is a gate for this plan, by a key that counts, not behind the one seen before."""
    gate, docs = case.docs.gate, case.docs
    floor = below_ceiling(case.state.app, case.policy.seq_ceiling.get(docs.app))
    if "gate" in docs.problems or gate is None or not (docs.gate_signers - case.denied.keys):
        return Verdict("wait", "gate")
    if (gate.root, gate.env, gate.app) != (docs.view.root_id, docs.env, docs.app):
        return Verdict("wait", "gate")
    if (gate.plan, gate.seq) != (docs.plan_digest, case.plan.seq):
        return Verdict("wait", "gate")
    mine, held = (gate.seq, gate.gseq), (floor.gate_seq, floor.gseq)
    if mine == held and docs.gate_digest != floor.gate_digest:
        return Verdict("refuse", "equivocation")
    return None if mine >= held else Verdict("wait", "gate")


def _gate(case: _Case) -> Gate:
    """The gate that step 13 has found; the steps after it never run without one."""
    if case.docs.gate is None:
        raise Refused("gate", expected="a gate after step 13", got="none", reason="gate")
    return case.docs.gate


def _step_14_evidence(case: _Case) -> Verdict | None:
    """Every earlier wave is proved by receipts of its named nodes."""
    try:
        check_gate_evidence(
            case.plan,
            case.docs.plan_digest,
            _gate(case),
            denied_keys=case.denied.keys,
            min_isolation=case.policy.min_isolation,
        )
    except Refused:
        return Verdict("refuse", "evidence")
    except Denied:
        return Verdict("hold", "evidence")
    return None


def _step_15_state(case: _Case) -> Verdict | None:
    """The gate does not say stop."""
    state = _gate(case).state
    return Verdict("wait", state) if state in ("paused", "halted") else None


def _step_16_turn(case: _Case) -> Verdict | None:
    """It is this node's turn, in time, and the content has not failed here too often."""
    gate = _gate(case)
    wave = wave_of(case.plan, case.state.node, case.entry.labels)
    if wave is None or (wave > gate.open_wave and gate.state != "done"):
        return Verdict("wait", "turn")
    if gate.open_wave == 0 and case.now > read_time(case.plan.not_after):
        return Verdict("hold", "expired")
    tries = case.state.app.tries.get(case.docs.plan_digest, 0)
    if tries >= min(gate.attempt, case.plan.max_attempts):
        return Verdict("hold", "quarantine")
    return None


# Reached only behind step 11: what was approved waits for its moment.
_PATIENT = frozenset(
    {("hold", "owner"), ("wait", "gate"), ("wait", "paused"), ("wait", "turn"), ("wait", "window")}
)
_STEPS: tuple[Callable[[_Case], Verdict | None], ...] = (
    _step_5_sequence,
    _step_6_done,
    _step_9_approval,
    _step_10_denied,
    _step_11_manifest,
    _step_12_owner,
    _step_13_gate,
    _step_14_evidence,
    _step_15_state,
    _step_16_turn,
)
