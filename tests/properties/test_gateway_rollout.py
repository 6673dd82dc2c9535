"""Whatever nodes, operators and time do, a roll-out keeps its order and its tables."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embrasure.errors import Denied, Misuse
from embrasure.trust.receipt import Kind, Outcome, Ran, Reason
from gateway import controls, reports
from gateway.rollout import Rollout, counts, wave_state
from gateway.states import DONE, ENDED, IN_FLIGHT, NODE, ROLLOUT, WAVE, check_move
from gateway.verdict import ending
from tests.simulate.rollouts import SimRollout, make_nodes, plan_for

PICK = st.integers(0, 10_000)


class Course(RuleBasedStateMachine):
    """A fleet of eleven nodes, three of them pull, in a canary and three waves."""

    @initialize(
        percent=st.integers(0, 100), reached=st.integers(0, 100), seq=st.integers(1, 10_000)
    )
    def begin(self, percent: int, reached: int, seq: int) -> None:
        nodes = make_nodes(11, pull=(2, 5, 8))
        plan = plan_for(
            nodes,
            percents=(20, 60, 100),
            seq=seq,
            max_failed_pct=percent,
            min_reached_pct=reached,
        )
        self.run = SimRollout(nodes, plan)
        self.last: Rollout = self.run.rollout
        self.waves = self._waves()
        self.states = self._states()

    def _waves(self) -> list[str]:
        return [wave_state(self.run.rollout, n) for n in range(len(self.run.plan.waves))]

    def _states(self) -> dict[str, str]:
        return {member.node: member.state for member in self.run.all()}

    def _one(self, pick: int) -> str:
        """A node whose wave is open: nodes refuse to begin earlier, whatever the gateway says."""
        opened = [m.node for m in self.run.all() if m.wave <= self.run.rollout.open_wave]
        return opened[pick % len(opened)]

    @rule(pick=PICK, kind=st.sampled_from(list(Kind)), outcome=st.sampled_from(list(Outcome)))
    def receipt(self, pick: int, kind: Kind, outcome: Outcome) -> None:
        ran = Ran.MAIN if outcome is Outcome.OK else Ran.PREVIOUS
        self.run.receipt(self._one(pick), kind=kind, outcome=outcome, ran=ran, reason=Reason.PROBE)

    @rule(pick=PICK)
    def soaked(self, pick: int) -> None:
        self.run.receipt(self._one(pick))

    @rule()
    def wave_soaks(self) -> None:
        self.run.soak_wave(self.run.rollout.open_wave)

    @rule(pick=PICK, word=st.sampled_from(["fetching", "staged", "activating", "probing", "?"]))
    def progress(self, pick: int, word: str) -> None:
        member = self.run.members[self._one(pick)]
        self.run.put(reports.on_progress(member, word, now=self.run.now))

    @rule(
        pick=PICK,
        kind=st.sampled_from(["wait", "hold", "refuse", "none", "?"]),
        reason=st.sampled_from(["busy", "owner", "quarantine", "denied", "done", "evidence"]),
    )
    def refusal(self, pick: int, kind: str, reason: str) -> None:
        member = self.run.members[self._one(pick)]
        self.run.put(reports.on_refusal(member, kind=kind, reason=reason, now=self.run.now))

    @rule(pick=PICK)
    def lost(self, pick: int) -> None:
        member = self.run.members[self._one(pick)]
        self.run.put(reports.on_lost(member, "dial", now=self.run.now))

    @rule(pick=PICK)
    def reached(self, pick: int) -> None:
        self.run.put(reports.on_reached(self.run.members[self._one(pick)]))

    @rule(seconds=st.integers(1, 2000))
    def wait(self, seconds: int) -> None:
        self.run.now += seconds
        self.run.settle()

    @rule(hold=st.sampled_from(["", "hold: denied"]), newer=st.booleans())
    def world(self, hold: str, newer: bool) -> None:
        self.run.hold, self.run.newer = hold, newer
        self.run.settle()

    @rule(verb=st.sampled_from(["pause", "resume", "abort", "failed", "unreachable"]))
    def operator(self, verb: str) -> None:
        run = self.run
        with contextlib.suppress(Denied, Misuse):
            if verb == "pause":
                run.take(controls.pause(run.rollout, "x"))
            elif verb == "resume":
                run.take(controls.resume(run.rollout, run.plan, run.all(), run.facts))
            elif verb == "abort":
                run.take(controls.abort(run.rollout, "x", now=run.now))
            else:
                chosen = controls.choose(
                    run.all(), nodes=(), failed=verb == "failed", unreachable=verb != "failed"
                )
                run.take(controls.retry(run.rollout, run.plan, chosen, now=run.now))
        self.run.settle()

    @invariant()
    def keeps_its_order(self) -> None:
        if not hasattr(self, "run"):
            return
        run = self.run
        for number in range(run.rollout.open_wave):
            # Checked when the wave opened, and receipts do not go away here.
            assert len(run.evidence[number]) >= run.plan.waves[number].need
        # Nobody beyond the open wave was ever let in.
        assert all(
            m.state == "pending" and not m.reached
            for m in run.all()
            if m.wave > run.rollout.open_wave
        )
        waves = [gate.open_wave for gate in run.published]
        attempts = [gate.attempt for gate in run.published]
        assert waves == sorted(waves) and attempts == sorted(attempts)
        if run.rollout.state == "succeeded":
            assert run.published[-1].state == "done"
        if run.rollout.state in ("halted", "rolling_back", "rolled_back"):
            assert run.published[-1].state == "halted"

    @invariant()
    def moves_only_as_the_tables_say(self) -> None:
        if not hasattr(self, "run"):
            return
        if self.last.state in ENDED:
            now = self.run.rollout
            assert now.attempt >= self.last.attempt
            same = replace(now, wave_since=self.last.wave_since, attempt=self.last.attempt)
            assert same == self.last
        for number, (old, new) in enumerate(zip(self.waves, self._waves(), strict=True)):
            assert reach(WAVE, old, new), f"wave {number}: {old} to {new}"
        self.last, self.waves = self.run.rollout, self._waves()
        for node, state in self._states().items():
            assert state in NODE and reach(NODE, self.states[node], state)
        self.states = self._states()

    @invariant()
    def says_succeeded_only_of_what_is_healthy(self) -> None:
        if not hasattr(self, "run"):
            return
        found = ending(self.run.rollout, counts(self.run.all()))
        states = {member.state for member in self.run.all()}
        if found.exit == 0:
            assert states == DONE
        if "runs nowhere" in found.line:
            assert not states & {"healthy", "checking"}


def reach(table: dict[str, frozenset[str]] | object, old: str, new: str) -> bool:
    """Return whether `new` can follow `old` in one or more legal moves."""
    assert isinstance(table, dict)
    seen, todo = {old}, [old]
    while todo:
        for following in table[todo.pop()]:
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return new in seen


Course.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestCourse = Course.TestCase


def test_the_end_states_have_no_way_out() -> None:
    for state in ENDED:
        assert not ROLLOUT[state]
    for old in ROLLOUT:
        check_move(ROLLOUT, old=old, new=old, what="x")
    assert set(NODE) >= IN_FLIGHT
