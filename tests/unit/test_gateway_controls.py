"""What an operator does with a roll-out: pause, resume, retry, abort, and orders after its end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embrasure import limits
from embrasure.errors import Denied, Misuse
from embrasure.trust.receipt import Kind, Outcome, Ran
from gateway import controls, reports
from gateway.rollout import counts
from gateway.verdict import ending
from tests.ablation import Ablation
from tests.simulate.rollouts import canary, fail, start


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
