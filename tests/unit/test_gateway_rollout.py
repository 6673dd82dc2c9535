"""The course of a roll-out: barriers, failure policy, deadlines, controls and verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from embrasure import limits
from embrasure.errors import Damaged, Denied, Misuse
from embrasure.trust.receipt import Kind, Outcome, Ran, Reason
from gateway import controls, reports
from gateway.rollout import breach, cap, counts, wave_state
from gateway.rollout_text import end_text
from gateway.states import NODE, ROLLOUT, WAVE, check_move
from gateway.verdict import ending, is_settled
from tests.ablation import Ablation
from tests.simulate.rollouts import SimRollout, make_nodes, plan_for

LENIENT: dict[str, Any] = {"max_failed_pct": 50, "min_reached_pct": 50}


def start(count: int = 8, *, pull: tuple[int, ...] = (), **failure: Any) -> SimRollout:
    nodes = make_nodes(count, pull=pull)
    return SimRollout(nodes, plan_for(nodes, **failure))


def canary(run: SimRollout) -> str:
    return run.of(0)[0].node


def fail(run: SimRollout, node: str, outcome: Outcome = Outcome.ROLLED_BACK) -> None:
    run.receipt(node, kind=Kind.STATUS, outcome=outcome, ran=Ran.PREVIOUS, reason=Reason.PROBE)


def test_all_healthy_opens_each_wave_once_and_ends_done() -> None:
    run = start()
    run.settle()
    assert run.published == []
    for wave in range(3):
        assert run.rollout.open_wave == wave
        run.soak_wave(wave)
    assert run.rollout.state == "succeeded"
    assert [(p.state, p.open_wave) for p in run.published] == [
        ("open", 1),
        ("open", 2),
        ("done", 2),
    ]
    found = ending(run.rollout, counts(run.all()))
    assert (found.exit, found.line) == (0, "succeeded: seq 3 healthy on 8 nodes")


def test_a_wave_opens_only_when_every_member_of_the_one_before_has_settled() -> None:
    run = start()
    run.soak_wave(0)
    *most, last = run.of(1)
    for member in most:
        run.receipt(member.node)
    # Enough evidence for the gate, yet one member is still under way: a barrier, no window.
    assert len(run.evidence[1]) >= run.plan.waves[1].need
    assert (run.rollout.state, run.rollout.open_wave) == ("running", 1)
    run.receipt(last.node)
    assert run.rollout.open_wave == 2


def test_a_healthy_receipt_without_soak_opens_nothing() -> None:
    run = start()
    run.receipt(canary(run), kind=Kind.HEALTHY, soaked_s=0)
    assert run.members[canary(run)].state == "checking"
    assert (run.rollout.state, run.rollout.open_wave) == ("soaking", 0)


def test_too_short_a_soak_is_no_evidence() -> None:
    run = start()
    run.receipt(canary(run), soaked_s=0)
    assert run.members[canary(run)].state == "pending"
    assert run.rollout.open_wave == 0


def test_the_first_failed_canary_halts_and_no_other_node_is_touched() -> None:
    run = start(max_failed_pct=100)
    fail(run, canary(run))
    assert (run.rollout.state, run.published[-1].code) == ("halted", "canary_failed")
    assert {m.state for m in run.all() if m.wave} == {"pending"}
    assert is_settled(run.rollout)
    assert ending(run.rollout, counts(run.all())).exit == 1


def test_failures_below_the_budget_go_on_and_the_end_is_partial() -> None:
    run = start(20, max_failed_pct=20, min_reached_pct=50)
    run.soak_wave(0)
    named = {node.id for node in run.plan.waves[2].nodes}
    run.soak_wave(1)
    members = run.of(2)
    victim = next((m.node for m in members if m.node not in named), members[0].node)
    fail(run, victim)
    assert run.rollout.state == "running"
    run.soak_wave(2)  # the failed one speaks again: it contradicts nothing, it just stays failed
    run.settle()
    assert run.rollout.state == "succeeded"
    found = ending(run.rollout, counts(run.all()))
    assert found.exit == 6
    assert "1 rolled_back" in found.line or "1 drifted" in found.line


def test_reaching_the_cap_stops_in_the_wave_and_in_the_whole() -> None:
    run = start(20, **LENIENT)
    run.soak_wave(0)
    members = run.of(1)
    for number, member in enumerate(members, start=1):
        fail(run, member.node)
        if number < cap(50, len(members)):
            assert run.rollout.state == "running"
        else:
            break
    assert (run.rollout.state, run.published[-1].code) == ("halted", "max_failed")


def test_an_absolute_cap_stops_first() -> None:
    run = start(40, max_failed=1, **LENIENT)
    run.soak_wave(0)
    fail(run, run.of(1)[0].node)
    assert run.published[-1].code == "max_failed"


@pytest.mark.parametrize(
    ("percent", "size", "found"), [(5, 1, 1), (5, 20, 1), (5, 21, 2), (0, 9, 1)]
)
def test_caps_round_up_and_are_at_least_one(percent: int, size: int, found: int) -> None:
    assert cap(percent, size) == found


def test_an_unreachable_node_is_never_a_failure() -> None:
    run = start(20, **LENIENT)
    run.soak_wave(0)
    lost = run.of(1)[0]
    run.put(reports.on_lost(lost, "dial: refused", now=run.now))
    for member in run.of(1):
        if member.node != lost.node:
            run.receipt(member.node)
    # The wave waits for it until the deadline, and the roll-out is no failure.
    assert (run.rollout.state, run.rollout.open_wave) == ("running", 1)
    run.now += run.plan.waves[1].deadline_s
    run.settle()
    assert run.rollout.open_wave == 2
    run.soak_wave(2)
    found = ending(run.rollout, counts(run.all()))
    assert (found.exit, run.rollout.state) == (6, "succeeded")
    assert "1 unreachable" in found.line and "failed" not in found.line


def test_an_unreachable_canary_stops_by_reach_not_by_failure() -> None:
    run = start()
    run.put(reports.on_lost(run.members[canary(run)], "dial: refused", now=run.now))
    assert run.rollout.state == "running"
    run.now += 600
    run.settle()
    assert (run.rollout.state, run.published[-1].code) == ("halted", "min_reached")


def test_a_silent_pull_node_has_the_letterboxes_time_too() -> None:
    run = start(8, pull=(0,))
    run.now += 600
    run.settle()
    assert run.rollout.state == "running"
    run.now += limits.SILENT_SECONDS
    run.settle()
    assert run.members[canary(run)].reason == "silent"
    assert run.published[-1].code == "min_reached"


def test_missing_evidence_blocks_until_the_witness_returns() -> None:
    run = start(8, max_failed_pct=100, min_reached_pct=0)
    run.soak_wave(0)
    wave = run.plan.waves[1]
    lost = [node.id for node in wave.nodes][: len(wave.nodes) - wave.need + 1]
    for node in lost:
        run.put(reports.on_lost(run.members[node], "dial", now=run.now))
    for member in run.of(1):
        if member.node not in lost:
            run.receipt(member.node)
    run.now += 600
    run.settle()
    assert (run.rollout.state, run.rollout.open_wave) == ("blocked", 1)
    assert run.rollout.reason.startswith("evidence")
    for node in lost:
        run.receipt(node)
    assert (run.rollout.state, run.rollout.open_wave) == ("running", 2)


def test_a_condition_that_stays_unmet_halts_after_a_day() -> None:
    run = start()
    run.hold = "hold: denied"
    run.soak_wave(0)
    assert run.rollout.state == "blocked"
    run.now += limits.BLOCKED_SECONDS
    run.settle()
    assert run.published[-1].code == "blocked_deadline"


def test_evidence_of_an_earlier_wave_that_no_longer_counts_opens_nothing() -> None:
    run = start()
    run.soak_wave(0)
    run.evidence[0].clear()  # its key was denied since
    run.soak_wave(1)
    assert (run.rollout.state, run.rollout.open_wave) == ("blocked", 1)


def test_a_higher_published_seq_ends_a_paused_roll_out_and_not_a_running_one() -> None:
    run = start()
    run.newer = True
    run.settle()
    assert run.rollout.state == "running"
    run.take(controls.pause(run.rollout, "wait"))
    run.settle()
    assert run.rollout.state == "superseded"


@pytest.mark.parametrize(
    ("state", "last"),
    [
        ("halted", "next: embrasure rollout abort r1, then propose a fixed release"),
        ("rolled_back", "next: propose a fixed release"),
        ("succeeded", "the verdict"),
    ],
)
def test_whoever_followed_to_a_bad_end_is_told_what_to_do_next(state: str, last: str) -> None:
    found = end_text({"id": "r1", "state": state, "verdict": "the verdict"})
    assert found.splitlines()[0] == "the verdict"
    assert found.splitlines()[-1] == last


# --- controls ----------------------------------------------------------------------------------


def test_pause_and_resume_return_to_where_it_was_and_repeat_harmlessly() -> None:
    run = start()
    run.receipt(canary(run), kind=Kind.HEALTHY, soaked_s=0)
    run.take(controls.pause(run.rollout, "lunch"))
    assert (run.rollout.state, run.rollout.returns_to) == ("paused", "soaking")
    assert controls.pause(run.rollout, "lunch") is None
    run.receipt(canary(run))
    assert run.rollout.open_wave == 0  # it reports, and nothing new starts
    run.take(controls.resume(run.rollout, run.plan, run.all(), run.facts))
    assert controls.resume(run.rollout, run.plan, run.all(), run.facts) is None
    run.settle()
    assert run.rollout.open_wave == 1


@pytest.mark.misuse
def test_a_halted_roll_out_resumes_only_when_the_policy_holds_again(
    ablation: Ablation,
) -> None:
    run = start()
    fail(run, canary(run))
    with pytest.raises(Denied):
        controls.resume(run.rollout, run.plan, run.all(), run.facts)
    with ablation("the failure policy") as attack:
        # Ablation: without the failure policy the same wish opens the gate again.
        attack.without("gateway.controls.breach", lambda *a, **k: None)
        found = controls.resume(run.rollout, run.plan, run.all(), run.facts)
        attack.succeeded(
            found is not None and found.publish is not None and found.publish.state == "open"
        )


def test_retry_raises_the_attempt_for_failed_nodes_up_to_the_plans_limit() -> None:
    run = start()
    for attempt in (2, 3):
        fail(run, canary(run))
        assert run.rollout.state == "halted"
        chosen = controls.choose(run.all(), nodes=(), failed=True, unreachable=False)
        run.take(controls.retry(run.rollout, run.plan, chosen, now=run.now))
        assert run.rollout.state == "running"
        assert run.members[canary(run)].attempt == run.published[-1].attempt == attempt
    fail(run, canary(run))
    chosen = controls.choose(run.all(), nodes=(canary(run),), failed=False, unreachable=False)
    with pytest.raises(Denied):
        controls.retry(run.rollout, run.plan, chosen, now=run.now)


def test_a_late_failure_of_an_earlier_attempt_says_nothing_of_this_one() -> None:
    run = start()
    fail(run, canary(run))
    chosen = controls.choose(run.all(), nodes=(), failed=True, unreachable=False)
    run.take(controls.retry(run.rollout, run.plan, chosen, now=run.now))
    run.receipt(canary(run), kind=Kind.STATUS, outcome=Outcome.ROLLED_BACK, attempt=1, ran=Ran.NONE)
    assert (run.rollout.state, run.members[canary(run)].state) == ("running", "pending")
    run.receipt(canary(run))
    assert run.rollout.open_wave == 1


def test_retry_of_unreachable_nodes_burns_no_attempt() -> None:
    run = start()
    run.put(reports.on_lost(run.members[canary(run)], "dial", now=run.now))
    run.now += 600
    run.settle()
    chosen = controls.choose(run.all(), nodes=(), failed=False, unreachable=True)
    run.take(controls.retry(run.rollout, run.plan, chosen, now=run.now))
    run.settle()
    assert (run.rollout.state, run.rollout.attempt) == ("running", 1)


def test_retry_names_strangers_and_refuses_an_empty_choice() -> None:
    run = start()
    with pytest.raises(Misuse):
        controls.choose(run.all(), nodes=("n-x",), failed=False, unreachable=False)
    with pytest.raises(Misuse):
        controls.choose(run.all(), nodes=(canary(run),), failed=False, unreachable=False)


def test_abort_waits_for_nodes_between_two_releases_and_says_what_stays() -> None:
    run = start()
    run.soak_wave(0)
    node = run.of(1)[0].node
    run.put(reports.on_progress(run.members[node], "activating", now=run.now))
    run.take(controls.abort(run.rollout, "wrong build", now=run.now))
    run.settle()
    assert (run.rollout.state, run.published[-1].state) == ("rolling_back", "halted")
    assert controls.abort(run.rollout, "again", now=run.now) is None
    fail(run, node)
    assert run.rollout.state == "failed"
    assert "1 healthy" in run.rollout.reason


def test_abort_after_a_failed_canary_runs_nowhere() -> None:
    run = start()
    fail(run, canary(run))
    run.take(controls.abort(run.rollout, "bad", now=run.now))
    run.settle()
    assert run.rollout.state == "rolled_back"
    found = ending(run.rollout, counts(run.all()))
    assert (found.exit, found.line) == (1, "rolled back: seq 3 runs nowhere (bad)")


def test_an_aborted_roll_out_never_claims_that_a_silent_pull_node_is_back() -> None:
    run = start(8, pull=(0,))
    run.take(controls.abort(run.rollout, "bad", now=run.now))
    run.settle()
    assert run.rollout.state == "rolling_back"
    run.now += 600 + limits.SILENT_SECONDS
    run.settle()
    assert (run.rollout.state, "1 not heard of" in run.rollout.reason) == ("failed", True)


def test_a_higher_seq_ends_an_abort_that_waits_for_a_silent_node() -> None:
    run = start(8, pull=(0,))
    run.take(controls.abort(run.rollout, "bad", now=run.now))
    run.settle()
    assert run.rollout.state == "rolling_back"
    run.newer = True
    run.settle()
    assert (run.rollout.state, run.published[-1].state) == ("superseded", "halted")


def test_abort_ends_at_once_when_only_nodes_of_waves_never_opened_are_silent() -> None:
    run = start(8, pull=(1, 2, 3, 4, 5, 6, 7))
    fail(run, canary(run))
    run.take(controls.abort(run.rollout, "bad", now=run.now))
    run.settle()
    assert run.rollout.state == "rolled_back"


def test_abort_before_the_first_gate_is_aborted() -> None:
    run = start()
    pending = replace(run.rollout, state="pending", gate_state="")
    found = controls.abort(pending, "no", now=run.now)
    assert found is not None
    assert found.publish is not None
    assert (found.rollout.state, found.publish.state) == ("aborted", "halted")


@pytest.mark.parametrize("verb", ["pause", "resume", "abort", "retry"])
def test_an_ended_roll_out_takes_no_more_orders(verb: str) -> None:
    run = start(1)
    if verb == "retry":
        run.take(controls.abort(run.rollout, "", now=run.now))
    run.soak_wave(0)
    run.settle()
    assert run.rollout.state == ("failed" if verb == "retry" else "succeeded")
    with pytest.raises(Denied):
        if verb == "pause":
            controls.pause(run.rollout, "")
        elif verb == "resume":
            controls.resume(run.rollout, run.plan, run.all(), run.facts)
        elif verb == "abort":
            controls.abort(run.rollout, "", now=run.now)
        else:
            controls.retry(run.rollout, run.plan, run.all(), now=run.now)


def test_a_retry_after_the_end_raises_the_attempt_and_the_gate_stays_done() -> None:
    run = start(20, max_failed_pct=50, min_reached_pct=0)
    run.soak_wave(0)
    run.soak_wave(1)
    victim = run.of(2)[0].node
    fail(run, victim)
    for member in run.of(2):
        if member.node != victim:
            run.receipt(member.node)
    assert run.rollout.state == "succeeded"
    chosen = controls.choose(run.all(), nodes=(), failed=True, unreachable=False)
    run.take(controls.retry(run.rollout, run.plan, chosen, now=run.now))
    assert (run.rollout.state, run.published[-1].state, run.published[-1].attempt) == (
        "succeeded", "done", 2,
    )  # fmt: skip
    run.receipt(victim)
    assert ending(run.rollout, counts(run.all())).exit == 0


def test_a_late_node_follows_and_counts_in_nothing() -> None:
    run = start(4)
    late = replace(run.of(2)[0], node="n-late", wave=0, late=True)
    run.members["n-late"] = late
    run.soak_wave_of_counted(0)
    assert run.rollout.open_wave == 1
    run.members["n-late"] = replace(late, state="failed")
    run.settle()
    assert run.rollout.state == "running"


# --- what nodes say ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason", "state"),
    [
        ("wait", "busy", "pending"),
        ("wait", "gate", "pending"),
        ("hold", "owner", "held"),
        ("hold", "quarantine", "quarantined"),
        ("hold", "denied", "deferred"),
        ("refuse", "evidence", "refused"),
        ("refuse", "stale", "pending"),
        ("none", "not_in_group", "deferred"),
        ("none", "done", "pending"),
        ("rejected", "no-space", "pending"),
        ("nonsense", "\x1b[2J", "pending"),
    ],
)
def test_a_refusal_moves_a_node_to_what_it_means(kind: str, reason: str, state: str) -> None:
    run = start()
    member = reports.on_refusal(run.members[canary(run)], kind=kind, reason=reason, now=run.now)
    assert member.state == state


def test_a_hint_never_makes_a_node_healthy_or_failed() -> None:
    run = start()
    member = run.members[canary(run)]
    for word in ("healthy", "failed", "soaked", "rolled_back", "", "checking", "probing"):
        member = reports.on_progress(member, word, now=run.now)
    assert member.state == "activating"
    assert reports.on_progress(member, "fetching", now=run.now) == member


def test_a_node_that_contradicts_its_own_soaked_receipt_has_drifted() -> None:
    run = start(8, max_failed_pct=100, min_reached_pct=0)
    run.soak_wave(0)
    fail(run, canary(run))
    assert run.members[canary(run)].state == "drifted"
    assert run.rollout.state == "halted"


def test_a_flapping_node_cannot_keep_a_wave_open() -> None:
    run = start()
    node = canary(run)
    for _ in range(12):
        run.now += 60
        run.put(reports.on_lost(run.members[node], "dial", now=run.now))
        if run.rollout.state == "running":
            run.put(reports.on_reached(run.members[node]))
    assert run.rollout.state == "halted"


def test_a_stream_that_breaks_after_the_switch_leaves_the_node_in_flight() -> None:
    run = start()
    node = canary(run)
    run.put(reports.on_progress(run.members[node], "activating", now=run.now))
    run.put(reports.on_lost(run.members[node], "stream broke", now=run.now))
    assert run.members[node].state == "activating"
    run.now += 600
    run.settle()
    assert run.members[node].state == "unreachable"
    assert run.members[node].reason == "silent; stream broke"


# --- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [ROLLOUT, NODE, WAVE])
def test_every_pair_of_states_is_either_in_the_table_or_raises(
    table: dict[str, frozenset[str]],
) -> None:
    for old in table:
        for new in table:
            if new == old or new in table[old]:
                check_move(table, old=old, new=new, what="x")
            else:
                with pytest.raises(Damaged):
                    check_move(table, old=old, new=new, what="x")


def test_an_unknown_state_raises() -> None:
    with pytest.raises(Damaged):
        check_move(ROLLOUT, old="running", new="exploded", what="x")
    with pytest.raises(Damaged):
        check_move(ROLLOUT, old="exploded", new="exploded", what="x")


def test_wave_states_follow_the_roll_out() -> None:
    run = start()
    run.settle()
    assert [wave_state(run.rollout, n) for n in range(3)] == ["open", "waiting", "waiting"]
    run.receipt(canary(run), kind=Kind.HEALTHY, soaked_s=0)
    assert wave_state(run.rollout, 0) == "soaking"
    run.receipt(canary(run))
    assert [wave_state(run.rollout, n) for n in range(3)] == ["passed", "open", "waiting"]
    fail(run, run.of(1)[0].node)
    assert wave_state(run.rollout, 1) == "failed"


@pytest.mark.misuse
def test_without_the_barrier_the_next_wave_would_open_over_a_node_in_flight(
    ablation: Ablation,
) -> None:
    def course() -> int:
        run = start()
        run.soak_wave(0)
        *most, _ = run.of(1)
        for member in most:
            run.receipt(member.node)
        return run.rollout.open_wave

    assert course() == 1
    with ablation("the barrier") as attack:
        attack.without("gateway.rollout.MOVING", frozenset())
        attack.succeeded(course() == 2)


@pytest.mark.misuse
def test_without_the_evidence_rule_a_wave_would_pass_on_silence(
    ablation: Ablation,
) -> None:
    def course(run: SimRollout) -> None:
        for member in run.of(0):
            run.put(reports.on_lost(member, "dial", now=run.now))
        run.now += 600
        run.settle()

    run = start()
    course(run)
    assert run.rollout.open_wave == 0
    with ablation("the failure policy, and the rule of evidence") as attack:
        attack.without("gateway.rollout.breach", lambda *a, **k: None)
        run = start()
        course(run)
        assert run.rollout.state == "blocked"
        attack.without("gateway.rollout._missing_evidence", lambda *a, **k: "")
        run = start()
        course(run)
        attack.succeeded(run.rollout.open_wave >= 1)


def test_breach_is_none_while_everything_is_well() -> None:
    run = start()
    assert breach(run.rollout, run.plan, run.all(), now=run.now) is None
