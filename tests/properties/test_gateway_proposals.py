"""Proposals under any order of acts: an approval is always k others, an app has one open plan."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select

from embrasure.errors import Denied, EmbrasureError, NotFound, Refused
from gateway import tables
from gateway.address import check_address
from gateway.proposal_rows import begin, close
from gateway.records import FIRST, Head, check_chain, parse_event
from gateway.releases import check_release
from tests.simulate.gateway import Draft, SimGateway
from tests.simulate.repository import SimRepository

PEOPLE = ("anna", "ben", "carl", "dora")
APPS = ("shop", "blog")
person = st.sampled_from(PEOPLE)


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at


class Proposals(RuleBasedStateMachine):
    """Four people, two apps that two others must approve; the machine forgets nothing."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="proposals-"))
        self.clock = Clock()
        sim = SimRepository(clock=self.clock)
        for app in APPS:
            sim.add_app(app, operators=PEOPLE, threshold=2)
        sim.add_node()
        sim.publish()
        self.gateway = SimGateway(self.folder, sim)
        self.drafts: list[Draft] = []
        self.signed: dict[str, set[str]] = {}
        self.stopped: set[str] = set()
        self.numbers: set[tuple[str, int]] = set()

    def teardown(self) -> None:
        if hasattr(self, "gateway"):
            self.gateway.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def attempt(self, act: Callable[[], object]) -> bool:
        """Whether it was done; only typed refusals are allowed."""
        try:
            act()
        except (Denied, Refused, NotFound):
            return False
        return True

    def pick(self, number: int) -> Draft | None:
        return self.drafts[number % len(self.drafts)] if self.drafts else None

    @rule(by=person, app=st.sampled_from(APPS), supersede=st.booleans())
    def propose(self, by: str, app: str, supersede: bool) -> None:
        draft = self.gateway.draft(app, by=by, version=f"1.{len(self.drafts)}")
        number = (app, draft.release.version)
        assert number not in self.numbers, "a number was given twice"
        self.numbers.add(number)
        if self.attempt(lambda: self.gateway.propose(draft, supersede=supersede)):
            self.drafts.append(draft)
            self.signed[draft.release.plan_digest] = set()

    @rule(number=st.integers(0, 9), by=person)
    def approve(self, number: int, by: str) -> None:
        draft = self.pick(number)
        if draft and self.attempt(lambda: self.gateway.approve(draft, by)):
            assert by != draft.by, "the proposer's signature was counted"
            self.signed[draft.release.plan_digest].add(by)

    @rule(number=st.integers(0, 9), by=person)
    def reject(self, number: int, by: str) -> None:
        draft = self.pick(number)
        if draft is None:
            return
        word = self.gateway.statement(draft.release, by, "reject")
        name = draft.release.plan_digest[:16]
        if self.attempt(lambda: self.gateway.proposals.reject(name, word, person=by)):
            self.stopped.add(draft.release.plan_digest)

    @rule(number=st.integers(0, 9), by=person)
    def withdraw(self, number: int, by: str) -> None:
        draft = self.pick(number)
        if draft is None:
            return
        word = self.gateway.statement(draft.release, by, "withdraw")
        name = draft.release.plan_digest[:16]
        if self.attempt(lambda: self.gateway.proposals.withdraw(name, word, person=by)):
            assert by == draft.by
            self.stopped.add(draft.release.plan_digest)

    @rule(number=st.integers(0, 9), end=st.booleans())
    def roll_out(self, number: int, end: bool) -> None:
        draft = self.pick(number)
        if draft is None:
            return
        digest = draft.release.plan_digest
        with suppress(Denied), self.gateway.database.write() as connection:
            (close if end else begin)(connection, digest)

    @rule(hours=st.sampled_from([1, 23, 30]))
    def wait(self, hours: int) -> None:
        self.clock.at += timedelta(hours=hours)

    @invariant()
    def what_is_approved_was_signed_by_two_others_and_stopped_by_none(self) -> None:
        for draft in getattr(self, "drafts", []):
            release = draft.release
            with suppress(EmbrasureError):
                approved = self.gateway.proposals.approved("dev", release.app, release.plan_digest)
                assert approved.release.plan_digest == release.plan_digest
                assert len(self.signed[release.plan_digest] - {draft.by}) >= 2
                assert release.plan_digest not in self.stopped

    @invariant()
    def an_app_has_one_open_plan_and_a_person_one_that_waits(self) -> None:
        if not hasattr(self, "gateway"):
            return
        rows = self.gateway.database.all(select(tables.proposals))
        is_open = [(r.env, r.app) for r in rows if r.state in tables.OPEN_PROPOSALS]
        waiting = [r.proposer for r in rows if r.state == tables.PENDING]
        assert len(set(is_open)) == len(is_open)
        assert len(set(waiting)) == len(waiting)

    @invariant()
    def the_journal_is_whole(self) -> None:
        if hasattr(self, "gateway"):
            assert self.gateway.journal.open_intents() == []


