"""From a short plan file to the exact plan that operators sign, with every member of every wave.

Pure: the same request, directory, seq and time give the same bytes, so approvers can recompute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from embrasure import limits
from embrasure.clock import write_time
from embrasure.errors import Denied, Misuse, Refused
from embrasure.trust.directory import Entry
from embrasure.trust.documents import Content, write
from embrasure.trust.plan import NamedNode, Plan, Wave, parse_plan
from embrasure.trust.policy import AppPolicy, Policy
from embrasure.trust.waves import matches, need_of, witnesses
from embrasure.trust.within import is_within_policy
from gateway.planfile import DEADLINE_S, PlanFile, WaveRequest, check_supported, seconds
from gateway.preview import Preview, members_of, preview

CANARY = "canary"
CANARY_SOAK_S = 60
SOAK_S = 10
MAX_PARALLEL_PERCENT = 25
TWO_CANARIES_FROM = 20  # nodes in the group
PERCENTS = (10, 50, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """What a plan is drafted on: fixed before any choice is made."""

    root_id: str
    env: str
    app: str
    seq: int
    content: Content
    proposer: str
    now: datetime
    rules: AppPolicy
    group: tuple[Entry, ...]


def draft_plan(
    request: PlanFile,
    *,
    policy: Policy,
    entries: Sequence[Entry],
    seq: int,
    root_id: str,
    content: Content,
    proposer: str,
    now: datetime,
) -> tuple[Plan, Preview]:
    """Return the plan for `content` and who is in which wave.

    entries: the verified directory of the environment; seq: the reserved role version.
    Raises Misuse (the file), Denied (the policy), NotSupported (a field without a rule).
    """
    check_supported(request)
    rules = policy.rules_of(request.app)
    if rules is None:
        raise Denied(
            f"app {request.app}",
            expected=f"rules for it in the policy of {request.env}",
            got="none",
            hint=f"the security team adds it: embrasure trust app add {request.app}",
            reason="policy",
        )
    group = tuple(
        entry
        for entry in sorted(entries, key=lambda entry: entry.id)
        if entry.state == "active"
        and entry.env == request.env
        and matches(rules.group, entry.labels)
    )
    if not group:
        raise Misuse(
            f"group of {request.app}", expected="at least one active node", got="none",
            hint="enrol a node: embrasure pki enrol STATEMENT DIR",
        )  # fmt: skip
    ground = _Ground(
        root_id=root_id, env=request.env, app=request.app, seq=seq, content=content,
        proposer=proposer, now=now, rules=rules, group=group,
    )  # fmt: skip
    wide = _assemble(request, ground, _all_waves(request, ground))
    plan = _assemble(request, ground, _final_waves(request, ground, wide))
    # What was drafted must pass the very parser that nodes use; and the very policy check.
    try:
        plan = parse_plan(write(plan))
    except Refused as problem:
        raise Misuse("plan file", expected=problem.expected, got=problem.got) from None
    check_policy(plan, policy, rules)
    return plan, preview(plan, group)


def check_policy(plan: Plan, policy: Policy, rules: AppPolicy) -> None:
    """Return only when nodes will find `plan` within `policy`; raises Denied and says the rule."""
    if is_within_policy(plan, policy):
        return
    raise Denied(
        f"plan of {plan.app}",
        expected=(
            f"at least {rules.min_canary} canaries, {rules.min_soak_s} s of soak, a second wave of "
            f"at most {rules.max_second_percent} percent, approval within "
            f"{rules.approval_expiry_s} s and start within {rules.execution_expiry_s} s"
        ),
        got=(
            f"{len(plan.waves[0].nodes)} canaries, "
            f"{min(wave.soak_s for wave in plan.waves)} s of soak, "
            f"{plan.waves[1].percent if len(plan.waves) > 1 else 0} percent"
        ),
        reason="policy",
    )


def _canaries(request: PlanFile, ground: _Ground) -> tuple[NamedNode, ...]:
    """The nodes named by id, or the first of the group in the order that nobody can choose."""
    known = {entry.id: entry for entry in ground.group}
    if request.canary and request.canary_count is not None:
        raise Misuse("plan file", expected="`canary` or `canary_count`", got="both")
    if request.canary:
        strangers = [node for node in request.canary if node not in known]
        if strangers or len(set(request.canary)) != len(request.canary):
            raise Misuse(
                "plan file, canary",
                expected=f"distinct active nodes of the group of {ground.app}",
                got=strangers[0] if strangers else "a node twice",
            )
        chosen = sorted(request.canary)
    else:
        default = 2 if len(known) >= TWO_CANARIES_FROM else 1
        count = (
            max(default, ground.rules.min_canary)
            if request.canary_count is None
            else request.canary_count
        )
        chosen = _first(ground, min(count, len(known)))
    if not 1 <= len(chosen) <= limits.NAMED_NODES:
        raise Misuse(
            "plan file, canary", expected=f"1 to {limits.NAMED_NODES} nodes", got=len(chosen)
        )
    return tuple(NamedNode(id=node, key=known[node].receipt.key) for node in chosen)


def _first(ground: _Ground, count: int) -> list[str]:
    """Push nodes first, since they answer at once; within a mode by the witness hash."""
    blank = _skeleton(ground)
    ranked: list[str] = []
    for mode in ("push", "pull"):
        left = [entry.id for entry in ground.group if entry.mode == mode]
        while left and len(ranked) < count:
            taken = witnesses(blank, left)[: count - len(ranked)]
            ranked += taken
            left = [node for node in left if node not in taken]
    return sorted(ranked)


def _skeleton(ground: _Ground) -> Plan:
    """A plan that says no more than who it is for: enough to compute hashes."""
    first = ground.group[0]
    named = (NamedNode(id=first.id, key=first.receipt.key),)
    canary = Wave(
        name=CANARY, nodes=named, match={}, percent=0, need=1, soak_s=0, max_parallel=1,
        deadline_s=DEADLINE_S,
    )  # fmt: skip
    blank = PlanFile(app=ground.app, env=ground.env)
    return _assemble(blank, ground, (canary,))


def _all_waves(request: PlanFile, ground: _Ground) -> tuple[Wave, ...]:
    """Canary and all later waves as asked for, before anybody knows who is in them."""
    asked = request.waves or tuple(
        WaveRequest(name=f"{percent}-percent", percent=percent) for percent in PERCENTS
    )
    if len(asked) + 1 > limits.WAVES:
        raise Misuse("plan file, waves", expected=f"at most {limits.WAVES - 1}", got=len(asked))
    floor = ground.rules.min_soak_s
    canaries = _canaries(request, ground)
    canary_soak = _chosen(request.canary_soak_s, request.soak_s, max(CANARY_SOAK_S, floor))
    canary = Wave(
        name=CANARY, nodes=canaries, match={}, percent=0, need=len(canaries), soak_s=canary_soak,
        max_parallel=request.max_parallel or len(canaries), deadline_s=request.deadline_s,
    )  # fmt: skip
    later = (
        Wave(
            name=wave.name, nodes=(), match=wave.match, percent=wave.percent, need=0,
            soak_s=_chosen(wave.soak_s, request.soak_s, max(SOAK_S, floor)),
            max_parallel=_chosen(wave.max_parallel, request.max_parallel, 1),
            deadline_s=_chosen(wave.deadline_s, None, request.deadline_s),
        )
        for wave in asked
    )  # fmt: skip
    return (canary, *later)


def _chosen(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def _final_waves(request: PlanFile, ground: _Ground, wide: Plan) -> tuple[Wave, ...]:
    """The waves that somebody is in, with witnesses, what they must prove, and how many at once."""
    members = members_of(wide, ground.group)
    kept = [wide.waves[0]]
    for number in _kept(wide, members, ground.rules.max_second_percent):
        wave, mine = wide.waves[number], members[number]
        named = witnesses(wide, mine)
        keys = {entry.id: entry.receipt.key for entry in ground.group}
        told = any(r.name == wave.name and r.max_parallel is not None for r in request.waves)
        share = -(-len(mine) * MAX_PARALLEL_PERCENT // 100)
        kept.append(
            msgspec.structs.replace(
                wave,
                nodes=tuple(NamedNode(id=node, key=keys[node]) for node in named),
                need=need_of(len(named)),
                max_parallel=wave.max_parallel if told or request.max_parallel else max(1, share),
            )
        )
    return tuple(kept)


def _kept(wide: Plan, members: Sequence[Sequence[str]], most: int) -> list[int]:
    """Numbers of the later waves that stay: those with members, and the last.

    An empty wave falls away and its range goes to the next, unless the policy's limit on the
    second wave would be broken by that: then the largest empty wave below the limit stays.
    """
    last = len(wide.waves) - 1
    kept = [n for n in range(1, last + 1) if members[n] or n == last]
    if kept and wide.waves[kept[0]].percent > most:
        small = [n for n in range(1, kept[0]) if wide.waves[n].percent <= most]
        kept = small[-1:] + kept
    return kept


def _assemble(request: PlanFile, ground: _Ground, waves: tuple[Wave, ...]) -> Plan:
    rules = ground.rules
    approve = seconds(
        _or(request.approve_in, min(limits.APPROVE_SECONDS, rules.approval_expiry_s)), "approve_in"
    )
    start = seconds(
        _or(request.start_in, min(limits.START_SECONDS, rules.execution_expiry_s)), "start_in"
    )
    approve_by = ground.now + timedelta(seconds=approve)
    value = {
        "v": 1,
        "type": "plan",
        "root": ground.root_id,
        "env": ground.env,
        "app": ground.app,
        "seq": ground.seq,
        "manifest": msgspec.to_builtins(ground.content),
        "fallback": None,
        "group": dict(rules.group),
        "waves": [msgspec.to_builtins(wave) for wave in waves],
        "after": [],
        "windows": [],
        "overrides_freeze": [],
        "failure": {
            "max_failed": request.max_failed,
            "max_failed_pct": request.max_failed_pct,
            "min_reached_pct": request.min_reached_pct,
            "scope": "node",
            "on_no_target": request.on_no_target,
        },
        "max_attempts": request.max_attempts,
        "settings": request.settings,
        "proposer": ground.proposer,
        "created": write_time(ground.now),
        "approve_by": write_time(approve_by),
        "not_after": write_time(approve_by + timedelta(seconds=start)),
        "title": request.title,
        "comment": request.comment,
    }
    try:
        return msgspec.convert(value, Plan, strict=True)
    except msgspec.ValidationError as problem:
        raise Misuse("plan file", expected="values within their limits", got=problem) from None


def _or(value: int | str | None, default: int) -> int | str:
    return default if value is None else value
