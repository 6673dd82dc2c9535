"""The course of a roll-out: barriers, failure policy, deadlines and verdicts."""

from __future__ import annotations

import pytest

from embrasure import limits
from embrasure.errors import Damaged
from embrasure.trust.receipt import Kind
from gateway import controls, reports
from gateway.rollout import breach, cap, counts, wave_state
from gateway.rollout_text import end_text
from gateway.states import NODE, ROLLOUT, WAVE, check_move
from gateway.verdict import ending, is_settled
from tests.ablation import Ablation
from tests.simulate.rollouts import LENIENT, SimRollout, canary, fail, start


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
