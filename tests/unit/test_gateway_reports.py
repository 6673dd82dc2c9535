"""What a node says, or does not say, in a roll-out, and what it means for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embrasure import limits
from gateway import reports
from gateway.rollout import counts
from gateway.verdict import ending
from tests.simulate.rollouts import LENIENT, canary, fail, start


def test_a_late_node_follows_and_counts_in_nothing() -> None:
    run = start(4)
    late = replace(run.of(2)[0], node="n-late", wave=0, late=True)
    run.members["n-late"] = late
    run.soak_wave_of_counted(0)
    assert run.rollout.open_wave == 1
    run.members["n-late"] = replace(late, state="failed")
    run.settle()
    assert run.rollout.state == "running"


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


def test_a_silent_pull_node_has_the_letterboxes_time_too() -> None:
    run = start(8, pull=(0,))
    run.now += 600
    run.settle()
    assert run.rollout.state == "running"
    run.now += limits.SILENT_SECONDS
    run.settle()
    assert run.members[canary(run)].reason == "silent"
    assert run.published[-1].code == "min_reached"


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
