"""Each state has a time as a whole, on disk; at its end comes what the table of states says.

The clock that counts (CLOCK_BOOTTIME) is moved in the middle of real installs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import msgspec
import pytest

from embrasure.bundle.manifest import Hook
from embrasure.errors import Unavailable
from embrasure.trust.receipt import Outcome, Reason
from node import deadline
from node.config import load_app
from node.deadline import Deadline
from node.ground import Silent
from node.journal import Journal
from node.placing import Placer
from node.states import Record, State
from node.transaction import Transaction
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller, Told
from tests.simulate.sweep_install import sign_of_life

LONG_MS = 10**9  # 11 days: longer than any state may take
S = State


class Moved:
    """CLOCK_BOOTTIME, ahead of itself by `by` milliseconds."""

    def __init__(self) -> None:
        self.by = 0
        self._real = deadline.uptime_ms

    def __call__(self) -> int:
        return self._real() + self.by

    def jump(self) -> None:
        """It is far later from now on."""
        self.by += LONG_MS


@contextmanager
def jumping(state: State, *, must: bool = True) -> Iterator[Moved]:
    """As soon as `state` is on disk for the first time, all of its time passes at once.

    must: it has to come to that
    """
    real, clock, seen = Journal.write, Moved(), list[State]()

    def write(self: Journal, record: Record) -> None:
        real(self, record)
        if record.state is state and not seen:
            seen.append(state)
            clock.jump()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "write", write)
        patch.setattr(deadline, "uptime_ms", clock)
        yield clock
    assert seen or not must, f"it never came to {state}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimInstaller]:
    """One node for all of this file: each test goes on from what the one before it left."""
    bench = SimInstaller(tmp_path_factory.mktemp("node"), inner=True)
    yield bench
    bench.close()


@pytest.fixture
def bench(shared: SimInstaller) -> Iterator[SimInstaller]:
    """The node, on which a good release runs; `version` says which one."""
    committed(shared)
    shared.report = Told()
    yield shared
    if shared.acceptor._ground.halt.is_set():
        shared.open()


_NUMBERS = itertools.count(1)


def committed(bench: SimInstaller) -> str:
    """Return the version of a new release that is committed and runs."""
    bench.clock.ahead += timedelta(hours=2)  # whatever was interrupted may be tried again
    version = offer(bench)
    assert bench.poll() == "committed"
    return version


def offer(bench: SimInstaller, mode: str = "good", **how: object) -> str:
    """Return the version of a new release that is published."""
    version = f"{next(_NUMBERS)}.0"
    release = bench.make(version, mode, probes=[sign_of_life()], **how)  # type: ignore[arg-type]  # by name
    bench.publish(release=release)
    return version


def record_of(bench: SimInstaller) -> Record:
    found = Journal(bench.paths).read(bench.app).record
    assert found is not None
    return found


def runs(bench: SimInstaller) -> str:
    """Return the version that runs."""
    running = bench.supervisor.running(bench.app)
    return (running.unit.cwd / "config/version").read_text() if running else ""


ENDS = {
    S.OFFERED: "rejected late",
    S.RESERVED: "rejected late",
    S.FETCHING: "rejected fetch",
    S.VERIFIED: "rejected late",
    S.STAGED: "rejected late",
    S.PREPARING: "interrupted late",
    S.QUIESCING: "interrupted late",
    S.SWITCHING: "interrupted late",
    S.STARTING: "interrupted late",
    S.PROBING: "interrupted late",
}


def tries(bench: SimInstaller) -> dict[str, int]:
    """Return which tries are burnt."""
    return dict(bench.acceptor._ground.floors.load().app(bench.app).tries)


@pytest.mark.misuse
@pytest.mark.parametrize("state", ENDS)
def test_a_state_that_takes_too_long_ends_as_the_table_says(
    bench: SimInstaller, ablation: Ablation, state: State
) -> None:
    old, before, new = runs(bench), tries(bench), offer(bench)
    with jumping(state):
        assert bench.poll() == ENDS[state]
    assert (runs(bench), record_of(bench).state, tries(bench)) == (old, S.IDLE, before)
    if state is not S.FETCHING:  # its next try goes on at the byte, at once
        assert bench.told()[-1].reason is Reason.LATE
        assert bench.poll() == "wait later"
        bench.clock.ahead += timedelta(hours=2)
    with ablation("the time of each state") as attack:
        attack.without("node.transaction.Transaction.check_time")
        with jumping(state):
            # Whatever holds the one slot of this node may hold it for days.
            attack.succeeded(bench.poll() == "committed" and runs(bench) == new)


@pytest.mark.misuse
@pytest.mark.parametrize("state", [S.ROLLING_BACK, S.ROLLBACK_PROBING])
def test_a_way_back_that_takes_too_long_calls_a_person(
    bench: SimInstaller, ablation: Ablation, state: State
) -> None:
    old = runs(bench)
    offer(bench, "crash")
    with jumping(state):
        assert bench.poll() == "degraded crash-loop"
    record = record_of(bench)
    assert (record.state, str(state) in record.detail) == (S.DEGRADED, True)
    # An old release that cannot be probed in time is still the best there is.
    assert runs(bench) == (old if state is S.ROLLBACK_PROBING else "")
    old = committed(bench)
    offer(bench, "crash")
    with ablation("the time of the way back") as attack:
        attack.without("node.transaction.Transaction.check_time")
        with jumping(state):
            attack.succeeded(bench.poll() == "rolled_back crash-loop" and runs(bench) == old)


@pytest.mark.parametrize("state", [S.COMMITTED, S.CLEANING])
def test_a_commit_is_final_however_long_what_follows_takes(
    bench: SimInstaller, state: State
) -> None:
    hook = Hook(point="finish", argv=("sh", "-c", "sleep 60"), timeout_s=3600)
    hooks = (hook,) if state is S.COMMITTED else ()
    new = offer(bench, change=lambda one: msgspec.structs.replace(one, hooks=hooks))
    with jumping(state):
        assert bench.poll() == "committed"
    assert (runs(bench), bench.told()[-1].outcome) == (new, Outcome.OK)


@pytest.mark.misuse
def test_a_build_is_given_up_between_two_files(bench: SimInstaller, ablation: Ablation) -> None:
    old = runs(bench)
    offer(bench, files={f"code/{number}": b"%d" % number for number in range(40)})
    placed, real, clock = list[str](), Placer.place, Moved()

    def place(*args: object) -> object:
        placed.append(str(args[2]))
        if len(placed) == 5:
            clock.jump()
        return real(*args)  # type: ignore[arg-type]  # what it was given

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Placer, "place", place)
        patch.setattr(deadline, "uptime_ms", clock)
        assert bench.poll() == "rejected late"
        assert (len(placed), runs(bench)) == (5, old)
        placed.clear()
        bench.clock.ahead += timedelta(hours=2)
        with ablation("the look at the clock before each file") as attack:
            attack.without("node.tree.tick")
            bench.poll()
            attack.succeeded(len(placed) > 40)


@pytest.mark.misuse
def test_a_look_at_what_waits_has_its_time_too(bench: SimInstaller, ablation: Ablation) -> None:
    old, new, real, clock = runs(bench), offer(bench), Transaction.hook, Moved()

    def hook(self: Transaction, *args: object) -> object:
        if self.record.state is S.WAITING:
            clock.jump()
        return real(self, *args)  # type: ignore[arg-type]  # what it was given

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transaction, "hook", hook)
        patch.setattr(deadline, "uptime_ms", clock)
        assert bench.poll() == "rejected late"
        assert runs(bench) == old
        bench.clock.ahead += timedelta(hours=2)
        with ablation("the time of one look") as attack:
            attack.without("node.transaction.Transaction.check_time")
            attack.succeeded(bench.poll() == "committed" and runs(bench) == new)


@pytest.mark.misuse
def test_a_hook_is_ended_with_its_state_and_bears_no_blame(
    bench: SimInstaller, ablation: Ablation
) -> None:
    hook = Hook(point="migrate", argv=("sh", "-c", "sleep 1"), timeout_s=3600)
    back = Hook(point="revert", argv=("sh", "-c", "true"), timeout_s=5)
    old, before = runs(bench), tries(bench)
    offer(bench, change=lambda one: msgspec.structs.replace(one, hooks=(hook, back)))
    real, clock = Transaction.note, Moved()

    def note(self: Transaction, **changes: object) -> None:
        real(self, **changes)
        if changes == {"migrated": "started"}:
            # 0.2 s are left of the state when its hook begins.
            assert self._term is not None
            clock.by += int(deadline.left_s(self._term) * 1000) - 200

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transaction, "note", note)
        patch.setattr(deadline, "uptime_ms", clock)
        assert bench.poll() == "interrupted late"
        assert (runs(bench), record_of(bench).migrated, tries(bench)) == (old, "no", before)
        bench.clock.ahead += timedelta(hours=2)
        with ablation("who is to blame for the end of a hook") as attack:
            attack.without("node.transaction.Transaction.check_time")
            # A slow machine has condemned a release.
            attack.succeeded(bench.poll() == "rolled_back hook")


# What was on disk when the node went down


def cut_at(bench: SimInstaller, state: State) -> Record:
    """Return the record of a node that was stopped as soon as `state` was on disk."""
    real = Journal.write

    def write(self: Journal, record: Record) -> None:
        real(self, record)
        if record.state is state:
            bench.acceptor.halt()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "write", write)
        with pytest.raises(Unavailable):
            bench.poll()
    bench.close()
    record = record_of(bench)
    assert record.state is state
    return record


@contextmanager
def later(*, boot: str = "") -> Iterator[None]:
    """The node was off for days; boot: it was another boot."""
    clock = Moved()
    clock.jump()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deadline, "uptime_ms", clock)
        if boot:
            patch.setattr(deadline, "boot_id", lambda: boot)
        yield


@pytest.mark.misuse
def test_a_state_whose_time_passed_while_the_agent_was_dead_is_over(
    bench: SimInstaller, ablation: Ablation
) -> None:
    old, burnt, new = runs(bench), tries(bench), offer(bench)
    before = cut_at(bench, S.PROBING)
    assert isinstance(before.by, Deadline) and before.by.left_ms > 0
    copy = (bench.paths.journal / "shop.json").read_bytes()
    with later():
        bench.open()
    record = record_of(bench)
    assert (record.ending, record.reason, runs(bench)) == ("interrupted", "late", old)
    assert tries(bench) == burnt
    bench.close()
    with ablation("the deadline in the record") as attack:
        attack.without("node.recovery._is_late", lambda _: False)
        (bench.paths.journal / "shop.json").write_bytes(copy)
        link = bench.paths.current(bench.app)
        link.unlink()
        link.symlink_to(f"releases/{before.to.id}")
        with later():
            bench.open()
        # Days later it goes on as if nothing had been.
        attack.succeeded(runs(bench) == new)


def test_after_another_boot_the_time_that_was_left_counts_again(bench: SimInstaller) -> None:
    new = offer(bench)
    cut_at(bench, S.PROBING)
    with later(boot="ab" * 16):
        bench.open()
    assert (record_of(bench).ending, runs(bench)) == ("committed", new)


@pytest.mark.misuse
@pytest.mark.parametrize("boot", ["", "ab" * 16])
def test_a_way_back_has_all_the_time_that_it_had_however_long_the_node_was_off(
    bench: SimInstaller, ablation: Ablation, boot: str
) -> None:
    def went_back() -> str:
        offer(bench, "crash")
        cut_at(bench, S.ROLLING_BACK)
        with later(boot=boot):
            bench.open()
        return record_of(bench).ending

    old = runs(bench)
    assert (went_back(), runs(bench)) == ("rolled_back", old)
    with ablation("the time that is only that of those who work") as attack:
        attack.without(
            "node.transaction.resumed",
            lambda one: msgspec.structs.replace(one, boot=deadline.boot_id(), until_ms=0),
        )
        # A service that could have come back is down.
        attack.succeeded(went_back() == "degraded" and not runs(bench))


def test_what_is_left_of_a_way_back_shrinks_with_each_crash_and_is_never_nothing(
    bench: SimInstaller,
) -> None:
    offer(bench, "crash")
    record = cut_at(bench, S.ROLLING_BACK)
    assert isinstance(record.by, Deadline)
    record = msgspec.structs.replace(record, by=msgspec.structs.replace(record.by, left_ms=10))
    config = load_app(bench.paths, bench.app)
    tx = Transaction(bench.acceptor._ground, record, config, Silent(), {})
    assert isinstance(tx.record.by, Deadline)
    assert 29 < deadline.left_s(tx.record.by) <= 30
