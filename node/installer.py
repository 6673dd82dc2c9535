"""Carries out one verdict: the record of a new transaction, its run, and what is answered."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from logging import getLogger
from typing import Literal

import msgspec

from embrasure import limits
from embrasure.errors import EmbrasureError, Failed, Refused, shown
from embrasure.fs import Folder
from embrasure.trust import layout
from embrasure.trust.decide import Verdict
from embrasure.trust.documents import write
from embrasure.trust.floors import AppFloor
from embrasure.trust.load import Docs
from embrasure.trust.receipt import Kind as ReceiptKind
from embrasure.trust.receipt import Outcome, Ran, Reason
from embrasure.trust.source import Source
from node.config import load_app
from node.deadline import armed, boot_id
from node.ground import Ground, Report, release_of
from node.install import STEPS
from node.judge import Judge, Judgement
from node.logs import FIELDS
from node.orders import ALARMS, Last
from node.receipts import Event
from node.recovery import linked, settle
from node.releases import APPROVAL, MANIFEST, PLAN
from node.rollback import degraded, is_denied
from node.states import RESTING, Confirm, Record, Release, State, release_name
from node.transaction import Offer, Transaction
from node.windows import Pause

LOG = getLogger(__name__)
NO_NONCE = "0" * 32  # of what no order asked for
Kind = Literal[
    "none", "wait", "hold", "refuse", "committed", "rolled_back", "interrupted", "rejected",
    "degraded", "repaired",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one app.

    kind: a verdict of the install rule, or how the install came out; reason: a word, "" when all
    is well; receipts: (signed, sealed body), oldest first; floor: the number that a repeated
    order must be above, 0 when that is not the matter.
    """

    kind: Kind
    reason: str
    app: str
    receipts: tuple[tuple[bytes, bytes], ...] = ()
    floor: int = 0


