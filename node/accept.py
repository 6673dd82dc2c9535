"""The one door for every install: an order by push, a poll by pull, a folder on a stick.

A source is always untrusted. What it says is verified here, decided by the trust core, and carried
out as one transaction; transports only bring bytes.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from embrasure import limits
from embrasure.bundle.store import BlobStore
from embrasure.clock import Clock
from embrasure.errors import EmbrasureError, Refused, Unavailable
from embrasure.fs import Folder, lock, read_file
from embrasure.trust import dsse
from embrasure.trust.client import TrustClient
from embrasure.trust.documents import write
from embrasure.trust.floors import FloorStore
from embrasure.trust.load import Docs
from embrasure.trust.order import Order, check_order, parse_order
from embrasure.trust.source import Source
from node.config import NodeConfig, app_names, load_app
from node.enrolment import is_enrolled
from node.ground import FloorKeeper, Ground, Report, Silent, release_of
from node.identity import Identity
from node.install import STEPS
from node.journal import Journal
from node.judge import Judge, Judgement
from node.orders import LastOrders
from node.paths import Paths
from node.receipts import Receipts, boot_id
from node.recovery import settle
from node.releases import APPROVAL, MANIFEST, PLAN
from node.rollback import LONGEST_WAIT_SECONDS, degraded
from node.states import RESTING, Record, Release, State, release_name
from node.supervisor import Supervisor
from node.transaction import Offer, Transaction

Kind = Literal[
    "none", "wait", "hold", "refuse", "committed", "rolled_back", "interrupted", "rejected",
    "degraded",
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


class Acceptor:
    """One node's installer. One call at a time works; `stop` may come from any thread."""

    def __init__(
        self,
        paths: Paths,
        config: NodeConfig,
        identity: Identity,
        supervisor: Supervisor,
        *,
        clock: Clock,
    ) -> None:
        """Hold this node's lock until `close`; raises Unavailable (`busy`), Refused (`no-trust`).

        Nothing is started yet: call `recover` first.
        """
        if (config.id, config.env) != (identity.node, identity.env):
            raise Refused(
                "node configuration", expected=f"{identity.env} {identity.node}", got=config.id,
                hint="node.toml is of another node than the keys", reason="identity",
            )  # fmt: skip
        for folder in paths.folders():
            Folder.open(folder, create=True).close()
        self._held = contextlib.ExitStack()
        self._held.enter_context(lock(paths.lock / "node", seconds=1))
        self._identity = identity
        self._clock = clock
        self._mutex = threading.RLock()
        floors = FloorKeeper(FloorStore(paths.floors))
        self._ground = Ground(
            paths=paths,
            supervisor=supervisor,
            journal=Journal(paths),
            blobs=BlobStore(paths.blobs),
            receipts=Receipts(paths, identity, clock=clock),
            floors=floors,
            clock=clock,
        )
        client = TrustClient(
            paths.tuf,
            read_file(paths.anchor, limit=limits.ROOT_BYTES),
            clock=clock,
            enrolled=is_enrolled(paths),
        )
        if client.root_id != identity.root_id:
            raise Refused("trust anchor", expected=identity.root_id, got=client.root_id,
                          hint="the anchor is of another fleet", reason="identity")  # fmt: skip
        self._judge = Judge(paths, identity, client, floors, clock=clock)
        self._orders = LastOrders(paths)

    def recover(self) -> None:
        """Every app rests on a whole release, which runs. Works with every server down.

        An app that cannot be brought to rest does not stop the others; the first such error is
        raised at the end.
        """
        first: EmbrasureError | None = None
        with self._mutex:
            self._ground.journal.keep_ballast()
            for app in self._apps():
                try:
                    settle(self._ground, app, Silent())
                except EmbrasureError as problem:
                    first = first or problem
        if first is not None:
            raise first

    def _apps(self) -> list[str]:
        paths = self._ground.paths
        installed = [path.name for path in paths.opt.iterdir() if path.is_dir()]
        return sorted({*app_names(paths), *installed})

    def order(self, envelope: bytes, source: Source, report: Report) -> Answer:
        """Return what became of a gateway's order, which can only say "now".

        Raises Refused for an order that does not hold, Unavailable for a broken source.
        """
        with self._working():
            order, keyid, payload = self._verified(envelope, source)
            app = order.app
            if self._orders.is_last(app, payload):
                # One order causes at most one switch, however often it is sent.
                return Answer("none", "repeat", app, self._told(app, order.plan))
            floor = self._ground.floors.load().oseq.get(keyid, 0)
            try:
                self._check(order, floor)
            except Refused as problem:
                return Answer("refuse", problem.reason, app, floor=floor)
            self._take(order, keyid, payload)
            judgement = self._judged(app, source)
            if judgement.docs is not None and judgement.docs.plan_digest != order.plan:
                return Answer("wait", "plan", app)
            return self._act(app, judgement, source, report, nonce=order.nonce)

    def poll(self, source: Source, report: Report) -> list[Answer]:
        """Return what became of each app of this node after a look at what `source` holds.

        Raises Refused and Unavailable when the trust metadata itself does not hold or come.
        """
        with self._working():
            answers = []
            for app in app_names(self._ground.paths):
                judgement = self._judged(app, source)
                answers.append(self._act(app, judgement, source, report, nonce="0" * 32))
            return answers

    def stop(self) -> None:
        """Every app is stopped; a call under way ends as an interruption (`stopping`)."""
        self._ground.halt.set()
        with self._mutex:
            self._ground.supervisor.stop_all()

    def close(self) -> None:
        """`stop`, and this node's lock is free."""
        self.stop()
        with self._mutex:
            self._ground.blobs.close()
            self._held.close()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        if not self._mutex.acquire(blocking=False):
            raise Unavailable("node", expected="one install at a time", got="another under way",
                              reason="busy")  # fmt: skip
        try:
            if self._ground.halt.is_set():
                raise Unavailable("node", expected="a running node", got="its own end",
                                  reason="stopping")  # fmt: skip
            yield
        finally:
            self._mutex.release()

    # An order

    def _verified(self, envelope: bytes, source: Source) -> tuple[Order, str, bytes]:
        """Return the order, the id of its gate key, and its payload; raises Refused.

        Checked with the keys held; a key that is not known yet may be new, so one refresh follows.
        """
        try:
            keys = self._judge.gate_keys(self._judge.held())
            payload, keyid = dsse.unseal("order", envelope, keys, limit=limits.ORDER_BYTES)
        except Refused:
            view = self._judge.refresh_top(source)
            keys = self._judge.gate_keys(view)
            payload, keyid = dsse.unseal("order", envelope, keys, limit=limits.ORDER_BYTES)
        return parse_order(payload), keyid, payload

    def _check(self, order: Order, floor: int) -> None:
        """Return only when the order is for this node, alive and new; raises Refused."""
        identity = self._identity
        check_order(
            order,
            root=identity.root_id,
            env=identity.env,
            node=identity.node,
            epoch=identity.epoch,
            floor=floor,
            now=self._clock(),
        )

    def _take(self, order: Order, keyid: str, payload: bytes) -> None:
        """The order's number is used up, on disk, before anything is done for it."""
        self._ground.floors.change(
            lambda floors: msgspec.structs.replace(
                floors, oseq={**floors.oseq, keyid: max(floors.oseq.get(keyid, 0), order.oseq)}
            )
        )
        self._orders.keep(order.app, payload)
        self._judge.see_time(order.issued)

    # One app

    def _judged(self, app: str, source: Source) -> Judgement:
        view = self._judge.refresh(source, app)
        return self._judge.judge(app, view, source)

    def _act(
        self, app: str, judgement: Judgement, source: Source, report: Report, *, nonce: str
    ) -> Answer:
        """Return what became of the app after the verdict is carried out."""
        verdict, docs = judgement.verdict, judgement.docs
        if verdict.kind == "none":
            return Answer("none", verdict.reason, app, self._told(app, verdict.plan))
        if verdict.kind != "install" or docs is None:
            return Answer(
                verdict.kind if verdict.kind != "install" else "hold", verdict.reason, app
            )
        record = self._settled(app, report)
        if self._is_too_early(record, docs):
            return Answer("wait", "later", app)
        fresh = self._record(docs, record, nonce=nonce, wave=verdict.wave)
        return self._install(fresh, docs, source, report)

    def _settled(self, app: str, report: Report) -> Record | None:
        """What an earlier call left open is finished before anything new begins."""
        record = self._ground.journal.read(app).record
        if record is not None and record.state not in RESTING:
            record = settle(self._ground, app, report)
        return record

    def _is_too_early(self, record: Record | None, docs: Docs) -> bool:
        """Whether this very attempt was cut off here a moment ago, and waits for its next try."""
        if record is None or docs.gate is None:
            return False
        same = (record.to.plan, record.attempt) == (docs.plan_digest, docs.gate.attempt)
        left = record.retry_at - int(self._clock().timestamp())
        # A clock that was set back must not hold it for ever.
        return same and 0 < left <= LONGEST_WAIT_SECONDS

    def _record(self, docs: Docs, last: Record | None, *, nonce: str, wave: int) -> Record:
        if docs.plan is None or docs.gate is None or docs.policy is None:
            raise Refused("install", expected="plan, gate and policy", got="less", reason="plan")
        plan, gate = docs.plan, docs.gate
        floor = self._ground.floors.load().app(docs.app)
        same = last is not None and (last.to.plan, last.attempt) == (docs.plan_digest, gate.attempt)
        to = Release(
            id=release_name(plan.seq, plan.manifest.sha256),
            plan=docs.plan_digest,
            seq=plan.seq,
            manifest=plan.manifest.sha256,
            wave=wave,
        )
        return Record(
            v=1,
            app=docs.app,
            tx=secrets.token_hex(16),
            state=State.OFFERED,
            transitions=0,
            starts=limits.STARTS,
            to=to,
            back=release_of(floor.committed),
            attempt=gate.attempt,
            try_number=floor.tries.get(docs.plan_digest, 0) + 1,
            gseq=gate.gseq,
            nonce=nonce,
            collect=docs.policy.collect_key,
            migrated="no",
            began=int(self._clock().timestamp()),
            boot=boot_id(),
            soaked_s=0,
            ending="",
            reason="",
            detail="",
            interruptions=last.interruptions if last is not None and same else 0,
            retry_at=0,
            since=self._ground.receipts.outbox.head()[0],
            final=0,
        )

    def _install(self, fresh: Record, docs: Docs, source: Source, report: Report) -> Answer:
        if docs.manifest is None or docs.plan is None:
            raise Refused("install", expected="a manifest", got="none", reason="manifest")
        app = fresh.app

        def again() -> str:
            verdict = self._judge.again(docs)
            return "" if verdict.kind == "install" else f"{verdict.kind} {verdict.reason}"

        documents = {
            MANIFEST: docs.manifest_raw,
            PLAN: write(docs.plan),
            APPROVAL: self._judge.approval(docs),
        }
        offer = Offer(docs.manifest, documents, source, again)
        config = load_app(self._ground.paths, app)
        Folder.open(self._ground.paths.app(app), create=True).close()
        tx = Transaction(self._ground, fresh, config, report, STEPS, offer=offer)
        self._ground.journal.write(fresh)
        try:
            record = tx.run()
        except EmbrasureError as problem:
            if problem.reason == "stopping":
                raise
            # The disk did not take a state. Whatever is on it now, the app comes to rest.
            settle(self._ground, app, report)
            raise
        if record.state is State.DEGRADED:
            degraded(tx)
        return self._ended(tx.record)

    def _ended(self, record: Record) -> Answer:
        kind: Kind = record.ending or "rejected"
        reason = "" if kind == "committed" else record.reason
        found = [
            posted
            for posted in self._ground.receipts.outbox.of_plan(record.app, record.to.plan)
            if posted.rseq > record.since
        ]
        told = tuple((posted.signed, posted.body) for posted in found)
        return Answer(kind, reason, record.app, told)

    def _told(self, app: str, plan: str) -> tuple[tuple[bytes, bytes], ...]:
        if not plan:
            return ()
        posted = self._ground.receipts.outbox.of_plan(app, plan)
        return tuple((one.signed, one.body) for one in posted)
