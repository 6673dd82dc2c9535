"""The installer against a small model: real files, real floors, real journal, real decision.

What is offered (newer, older, bad, another attempt), what the owner and the security team say, the
clock, the end of a state's time, crashes at any write, restarts and boots come in any order. After
each step the model says what is committed, what came before, which tries are burnt, what is
quarantined, which floors stand, how often it was cut off, what is staged and what runs. The app is
a file of this process (`tests/simulate/inner.py`): starting programs would cost more than all else.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from embrasure.trust import client as trust_client
from embrasure.trust.load import Docs, load, roles_for
from node import deadline, hold
from node.accept import Acceptor
from node.config import load_config
from node.judge import Judgement
from node.paths import Paths
from node.recovery import linked
from node.states import Record, State
from node.verify import verify
from tests.simulate.faults import Faults
from tests.simulate.inner import InnerApps
from tests.simulate.installer import SimInstaller, Told, free_port
from tests.simulate.sweep_install import sign_of_life
from tests.unit.node.test_state_deadlines import Moved, jumping

APP = "shop"
# Which of the plans fail when they are started.
BAD = (False, False, True, False, True, True, False, False, True, False)
GATES = ("open", "paused", "again", "third")
LATE_S = 3600  # a retry waits an hour at most
# In each of them all of its time may pass at once.
EARLY = (State.OFFERED, State.RESERVED, State.FETCHING, State.VERIFIED, State.STAGED)
OPENED = (State.PREPARING, State.QUIESCING, State.SWITCHING, State.STARTING, State.PROBING)
BACKWARD = (State.ROLLING_BACK, State.ROLLBACK_PROBING)
SLOW = (*EARLY, *OPENED, *BACKWARD, State.COMMITTED, State.CLEANING)
NEED_S = 11  # what the time-outs of these releases make: 10 s to stop, 1 s to start


class Crash(BaseException):
    """The process ended here. No `except Exception` sees it."""


@dataclass(frozen=True)
class Offer:
    """What a look at the repository finds."""

    number: int
    gate: str
    docs: Docs

    @property
    def is_bad(self) -> bool:
        return BAD[self.number]

    @property
    def seq(self) -> int:
        assert self.docs.plan is not None
        return self.docs.plan.seq

    @property
    def gseq(self) -> int:
        assert self.docs.gate is not None
        return self.docs.gate.gseq

    @property
    def attempt(self) -> int:
        assert self.docs.gate is not None
        return self.docs.gate.attempt


@dataclass(frozen=True)
class World:
    """A node that is enrolled and has installed nothing, and everything that can be offered."""

    bench: SimInstaller
    template: Path
    offers: dict[tuple[int, str], Offer]


@cache
def world() -> World:
    """Return the world, made once: its signatures are checked here, once for all steps."""
    memory = Path("/dev/shm")  # noqa: S108  # a fresh private folder below it
    root = Path(tempfile.mkdtemp(prefix="machine-", dir=memory if memory.is_dir() else None))
    bench = SimInstaller(root)
    trust_client._VIEWS_KEPT = len(BAD) * len(GATES) + 8
    client, node, offers = bench.acceptor._judge._client, bench.identity.node, {}
    for number, is_bad in enumerate(BAD):
        release = bench.make(f"{number}.0", "crash" if is_bad else "good", probes=[sign_of_life()])
        plan = bench.publish(release=release)
        for gate in GATES:
            if gate != "open":
                attempt = {"paused": 1, "again": 2, "third": 3}[gate]
                state = "paused" if gate == "paused" else "open"
                bench.repo.set_gate(plan, state=state, attempt=attempt)  # type: ignore[arg-type]  # closed words
                bench.repo.publish()
            view = client.refresh(bench.source(), roles=roles_for("dev", APP))
            docs = load(client, view, bench.source(), env="dev", app=APP, node=node)
            offers[number, gate] = Offer(number, gate, docs)
    bench.close()
    return World(bench, bench.paths.prefix, offers)


@dataclass
class Model:
    """What must be true of the node."""

    committed: Offer | None = None
    previous: Offer | None = None
    running: Offer | None = None
    staged: Offer | None = None
    tries: dict[int, int] = field(default_factory=dict)
    denied: set[int] = field(default_factory=set)
    seen: int = 0
    gate: tuple[int, int] = (0, 0)
    is_degraded: bool = False
    interruptions: int = 0
    retry: tuple[int, int, float] = (-1, 0, 0)  # of which plan and attempt, until when
    held_until: float = 0
    window: tuple[int, int] | None = None  # second of the day at which it opens, seconds it lasts
    now: float = 0

    def is_open(self) -> bool:
        if self.window is None:
            return True
        start, length = self.window
        return (self.now - start) % 86400 + NEED_S <= length

    def verdict(self, offer: Offer) -> str:
        """Return what the install rule says."""
        tries = self.tries.get(offer.number, 0)
        if offer.seq < self.seen:
            return "refuse rollback"
        if self.committed is not None and self.committed.number == offer.number:
            return "none done"
        if offer.number in self.denied:
            return "hold denied"
        if self.now < self.held_until:
            return "hold owner"
        if (offer.seq, offer.gseq) < self.gate:
            return "wait gate"
        if offer.gate == "paused":
            return "wait paused"
        if tries >= min(offer.attempt, 3):
            return "hold quarantine"
        return "install" if self.is_open() else "wait window"

    def see(self, offer: Offer, verdict: str) -> None:
        """Floors rise by what was not refused."""
        if verdict.startswith("refuse"):
            return
        self.seen = max(self.seen, offer.seq)
        if verdict in ("install", "wait paused", "wait window", "hold quarantine"):
            self.gate = max(self.gate, (offer.seq, offer.gseq))

    def act(self, offer: Offer, slow: State | None = None) -> str:
        """Return what a look at `offer` ends with; the model is as the node must be after it.

        slow: the state whose time is over before its work is done
        """
        said = self.verdict(offer)
        self.see(offer, said)
        patient = said in ("hold owner", "wait gate", "wait paused", "wait window")
        fresh = said == "wait window" or not self.tries.get(offer.number)
        if said != "install" and not (patient and fresh):
            if said.partition(" ")[0] in ("none", "hold"):
                self.staged = None
            return said
        if self.staged is None or self.staged.number != offer.number:
            self.staged = None
            number, attempt, until = self.retry
            if (number, attempt) == self._about(offer) and 0 < until - self.now <= LATE_S:
                return "wait later"
            if (number, attempt) != self._about(offer):
                self.interruptions = 0
            self.retry = (*self._about(offer), 0)
            self.is_degraded = False
            if slow in EARLY:
                return "rejected fetch" if slow is State.FETCHING else self._late(offer, "rejected")
            self.staged = offer
        if said != "install":
            return said
        self.staged = None
        return self._install(offer, slow)

    def _late(self, offer: Offer, kind: str) -> str:
        """It is tried again after a minute, doubling to an hour."""
        self.interruptions += 1
        wait = min(LATE_S, 60 * 2 ** min(self.interruptions - 1, 10))
        self.retry = (*self._about(offer), self.now + wait)
        return f"{kind} late"

    def _may_return(self) -> bool:
        return self.committed is None or self.committed.number not in self.denied

    @staticmethod
    def _about(offer: Offer) -> tuple[int, int]:
        return offer.number, offer.attempt

    def _install(self, offer: Offer, slow: State | None) -> str:
        if slow in OPENED:
            # Until the link has moved a denied release runs on: a denial stops no service.
            if slow in OPENED[2:] and not self._may_return():
                self.running, self.is_degraded = None, True
                return "degraded late"
            self.running = self.committed
            return self._late(offer, "interrupted")
        self.retry, before = (*self._about(offer), 0), self.interruptions
        self.interruptions = 0
        if not offer.is_bad:
            self.committed, self.previous = offer, self.committed
            self.running = offer
            return "committed"
        self.tries[offer.number] = self.tries.get(offer.number, 0) + 1
        is_late = slow in BACKWARD and self.committed is not None
        if not self._may_return() or is_late:
            self.interruptions = before
            is_back = self._may_return() and slow is State.ROLLBACK_PROBING
            self.running, self.is_degraded = self.committed if is_back else None, True
            return "degraded crash-loop"
        self.running = self.committed
        return "rolled_back crash-loop"


class InstallerMachine(RuleBasedStateMachine):
    """One node for one run."""

    steps = 0
    crashes = 0
    slowed = 0

    def __init__(self) -> None:
        super().__init__()
        self.world = world()
        self.root = Path(tempfile.mkdtemp(dir=self.world.template.parent))
        shutil.copytree(self.world.template, self.root / "node", symlinks=True)
        self.bench = self.world.bench
        self.paths = Paths(self.root / "node")
        self.boots = 0
        self.port = free_port()
        self.model = Model(now=self.bench.clock().timestamp())
        self.base = self.model.now
        self.ahead = 0.0
        self._real_boot = deadline._BOOT_ID
        self._owner()
        self._open()

    def teardown(self) -> None:
        self._close()
        deadline._BOOT_ID = self._real_boot
        shutil.rmtree(self.root)

    def _clock(self) -> datetime:
        return datetime.fromtimestamp(self.base + self.ahead, tz=UTC)

    def _open(self) -> None:
        self.apps = InnerApps(self.paths)
        self.acceptor = Acceptor(
            self.paths, load_config(self.paths), self.bench.identity, self.apps, clock=self._clock
        )
        self.acceptor._judge._opened = self.world.bench.acceptor._judge._client
        self.acceptor.recover()

    def _close(self) -> None:
        self.acceptor.close()

    def _kill(self) -> None:
        """The process is gone, and its apps with it: nothing is tidied up."""
        self.apps.stop_all()
        self.acceptor._held.close()
        self.acceptor._ground.blobs.close()

    def _owner(self) -> None:
        """The owner's file says port and window."""
        text = f'[ports]\nweb = {self.port}\n[interpreters]\npython3 = "/usr/bin/python3"\n'
        if self.model.window is not None:
            start, length = self.model.window
            minutes = start // 60
            text += (
                f'[[windows]]\nstart = "{minutes // 60:02}:{minutes % 60:02}"\n'
                f'length = "{length // 60}m"\n'
            )
        path = self.paths.app_toml(APP)
        path.write_text(text)
        path.chmod(0o600)

    # Looks

    def _look(self, offer: Offer) -> str:
        """Return what the node answers to what is offered, by its own rule and its own floors."""
        judge, source = self.acceptor._judge, self.bench.source()
        verdict = judge.again(offer.docs)
        judge._remember(offer.docs, verdict)
        answer = self.acceptor._installer.act(
            APP, Judgement(verdict, offer.docs), source, Told(), nonce="0" * 32, confirm="none"
        )
        return f"{answer.kind} {answer.reason}".strip()

    def _offer(self, data: st.DataObject) -> Offer:
        # Mostly the newest that was seen and the next one; an old plan, which never counts, too.
        newest = max((n for n in range(len(BAD)) if self._seq_of(n) <= self.model.seen), default=0)
        step = data.draw(st.sampled_from((0, 0, 0, 1, 1, 2, -1)), label="step")
        number = min(max(0, newest + step), len(BAD) - 1)
        return self.world.offers[number, data.draw(st.sampled_from(GATES), label="gate")]

    def _seq_of(self, number: int) -> int:
        return self.world.offers[number, "open"].seq

    @initialize()
    def begin(self) -> None:
        """Nothing is installed."""

    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        """A look at what is published."""
        offer = self._offer(data)
        said = self.model.act(offer)
        got = self._look(offer)
        assert got == said, self._record()

    @rule(data=st.data(), state=st.sampled_from(SLOW))
    def slow(self, data: st.DataObject, state: State) -> None:
        """A look, and all the time of one state passes at once."""
        offer = self._offer(data)
        said = self.model.act(offer, state)
        with jumping(state, must=False) as clock:
            got = self._look(offer)
        type(self).slowed += bool(clock.by)
        assert got == said, self._record()

    @rule(data=st.data(), at=st.integers(1, 260), days=st.booleans())
    def crash(self, data: st.DataObject, at: int, days: bool) -> None:
        """The process ends at some write of a look; then, at once or days later, it is started
        again.
        """
        offer = self._offer(data)
        would = Model(**{**vars(self.model), "tries": dict(self.model.tries)})
        would.act(offer)

        def end(number: int) -> None:
            if number >= at:
                raise Crash

        faults = Faults(each=end)
        crashed = False
        with faults:
            faults.arm()
            try:
                self._look(offer)
            except Crash:
                crashed = True
        faults.disarm()
        if not crashed:
            self.model = would
            return
        type(self).crashes += 1
        self._kill()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(deadline, "uptime_ms", clock := Moved())
            if days:
                clock.jump()
            self._open()
        self._after_crash(offer, would)

    def _after_crash(self, offer: Offer, would: Model) -> None:
        """Either it was not begun, or it is done, or it went back; never anything between."""
        model, record = self.model, self._record()
        app = self.acceptor._ground.floors.load().app(APP)
        committed = app.committed.seq if app.committed else 0
        old, new = (m.committed.seq if m.committed else 0 for m in (model, would))
        assert committed in (old, new)
        if committed == new != old:
            self.model = would
            self.model.staged = None
            model = self.model
        tries = app.tries.get(self._plan(offer), 0)
        allowed = {model.tries.get(offer.number, 0), would.tries.get(offer.number, 0)}
        assert tries in allowed, "a crash is nobody's fault"
        if tries:
            model.tries[offer.number] = tries
        assert app.seen_seq in (model.seen, would.seen)
        assert (app.gate_seq, app.gseq) in (model.gate, would.gate)
        model.seen, model.gate = app.seen_seq, (app.gate_seq, app.gseq)
        model.staged = None
        is_degraded = record is not None and record.state is State.DEGRADED
        if is_degraded:
            # Only where what it would go back to is denied.
            assert model.committed is not None
            assert model.committed.number in model.denied or model.is_degraded
        model.is_degraded = is_degraded
        model.running = None if is_degraded else model.committed
        if record is not None:
            assert record.interruptions <= model.interruptions + 1
            model.interruptions = record.interruptions
            about = next(
                (o for o in self.world.offers.values() if self._plan(o) == record.to.plan), None
            )
            assert about is not None
            model.retry = (about.number, record.attempt, record.retry_at)

    @staticmethod
    def _plan(offer: Offer) -> str:
        return offer.docs.plan_digest

    # The world around it

    @rule()
    def restart(self) -> None:
        """Stopped and started again."""
        self._close()
        self._open()
        self._rested()

    @rule()
    def boot(self) -> None:
        """Another boot."""
        self._kill()
        self.boots += 1
        file = self.root / "boot_id"
        file.write_text(f"{self.boots:032x}\n")
        deadline._BOOT_ID = file
        self._open()
        self._rested()

    def _rested(self) -> None:
        if self.model.staged is not None:
            self.model.retry = (self.model.retry[0], self.model.retry[1], 0)
        self.model.staged = None
        if not self.model.is_degraded:
            self.model.running = self.model.committed

    @rule(hours=st.integers(1, 5))
    def hold(self, hours: int) -> None:
        """The owner holds the app."""
        made = hold.put(self.paths, APP, seconds=hours * 3600, reason="quarter")
        self.model.held_until = made.end

    @rule()
    def unhold(self) -> None:
        """The owner lets it go."""
        hold.take_away(self.paths, APP)
        self.model.held_until = 0

    @rule(hours=st.integers(-3, 3), length=st.integers(1, 5))
    def window(self, hours: int, length: int) -> None:
        """The owner names the hours in which the app may be changed."""
        start = int((self.model.now + hours * 3600) % 86400) // 60 * 60
        self.model.window = (start, length * 3600)
        self._owner()

    @rule()
    def no_window(self) -> None:
        """The owner lets it be changed at any time."""
        self.model.window = None
        self._owner()

    @rule(seconds=st.integers(-120, 3600))
    def clock(self, seconds: int) -> None:
        """The clock goes on, or is set back a little."""
        self.ahead = min(max(0.0, self.ahead + seconds), 12 * 3600)
        self.model.now = self.base + self.ahead

    @rule()
    @precondition(lambda self: self.model.committed is not None)
    def year_back(self) -> None:
        """A clock that is a year behind installs nothing, and what runs goes on."""
        before, self.ahead = self.ahead, self.ahead - timedelta(days=365).total_seconds()
        try:
            offer = self.world.offers[len(BAD) - 1, "third"]
            assert self._look(offer) == "wait clock_behind"
        finally:
            self.ahead = before

    @rule(number=st.integers(0, len(BAD) - 1))
    def deny(self, number: int) -> None:
        """The security team denies a manifest."""
        plan = self.world.offers[number, "open"].docs.plan
        assert plan is not None
        digest = plan.manifest.sha256
        self.acceptor._ground.floors.change(
            lambda floors: msgspec.structs.replace(
                floors,
                union=msgspec.structs.replace(
                    floors.union, manifests={**floors.union.manifests, digest: 1}
                ),
            )
        )
        self.model.denied.add(number)

    # What must be true after each step

    def _record(self) -> Record | None:
        return self.acceptor._ground.journal.read(APP).record

    @invariant()
    def the_node_is_as_the_model_says(self) -> None:
        """Compare all of it."""
        type(self).steps += 1
        model, record = self.model, self._record()
        app = self.acceptor._ground.floors.load().app(APP)
        assert (app.committed.seq if app.committed else 0) == _seq(model.committed)
        assert (app.previous.seq if app.previous else 0) == _seq(model.previous)
        plans = {n: self._plan(self.world.offers[n, "open"]) for n in model.tries}
        tries = {plans[n]: count for n, count in model.tries.items()}
        assert {plan: count for plan, count in app.tries.items() if count} == tries
        assert app.seen_seq == model.seen
        assert (app.gate_seq, app.gseq) == model.gate
        running = self.apps.running(APP)
        now = int(running.unit.release.partition("-")[0]) if running else 0
        assert now == _seq(model.running)
        link = linked(self.acceptor._ground, APP)
        assert (int(link.partition("-")[0]) if link else 0) == _seq(model.running)
        if record is not None:
            assert record.transitions <= 32
            assert record.interruptions == model.interruptions
            wanted = State.WAITING if model.staged else State.IDLE
            assert record.state is (State.DEGRADED if model.is_degraded else wanted)
        if model.running is not None and model.running is model.committed:
            (found,) = verify(self.paths, APP, deep=False)
            assert found.drift == ()


def _seq(offer: Offer | None) -> int:
    return offer.seq if offer else 0


def _run(examples: int, steps: int) -> None:
    InstallerMachine.steps = InstallerMachine.crashes = InstallerMachine.slowed = 0
    run_state_machine_as_test(
        InstallerMachine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, phases=[Phase.generate]
        ),
    )


@pytest.fixture(scope="module", autouse=True)
def tidy() -> Iterator[None]:
    """The world is gone at the end."""
    yield
    with contextlib.suppress(OSError):
        shutil.rmtree(world().template.parent)
    world.cache_clear()


def test_the_installer_does_what_the_model_says() -> None:
    _run(5, 40)
    assert InstallerMachine.steps >= 100


@pytest.mark.long
def test_the_installer_does_what_the_model_says_for_long() -> None:
    _run(240, 50)  # some end before their 50th step
    print(f"figure: state_machine_steps = {InstallerMachine.steps} steps")
    print(f"figure: state_machine_deadlines = {InstallerMachine.slowed} states")
    print(f"figure: state_machine_crashes = {InstallerMachine.crashes} crashes")
    assert InstallerMachine.steps >= 200 * 50
