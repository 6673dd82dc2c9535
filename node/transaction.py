"""Drives one install through its states: the next state is on disk before its first action.

Every bad end before the commit leads back to the release that ran before; nothing after it does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from embrasure import limits
from embrasure.bundle.manifest import Hook, Manifest
from embrasure.errors import EmbrasureError, Failed, Unavailable
from embrasure.trust.receipt import Kind, Outcome, Ran, Reason, parse_receipt
from embrasure.trust.source import Source
from node import commands, spans, units
from node.config import AppConfig
from node.deadline import Deadline, Late, armed, is_over, kept, left_s, resumed
from node.ground import Ground, Report
from node.probe import Watch
from node.reasons import REASONS, explain
from node.receipts import Event
from node.releases import Installed, load_release
from node.rooms import room_of
from node.space import Found
from node.states import BACK, HARMLESS, OPEN, RESTING, Record, Release, State, advance, ending_of
from node.supervisor import Instance
from node.tree import gently
from node.untouched import is_untouched
from node.watching import watch_of
from node.windows import Pause

_COUNTED = frozenset({State.PROBING, State.PROVISIONAL})  # in them one of the starts is used
_ASK_CONTENT = OPEN | {State.COMMITTED}  # the release itself says how long they take
_ASK_OLD = BACK | {State.QUIESCING}
_FINAL = frozenset({"no-target", "hook", "probe", "crash-loop", "late"})


@dataclass(frozen=True, slots=True)
class To:
    """The next state, and what the record says besides."""

    state: State
    changes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Offer:
    """What is to be installed, verified. pack: where its small blobs may be had together; again:
    what the decision says just before the switch: wait, or go on; raises Failed (`turn`) when it
    never will be.
    """

    manifest: Manifest
    pack: str
    documents: Mapping[str, bytes]
    source: Source
    again: Callable[[], Pause]


class Transaction:
    """One install, or the rest of one that was cut off (then without an offer)."""

    def __init__(
        self,
        ground: Ground,
        record: Record,
        config: AppConfig,
        report: Report,
        steps: Mapping[State, Callable[[Transaction], To]],
        *,
        offer: Offer | None = None,
    ) -> None:
        self.ground = ground
        self.record = record
        self.config = config
        self.report = report
        self.offer = offer
        self.log = b""  # what the last command or app printed, for the receipt
        self.waits = Pause()  # why it stays in WAITING
        self.found: Found | None = None  # what a look at the disk found a moment ago
        self.came = set[str]()  # blobs that were hashed in memory, written and synced just now
        self.placed = set[str]()  # paths of those that were written into staging at once
        self.is_resumed = record.state is State.WAITING
        self._steps = steps
        self._again = 0
        self._loaded: dict[Release, Installed] = {}
        if record.state in BACK and isinstance(record.by, Deadline):
            # Time in which nobody worked on a way back is not its own.
            self.record = msgspec.structs.replace(record, by=resumed(record.by))
        self._term: Deadline | None = None  # of the state that is being worked on

    @property
    def app(self) -> str:
        """The app's name."""
        return self.record.app

    def run(self) -> Record:
        """Return the record at rest: idle, degraded, or staged and waiting for its moment.

        Raises Unavailable (`stopping`) when the node is stopped meanwhile, and what went wrong
        after a commit; the record on disk then says where to go on.
        """
        try:
            return self._run()
        except EmbrasureError as problem:
            if problem.reason == "stopping":
                self.give_back()
            raise

    def _run(self) -> Record:
        while self.record.state not in RESTING:
            self.check_halt()
            self.report.progress(self.record.state, 0, 0)
            self._term = self._term_now()
            try:
                with gently(self.beat):
                    step = self._steps[self.record.state](self)
                if self.record.state in OPEN | HARMLESS and step.state is not self.record.state:
                    self.check_time()  # also where it has no loop that could look
            except Exception as problem:
                step = self._bad_end(problem)
            if step.state is State.WAITING and self.record.state is State.WAITING:
                # Not yet. Others may work meanwhile; a later look goes on from here.
                if msgspec.structs.replace(self.record, **step.changes) != self.record:
                    self.note(**step.changes)
                return self.record
            self.enter(step)
        self.report.progress(self.record.state, 0, 0)
        return self.record

    def enter(self, to: To) -> None:
        """The next state is on disk, and when it must have ended."""
        before, record = self.record, advance(self.record, to.state, **to.changes)
        if spans.is_shared(before.state, record.state) and isinstance(before.by, Deadline):
            by: Deadline | None = kept(before.by)
        elif record.state is State.WAITING:
            by = None  # at rest; each look has its own time
        else:
            by = self._armed(record.state)
        self.record = msgspec.structs.replace(record, by=by)
        self.ground.journal.write(self.record)

    def note(self, **changes: object) -> None:
        """The record of this same state says more, on disk, and what is left of its time."""
        by = self.record.by
        now = {"by": kept(by)} if isinstance(by, Deadline) else {}
        self.record = msgspec.structs.replace(self.record, **now, **changes)
        self.ground.journal.write(self.record)

    def _armed(self, state: State) -> Deadline | None:
        seconds = spans.span_s(
            state,
            spans.Allowed(
                fetch_s=self.ground.fetch_s, build_s=self.ground.build_s,
                to=self._content(self.record.to) if state in _ASK_CONTENT | BACK else None,
                back=self._content(self.record.back) if state in _ASK_OLD else None,
            ),
        )  # fmt: skip
        return None if seconds is None else armed(seconds)

    def _content(self, release: Release | None) -> spans.Content | None:
        """Return what a release asks for; None when it cannot be read, or there is none."""
        if release is None:
            return None
        try:
            found = self.installed(release)
        except EmbrasureError:
            return None
        return spans.Content(found.manifest, found.plan.waves[release.wave].soak_s)

    def _term_now(self) -> Deadline | None:
        """Return the end of the state that is worked on, in this boot."""
        by = self.record.by
        # A look in WAITING, and what a record of version 1 does not know.
        return kept(by) if isinstance(by, Deadline) else self._armed(self.record.state)

    def check_time(self) -> None:
        """Return only while this state's time lasts; raises Late."""
        if self._term is not None and is_over(self._term):
            raise Late(
                f"install of {self.app}",
                expected=f"the end of {self.record.state} in {self._term.span_ms // 1000} s",
                got="no end", untouched="what was committed",
                hint="a slow machine: fetch_s and build_s in node.toml",
            )  # fmt: skip

    def beat(self, _length: int = 0) -> None:
        """Return only while the node runs and this state's time lasts: for every long loop."""
        self.check_halt()
        self.check_time()

    def check_halt(self) -> None:
        """Return only when the node is not being stopped; raises Unavailable (`stopping`)."""
        if self.ground.halt.is_set():
            raise Unavailable(
                f"install of {self.app}", expected="a node that runs on", got="its own end",
                untouched="it goes on, or back, when the node starts again", reason="stopping",
            )  # fmt: skip

    def give_back(self) -> None:
        """A start that a clean stop of this node cut short is not counted: nothing crashed.

        Only while the app lives, or is about to. Many stops in a row still end: by the transitions.
        """
        record = self.record
        is_alive = self.ground.supervisor.running(self.app) is not None
        if record.state is State.STARTING or (record.state in _COUNTED and is_alive):
            # A disk that does not take it counts the start.
            with contextlib.suppress(EmbrasureError):
                self.note(starts=min(limits.STARTS, record.starts + 1))

    def _bad_end(self, problem: Exception) -> To:
        """Where an error leads from this state; any error at all, for none may leave it there."""
        self.check_halt()
        state, said = self.record.state, explain(problem, self.record.state)
        if state in HARMLESS and state is not State.REJECTED:
            return To(State.REJECTED, {"ending": "rejected", "retry_at": 0, **said})
        # The install has done nothing to it. A hook could, with the app's own rights.
        if state is State.PREPARING:
            with contextlib.suppress(EmbrasureError):
                if is_untouched(self.ground, self.record):
                    return To(State.ROLLED_BACK, {"ending": ending_of(said["reason"]), **said})
        if state in OPEN:
            return To(State.ROLLING_BACK, said)
        if state in BACK and self._may_go_back_again(problem):
            return To(State.ROLLING_BACK)
        if state in BACK:
            return To(State.DEGRADED, {"ending": "degraded", "detail": said["detail"]})
        raise problem

    def _may_go_back_again(self, problem: Exception) -> bool:
        """Whether the way back met a disk or a system that failed, not an answer that stays no."""
        word = problem.reason if isinstance(problem, EmbrasureError) else ""
        self._again += 1
        return self._again < limits.WAYS_BACK and word not in _FINAL

    def installed(self, release: Release) -> Installed:
        """Return a release of this app as its folder has it; raises Damaged."""
        if release not in self._loaded:
            self._loaded[release] = load_release(self.ground.paths, self.app, release)
        return self._loaded[release]

    # Processes

    def start(self, installed: Installed) -> Instance:
        """Return a new instance of the release; no other process of the app lives."""
        unit = units.unit_of(self.ground.paths, installed, self.config, self.ground.isolation)
        self.ground.supervisor.stop(self.app)
        self.ground.secrets.place(installed, unit.user)
        return self.ground.supervisor.start(unit)

    def watch(self, installed: Installed) -> Watch:
        """Return the probes of the release, aimed at the instance that runs now."""
        return watch_of(self.ground, installed, self.config, in_time=self.check_time)

    def hook(self, installed: Installed, point: str) -> commands.Finished | None:
        """Return how the release's hook ended; None when it has none of that point."""
        for hook in installed.manifest.hooks:
            if hook.point == point:
                return self._run_hook(installed, hook)
        return None

    def _run_hook(self, installed: Installed, hook: Hook) -> commands.Finished:
        paths, record = self.ground.paths, self.record
        self.check_time()
        folder = paths.release(self.app, installed.release.id)
        self.ground.secrets.place(installed, self.ground.isolation.user(self.app, self.config))
        ended = commands.run(
            units.resolve(
                hook.argv, manifest=installed.manifest, folder=folder, config=self.config
            ),
            env=units.environment(
                paths, installed, self.config, tx=record.tx, attempt=str(record.attempt),
                to=record.to.id, **{"from": record.back.id if record.back else ""},
            ),
            cwd=folder,
            seconds=min([hook.timeout_s, *([left_s(self._term)] if self._term else [])]),
            halt=self.ground.halt,
            backend=self.ground.isolation.backend,
            room=room_of(
                paths, installed, self.config, self.ground.isolation,
                changes=hook.point != "check",
            ),
        )  # fmt: skip
        self.log = ended.output
        if ended.code is None:
            self.check_time()  # then it was not its own time that was over
        return ended

    def must(self, installed: Installed, point: str) -> None:
        """The hook ended well, or there is none; raises Failed (`hook`)."""
        ended = self.hook(installed, point)
        if ended is not None and not ended.is_good:
            got = "no end in time" if ended.code is None else f"an end with {ended.code}"
            raise Failed(f"hook {point}", expected="an end with 0", got=got, reason="hook")

    # Telling

    def tell(
        self, kind: Kind, outcome: Outcome, *, ran: Ran, manifest: str, reason: str = ""
    ) -> None:
        """The receipt is on disk and told; the same one is never made twice."""
        if not any(self._said(kind, outcome)):
            posted = self.ground.receipts.emit(self._event(kind, outcome, ran, manifest, reason))
            self.report.receipt(posted.signed, posted.body)
            self.note(final=posted.rseq)

    def _said(self, kind: Kind, outcome: Outcome) -> Iterator[bool]:
        """Whether a receipt of this transaction says it already: a crash came right after it."""
        receipts = self.ground.receipts
        for posted in receipts.outbox.of_plan(self.app, self.record.to.plan):
            if posted.rseq > self.record.since:
                found = parse_receipt(posted.signed, receipts.public)
                yield (found.kind, found.outcome) == (kind, outcome)

    def _event(self, kind: Kind, outcome: Outcome, ran: Ran, manifest: str, reason: str) -> Event:
        record = self.record
        return Event(
            app=record.app,
            plan=record.to.plan,
            seq=record.to.seq,
            wave=record.to.wave,
            attempt=record.attempt,
            gseq=record.gseq,
            nonce=record.nonce,
            collect=record.collect,
            kind=kind,
            outcome=outcome,
            ran=ran,
            reason=REASONS.get(reason, Reason.INTERNAL),
            manifest=manifest,
            took_s=int(self.ground.clock().timestamp()) - record.began,
            soaked_s=record.soaked_s,
            state=record.state,
            detail=record.detail,
            log=self.log or self.ground.supervisor.tail(record.app, limits.LOG_TAIL_BYTES),
        )


def offer_of(tx: Transaction) -> Offer:
    """Return what is to be installed; raises Failed when a crash has taken the sources away."""
    if tx.offer is None:
        # Recovery never resumes before PREPARING.
        raise Failed(f"install of {tx.app}", expected="an offer", got="a record alone",
                     reason="internal")  # fmt: skip
    return tx.offer