Proposals.TestCase.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestProposals = Proposals.TestCase

# --- parsers -----------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_any_bytes_are_an_audit_record_or_refused(raw: bytes) -> None:
    with suppress(Refused):
        parse_event(raw)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with suppress(EmbrasureError):
        assert check_address(text) == text
        host, _, port = text.rpartition(":")
        assert 1 <= int(port) <= 65535
        assert "/" not in host


@given(st.binary(max_size=400), st.binary(max_size=400), st.binary(max_size=400))
def test_any_bytes_are_a_release_or_refused(role: bytes, plan: bytes, manifest: bytes) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    with suppress(EmbrasureError):
        check_release(role, plan, manifest, root="a" * 64, env="dev", app="shop", kept={}, now=at)
        raise AssertionError("nothing was signed for this")


def chain(length: int) -> list[bytes]:
    """An honest chain of records."""
    from embrasure.trust.canonical import canonical, sha256_hex

    lines: list[bytes] = []
    for n in range(1, length + 1):
        record = {
            "v": 1, "type": "audit", "root": "a" * 64, "n": n,
            "prev": sha256_hex(lines[-1]) if lines else "0" * 64,
            "at": "2026-03-01T00:00:00Z", "phase": "note", "of": 0, "actor": "gateway/g1",
            "act": "seen", "key": str(n), "result": "ok", "reason": "", "facts": {},
        }  # fmt: skip
        lines.append(canonical(record))
    return lines


@given(st.data())
def test_any_change_of_a_chain_is_seen_by_who_kept_its_head(data: st.DataObject) -> None:
    lines = chain(data.draw(st.integers(1, 6)))
    head = check_chain(lines, root="a" * 64)
    changed = list(lines)
    kind = data.draw(st.sampled_from(["byte", "drop", "swap", "repeat", "cut"]))
    at = data.draw(st.integers(0, len(lines) - 1))
    if kind == "byte":
        place = data.draw(st.integers(0, len(lines[at]) - 1))
        new = (lines[at][place] + data.draw(st.integers(1, 255))) % 256
        changed[at] = lines[at][:place] + bytes([new]) + lines[at][place + 1 :]
    elif kind == "drop":
        del changed[at]
    elif kind == "swap":
        other = data.draw(st.integers(0, len(lines) - 1))
        changed[at], changed[other] = changed[other], changed[at]
    elif kind == "repeat":
        changed.insert(at, lines[at])
    else:
        changed = changed[:at]
    if changed == lines:
        return
    try:
        check_chain(changed, root="a" * 64, held=head)
    except Refused:
        return
    raise AssertionError(f"{kind} was not seen")


def test_the_head_before_the_first_record_is_no_hash() -> None:
    assert check_chain([], root="a" * 64) == FIRST == Head(0, "0" * 64)