class Installer:
    """Turns verdicts into transactions. Its caller lets one work at a time."""

    def __init__(self, ground: Ground, judge: Judge) -> None:
        self._ground = ground
        self._judge = judge
        self._alarms = Last(ground.paths, ALARMS)

    def act(
        self,
        app: str,
        judgement: Judgement,
        source: Source,
        report: Report,
        *,
        nonce: str,
        confirm: Confirm | None,
    ) -> Answer:
        """Return what became of the app after the verdict is carried out.

        nonce: of the order, 32 hex digits; zeros for a poll. confirm: whose word the release needs
        to stay; None: what its manifest says.
        Raises Unavailable (`stopping`), and what keeps the disk from being written.
        """
        verdict, docs = judgement.verdict, judgement.docs
        if verdict.kind in ("none", "hold") and not verdict.stage:
            self._unstage(app, report)
        if verdict.kind == "none":
            told = self.told(app, verdict.plan, taken=nonce != NO_NONCE)
            return Answer("none", verdict.reason, app, told)
        if verdict.kind == "refuse" and docs is not None:
            return Answer("refuse", verdict.reason, app, self._alarm(docs, verdict, report))
        if verdict.kind != "install" and not verdict.stage:
            return Answer(verdict.kind, verdict.reason, app)
        if docs is None:
            raise Refused("install", expected="documents", got="none", reason="internal")
        if confirm is None:
            asks = docs.manifest is not None and docs.manifest.confirm == "mirror"
            confirm = "mirror" if asks else "none"
        record = self._ground.journal.read(app).record
        if record is not None and is_staged(record, docs):
            asked = self._record(docs, record, nonce=nonce, wave=verdict.wave, confirm=confirm)
            return self._install(resumed(record, asked), docs, source, report)
        was_open = record is not None and record.state not in RESTING
        record = self._settled(app, report)
        if was_open and record is not None and record.state in RESTING:
            # What was judged is a node that stood elsewhere: it may have just committed the plan.
            anew = replace(judgement, verdict=self._judge.again(docs))
            return self.act(app, anew, source, report, nonce=nonce, confirm=confirm)
        if self._is_too_early(record, docs):
            told = self.told(app, docs.plan_digest, taken=nonce != NO_NONCE)
            return Answer("wait", "later", app, told)
        fresh = self._record(docs, record, nonce=nonce, wave=verdict.wave, confirm=confirm)
        return self._install(fresh, docs, source, report)

    def _alarm(
        self, docs: Docs, verdict: Verdict, report: Report
    ) -> tuple[tuple[bytes, bytes], ...]:
        """Return the receipt that says what was refused; each refusal is told once."""
        plan, said = docs.plan, f"{docs.plan_digest} {verdict.reason}".encode()
        if plan is None or self._alarms.is_last(docs.app, said):
            return ()
        floor = self._ground.floors.load().app(docs.app)
        running = release_of(floor.committed)
        found, detail = docs.problems.get(verdict.reason), verdict.reason
        if found is not None:
            detail = shown(f"{detail}: {found} [{found.word}]", 380)
        LOG.warning("refused: %s", detail, extra={FIELDS: {"app": docs.app}})
        event = Event(
            app=docs.app,
            plan=docs.plan_digest,
            seq=plan.seq,
            wave=0,
            attempt=docs.gate.attempt if docs.gate else 1,
            gseq=docs.gate.gseq if docs.gate else 0,
            nonce=NO_NONCE,
            collect=docs.policy.collect_key if docs.policy else "",
            kind=ReceiptKind.STATUS,
            outcome=Outcome.REFUSED,
            ran=Ran.PREVIOUS if running else Ran.NONE,
            reason=Reason.TRUST,
            manifest=running.manifest if running else "",
            took_s=0,
            soaked_s=0,
            state=State.IDLE,
            detail=detail,
            log=b"",
        )
        posted = self._ground.receipts.emit(event)
        self._alarms.keep(docs.app, said)
        report.receipt(posted.signed, posted.body)
        return ((posted.signed, posted.body),)

    def told(self, app: str, plan: str, *, taken: bool = True) -> tuple[tuple[bytes, bytes], ...]:
        """Return the receipts of a plan that are still here, as they go out.

        taken: also what somebody took: a gateway that orders again may not have heard; a poll that
        finds nothing new tells nobody twice
        """
        posted = self._ground.receipts.outbox.of_plan(app, plan, taken=taken) if plan else ()
        return tuple((one.signed, one.body) for one in posted)

    def _settled(self, app: str, report: Report) -> Record | None:
        """What an earlier call left open is finished before anything new begins."""
        record = self._ground.journal.read(app).record
        if record is not None and record.state not in RESTING:
            record = settle(self._ground, app, report)
        return record

    def _unstage(self, app: str, report: Report) -> None:
        """What waited here for its moment is gone: denied, superseded or done, it never has one."""
        record = self._ground.journal.read(app).record
        if record is not None and record.state is State.WAITING:
            settle(self._ground, app, report)

    def _is_too_early(self, record: Record | None, docs: Docs) -> bool:
        """Whether this very attempt was cut off here a moment ago, and waits for its next try."""
        if record is None:
            return False
        same = (record.to.plan, record.attempt) == (docs.plan_digest, gate_of(docs)[0])
        left = record.retry_at - int(self._ground.clock().timestamp())
        # A clock that was set back must not hold it for ever.
        return same and 0 < left <= limits.RETRY_LONGEST_SECONDS

    def _record(
        self, docs: Docs, last: Record | None, *, nonce: str, wave: int, confirm: Confirm
    ) -> Record:
        if docs.plan is None or docs.policy is None:
            raise Refused("install", expected="plan and policy", got="less", reason="plan")
        plan, (attempt, gseq) = docs.plan, gate_of(docs)
        floor = self._ground.floors.load().app(docs.app)
        back = self._back(docs.app, floor)
        same = last is not None and (last.to.plan, last.attempt) == (docs.plan_digest, attempt)
        to = Release(
            id=release_name(plan.seq, plan.manifest.sha256),
            plan=docs.plan_digest,
            seq=plan.seq,
            manifest=plan.manifest.sha256,
            wave=wave,
        )
        return Record(
            v=2,
            app=docs.app,
            tx=secrets.token_hex(16),
            state=State.OFFERED,
            transitions=0,
            starts=limits.STARTS,
            to=to,
            back=back,
            back_denied=back is not None and is_denied(docs.app, back, docs.policy),
            attempt=attempt,
            try_number=floor.tries.get(docs.plan_digest, 0) + 1,
            gseq=gseq,
            nonce=nonce,
            collect=docs.policy.collect_key,
            confirm=confirm,
            confirm_by=None,
            nonce_hash="",
            migrated="no",
            began=int(self._ground.clock().timestamp()),
            boot=boot_id(),
            soaked_s=0,
            ending="",
            reason="",
            detail="",
            interruptions=last.interruptions if last is not None and same else 0,
            retry_at=0,
            since=self._ground.receipts.head()[0],
            final=0,
            by=armed(limits.OFFER_SECONDS),
        )

    def _back(self, app: str, floor: AppFloor) -> Release | None:
        """Return what a roll-back goes to: the committed release that is linked now.

        When the last one was destroyed on disk, recovery has linked the one before it.
        """
        known = [release_of(floor.committed), release_of(floor.previous)]
        now = linked(self._ground, app)
        return next((one for one in known if one is not None and one.id == now), known[0])

    def _install(self, fresh: Record, docs: Docs, source: Source, report: Report) -> Answer:
        if docs.manifest is None or docs.plan is None:
            raise Refused("install", expected="a manifest", got="none", reason="manifest")
        app = fresh.app

        def again() -> Pause:
            verdict = self._judge.again(docs)
            if verdict.stage:
                return self._judge.pause(docs, verdict)
            if verdict.kind != "install":
                raise Failed(f"install of {app}", expected="`install` once more",
                             got=f"{verdict.kind} {verdict.reason}", reason="turn")  # fmt: skip
            return Pause()

        documents: dict[str, bytes] = {}
        if fresh.state is not State.WAITING:
            documents = {
                MANIFEST: docs.manifest_raw,
                PLAN: write(docs.plan),
                APPROVAL: self._judge.approval(docs),
                **self._judge.secrets(docs, source),
            }
        pack = layout.pack_file(docs.env, docs.app, docs.plan.manifest.sha256)
        offer = Offer(docs.manifest, pack, documents, source, again)
        config = load_app(self._ground.paths, app)
        Folder.open(self._ground.paths.app(app), create=True).close()
        tx = Transaction(self._ground, fresh, config, report, STEPS, offer=offer)
        if self._ground.journal.read(app).record != fresh:
            self._ground.journal.write(fresh)
        try:
            record = tx.run()
        except EmbrasureError as problem:
            if problem.reason == "stopping":
                raise
            # The disk did not take a state. Whatever is on it now, the app comes to rest.
            settle(self._ground, app, report)
            raise
        if record.state is State.WAITING:
            return Answer(tx.waits.kind, tx.waits.reason, app)
        if record.state is State.DEGRADED:
            degraded(tx)
        return self._ended(tx.record)

    def _ended(self, record: Record) -> Answer:
        found = [
            posted
            for posted in self._ground.receipts.outbox.of_plan(record.app, record.to.plan)
            if posted.rseq > record.since
        ]
        told = tuple((posted.signed, posted.body) for posted in found)
        kind: Kind = record.ending or "rejected"
        return Answer(kind, "" if kind == "committed" else record.reason, record.app, told)


def resumed(record: Record, asked: Record) -> Record:
    """Return the record of what waits here, as this order or look asks for it."""
    return msgspec.structs.replace(
        asked,
        tx=record.tx,
        state=record.state,
        transitions=record.transitions,
        reason=record.reason,
        detail=record.detail,
        retry_at=record.retry_at,
        began=record.began,
        since=record.since,
        by=None,
    )


def gate_of(docs: Docs) -> tuple[int, int]:
    """Return attempt and number of this plan's gate; of the first one while there is none yet."""
    if docs.gate is None or docs.gate.plan != docs.plan_digest:
        return 1, 1
    return docs.gate.attempt, docs.gate.gseq


def is_staged(record: Record, docs: Docs) -> bool:
    """Return whether this very plan lies here, built, and waits for its moment."""
    return record.state is State.WAITING and record.to.plan == docs.plan_digest
