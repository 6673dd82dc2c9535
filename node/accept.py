"""The one door for every install: an order by push, a poll by pull, a folder on a stick.

A source is always untrusted. What it says is verified here, decided by the trust core, and carried
out as one transaction; transports only bring bytes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from embrasure import limits
from embrasure.bundle.store import BlobStore
from embrasure.clock import Clock
from embrasure.errors import EmbrasureError, Refused, Unavailable
from embrasure.fs import Folder, lock
from embrasure.trust.door import Taken
from embrasure.trust.floors import FloorStore
from embrasure.trust.order import check_action
from embrasure.trust.source import Source
from node import credentials, drift, hold, leftovers
from node.config import NodeConfig, app_names
from node.confirm_messages import AwaitsNote
from node.enrolment import may_have_answer
from node.ground import Apps, FloorKeeper, Ground, Report, Silent
from node.identity import Identity
from node.installer import NO_NONCE, Installer
from node.installer import Answer as Answer
from node.isolation import DEVELOPMENT, Isolation
from node.journal import Journal
from node.judge import Judge, Judgement
from node.orderbook import OrderBook
from node.orders import ORDERS, Last
from node.owned import Owned
from node.paths import Paths
from node.receipts import Receipts
from node.recovery import settle, typed
from node.repair import repair
from node.secrets import Secrets
from node.serving import served
from node.states import Confirm, State
from node.waits import Waits, check_names


class Acceptor:
    """One node's installer. One call at a time works; `stop` may come from any thread."""

    def __init__(
        self,
        paths: Paths,
        config: NodeConfig,
        identity: Identity,
        supervisor: Apps,
        *,
        clock: Clock,
        isolation: Isolation = DEVELOPMENT,
    ) -> None:
        """Hold this node's lock until `close`, and start nothing yet: call `recover` first.

        Raises Unavailable (`busy`), Refused (`no-trust`).
        """
        if (config.id, config.env) != (identity.node, identity.env):
            raise Refused(
                "node configuration", expected=f"{identity.env} {identity.node}", got=config.id,
                hint="node.toml is of another node than the keys", reason="identity",
            )  # fmt: skip
        for folder in paths.folders():
            if folder != paths.tls or not isolation.is_production:  # there it is fetch's alone
                Folder.open(folder, create=True).close()
        self._held = contextlib.ExitStack()
        self._held.enter_context(lock(paths.lock / "node", seconds=1, hint="embrasure node status"))
        credentials.take_all_away(paths)
        leftovers.clear(paths)
        isolation.backend.clear()
        self._identity = identity
        self._clock = clock
        self._mutex = threading.RLock()
        floors = FloorKeeper(FloorStore(paths.floors))
        self._ground = Ground(
            paths=paths,
            supervisor=supervisor,
            journal=Journal(paths),
            blobs=BlobStore(paths.blobs),
            receipts=Receipts(paths, identity, clock=clock, isolation=isolation.level),
            floors=floors,
            secrets=Secrets(paths, identity),
            clock=clock,
            isolation=isolation,
            waits=Waits(),
            confirm_s=config.confirm_s, fetch_s=config.fetch_s, build_s=config.build_s,
            policy=lambda: self._judge.trusting.policy(),
        )  # fmt: skip
        self._judge = Judge(paths, identity, floors, clock=clock, isolation=isolation.level)
        self._installer = Installer(self._ground, self._judge)
        self._orders = Last(paths, ORDERS)
        self._owned = Owned(paths, isolation)
        self._book = OrderBook(self._ground, self._judge, identity, self._orders, clock=clock)

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
                except Exception as problem:  # a defect, too: it is that app's alone
                    first = first or typed(app, problem)
        if first is not None:
            raise first

    def go_back(self, app: str) -> State | None:
        """Return where the app rests once its open install is undone: nobody here can finish it."""
        with self._mutex:
            record = settle(self._ground, app, Silent(), forward=False)
        return record.state if record is not None else None

    def _apps(self) -> list[str]:
        paths = self._ground.paths
        return sorted({*served(paths), *paths.installed()})

    def order(self, envelope: bytes, source: Source, report: Report) -> Answer:
        """Return what became of a gateway's order, which can only say "now".

        Raises Refused for an order that does not hold, Unavailable for a broken source.
        """
        with self._working():
            if not may_have_answer(self._ground.paths):
                # Nothing is looked at that a thief of the gateway brings before the first floors.
                return Answer("hold", "not_enrolled", "")
            order, keyid, payload = self._book.verified(envelope, source)
            app = order.app
            if self._orders.is_last(app, payload):
                # One order causes at most one switch, however often it is sent.
                return Answer("none", "repeat", app, self._installer.told(app, order.plan))
            floors = self._ground.floors.load()
            floor = floors.oseq.get(keyid, 0)
            if keyid in floors.union.keys:
                return Answer("refuse", "denied", app)
            try:
                check_action(order, "apply")
                self._book.check(order, floor)
            except Refused as problem:
                return Answer("refuse", problem.reason, app, floor=floor)
            if self._in_maintenance():
                # Its number is not used up: the same order holds afterwards, until it expires.
                return Answer("hold", "owner", app)
            self._book.take(order, keyid, payload)
            if app not in app_names(self._ground.paths):
                return Answer("hold", "not-declared", app)
            judgement = self._judged(app, source)
            if judgement.docs is not None and judgement.docs.plan_digest != order.plan:
                return Answer("wait", "plan", app)
            return self._installer.act(
                app, judgement, source, report, nonce=order.nonce, confirm="gateway"
            )

    def awaited(self, opened_ms: int) -> AwaitsNote | None:
        """Return what waits for a word, None when nothing does; with the nonce for a listener that
        was opened (CLOCK_BOOTTIME) after the switch.
        """
        return self._ground.waits.shown(opened_ms)

    def confirm(self, envelope: bytes, source: Source, *, opened_ms: int) -> Answer:
        """Return how the install ended that the gateway's order confirms, over a new connection.

        It lets a release stay that was approved, runs, and has soaked; nothing else. Raises Refused
        for an order that does not hold.
        """
        self._ground.waits.of("gateway", opened_ms)  # else nothing is fetched for it
        order, keyid, _ = self._book.verified(envelope, source)
        floors = self._ground.floors.load()
        if keyid in floors.union.keys:
            return Answer("refuse", "denied", order.app)
        floor = floors.oseq.get(keyid, 0)
        try:
            self._book.check(order, floor)
        except Refused as problem:
            return Answer("refuse", problem.reason, order.app, floor=floor)
        wait = self._ground.waits.of("gateway", opened_ms)
        check_names(order, wait)
        self._book.use_up(order, keyid)
        self._ground.waits.confirm(wait)
        return self._after(order.app, order.plan)

    def look_again(self, source: Source, *, opened_ms: int) -> None:
        """A release that waits for a mirror stays: its timestamp verified over a new connection.

        Raises Refused, Unavailable; the release then waits on.
        """
        wait = self._ground.waits.of("mirror", opened_ms)
        self._judge.refresh_top(source)
        self._ground.waits.confirm(wait)

    def _after(self, app: str, plan: str) -> Answer:
        """Return what was told of a plan once the install that works now has ended."""
        if self._mutex.acquire(timeout=limits.CONFIRMED_SECONDS):
            self._mutex.release()
        return Answer("none", "done", app, self._installer.told(app, plan))

    def poll(self, source: Source, report: Report, *, is_local: bool = False) -> list[Answer]:
        """Return what became of each app of this node after a look at what `source` holds.

        is_local: the administrator stands before the node, and needs nobody's word
        An app whose metadata does not hold is answered `refuse`, and stops no other app; when
        none holds, the first such error is raised. Raises Unavailable for a broken source.
        """
        with self._working():
            answers: list[Answer] = []
            problems: list[EmbrasureError] = []
            for app in app_names(self._ground.paths):
                try:
                    answers.append(self._look(app, source, report, is_local=is_local))
                except Unavailable:
                    raise
                except EmbrasureError as problem:
                    problems.append(problem)
                    answers.append(Answer("refuse", problem.reason, app))
            if problems and len(problems) == len(answers):
                raise problems[0]
            return answers

    def repair(self, app: str, source: Source, report: Report) -> Answer:
        """Return what became of the app's committed release: rebuilt where files differ, or `none`.

        source: where what is lost here may lie. Raises Refused, Denied, Unavailable, Damaged.
        """
        with self._working():
            return repair(self._ground, self._judge, app, source, report)

    def watch_for_drift(self, stop: threading.Event) -> None:
        """Looks at the start and once a day, gently, until `stop` is set."""
        drift.watch(self._ground, self._mutex, stop)

    def trust(self, source: Source) -> Taken:
        """Return what `source` had of newer trust files; they count at once, whatever else runs.

        Raises Refused, Denied, Unavailable.
        """
        return self._judge.trusting.take(source)

    def enrol(self, answer: bytes, source: Source) -> None:
        """This node is enrolled by an answer for which the trust files of `source` vouch.

        Raises Refused, NotFound, Unavailable; the node then waits for another answer.
        """
        self._judge.enrol(answer, source)

    def _look(self, app: str, source: Source, report: Report, *, is_local: bool) -> Answer:
        judgement = self._judged(app, source)  # denials count, whatever the owner holds
        if self._in_maintenance():
            return Answer("hold", "owner", app)
        confirm: Confirm | None = "none" if is_local else None
        if not is_local and self._identity.mode == "push":
            # A push node installs by orders; whatever else has it look, the gateway must follow.
            confirm = "gateway"
        return self._installer.act(app, judgement, source, report, nonce=NO_NONCE, confirm=confirm)

    def _in_maintenance(self) -> bool:
        if not hold.is_written(self._ground.paths):
            return False
        told = datetime.fromtimestamp(self._ground.floors.load().time, tz=UTC)
        return bool(hold.held(self._ground.paths, hold.NODE, max(self._clock(), told)))

    def _judged(self, app: str, source: Source) -> Judgement:
        self._owned.check(app)
        view = self._judge.refresh(source, app)
        return self._judge.judge(app, view, source)

    def check_alive(self) -> None:
        """Return once the thread that keeps the apps alive has answered."""
        self._ground.supervisor.tail("", 1)

    def halt(self) -> None:
        """Whatever holds the one slot lets go of it soon, a soak too; nothing new begins."""
        self._ground.halt.set()

    def stop(self) -> None:
        """Every app is stopped; a call under way ends as an interruption (`stopping`)."""
        self.halt()
        with self._mutex:
            self._ground.supervisor.stop_all()

    def close(self) -> None:
        """`stop`, and this node's lock is free, whatever the disk says; raises what it said."""
        with contextlib.ExitStack() as last:
            last.callback(self._held.close)
            last.callback(self._ground.blobs.close)
            last.callback(credentials.take_all_away, self._ground.paths)
            self.stop()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        if not self._mutex.acquire(timeout=0.1):  # `_after` holds it for no longer
            raise Unavailable("node", expected="one install at a time", got="another under way",
                              hint="see what it does: embrasure node status; then try again",
                              reason="busy")  # fmt: skip
        try:
            if self._ground.halt.is_set():
                raise Unavailable("node", expected="a running node", got="its own end",
                                  hint="start it again: embrasure node run",
                                  reason="stopping")  # fmt: skip
            yield
        finally:
            self._mutex.release()
