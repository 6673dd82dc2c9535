"""Recovery on a real disk: what is broken is set aside, what is whole runs, in that order."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from embrasure.bundle.manifest import Hook, Manifest
from embrasure.errors import EmbrasureError, Failed
from embrasure.trust.receipt import Outcome
from node import recovery
from node.accept import Acceptor
from node.config import load_config
from node.ground import Ground
from node.journal import Journal
from node.states import Record, Release, State
from tests.ablation import Ablation
from tests.simulate.faults import Faults
from tests.simulate.inner import InnerApps
from tests.simulate.installer import SimInstaller


def cut_at(
    bench: SimInstaller,
    monkeypatch: pytest.MonkeyPatch,
    state: State,
    *,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> None:
    """Install 2.0 and lose power as soon as `state` is on disk."""
    bench.publish(release=bench.make("2.0", change=change))
    cut(bench, monkeypatch, state)


def cut(bench: SimInstaller, monkeypatch: pytest.MonkeyPatch, state: State) -> None:
    """Look at what is published and lose power as soon as `state` is on disk."""
    real = Journal.write

    def write(self: Journal, record: Record) -> None:
        real(self, record)
        if record.state is state:
            bench.acceptor._ground.halt.set()

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", write)
        with pytest.raises(EmbrasureError):
            bench.poll()
    bench.close()


def record_of(bench: SimInstaller) -> Record:
    found = Journal(bench.paths).read(bench.app).record
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("state", "version"),
    [
        (State.FETCHING, "1.0"),
        (State.WAITING, "1.0"),
        (State.PREPARING, "1.0"),
        (State.QUIESCING, "1.0"),
        (State.SWITCHING, "1.0"),
        (State.STARTING, "2.0"),
        (State.PROBING, "2.0"),
        (State.PROVISIONAL, "2.0"),
        (State.COMMITTED, "2.0"),
        (State.CLEANING, "2.0"),
    ],
)
def test_a_node_cut_off_in_any_state_comes_to_rest_by_itself(
    running: SimInstaller, monkeypatch: pytest.MonkeyPatch, state: State, version: str
) -> None:
    cut_at(running, monkeypatch, state)
    assert record_of(running).state is state
    running.open()
    assert running.ask() == version
    assert record_of(running).state is State.IDLE
    before = record_of(running)
    running.restart()
    # Twice is once.
    assert record_of(running) == before
    assert running.ask() == version


@pytest.mark.misuse
def test_content_that_takes_the_node_down_before_it_is_prepared_is_not_tried_at_once(
    running: SimInstaller, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    """Whatever fetch or build dies of: no blame, and a minute later, doubling."""
    cut_at(running, monkeypatch, State.OFFERED)
    for number, state in enumerate((State.FETCHING, State.VERIFIED, None), 1):
        running.open()
        record, now = record_of(running), int(running.clock().timestamp())
        assert (record.ending, record.reason, record.interruptions) == ("rejected", "power", number)
        assert 60 * 2 ** (number - 1) - 10 < record.retry_at - now <= 60 * 2 ** (number - 1)
        assert running.poll() == "wait later"
        assert running.acceptor._ground.floors.load().app(running.app).tries == {}
        running.clock.ahead += timedelta(seconds=60 * 2 ** (number - 1))
        if state is not None:
            cut(running, monkeypatch, state)
    assert running.poll() == "committed"
    cut_at(running, monkeypatch, State.FETCHING)
    with ablation("the time before the next try") as attack:
        attack.without("node.recovery.next_try", lambda tx: {"retry_at": 0})
        running.open()
        cut(running, monkeypatch, State.FETCHING)  # at once, and so on for ever
        attack.succeeded(record_of(running).state is State.FETCHING)
    running.open()


def test_what_waited_for_its_moment_was_not_cut_off(
    running: SimInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(running, monkeypatch, State.WAITING)
    running.open()
    assert (record_of(running).interruptions, running.poll()) == (0, "committed")


def test_a_prepare_that_failed_burns_its_try_though_the_end_was_cut_off(
    running: SimInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = Hook(point="prepare", argv=("sh", "-c", "exit 1"), timeout_s=5)
    cut_at(running, monkeypatch, State.ROLLED_BACK,
           change=lambda manifest: msgspec.structs.replace(manifest, hooks=(hook,)))  # fmt: skip
    running.open()
    assert (record_of(running).state, record_of(running).ending) == (State.IDLE, "rolled_back")
    assert running.poll() == "hold quarantine"
    assert [one.outcome for one in running.told()].count(Outcome.ROLLED_BACK) == 1


def test_a_torn_journal_is_set_aside_and_the_app_runs(running: SimInstaller) -> None:
    running.close()
    for path in running.paths.journal.glob("shop.*"):
        path.write_bytes(b"\x00")
    running.open()
    assert running.ask() == "1.0"
    assert running.poll() == "none done"
    assert (running.paths.journal / "shop.json.broken").exists()


def test_a_release_that_was_damaged_while_it_was_probed_is_not_started_again(
    running: SimInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(running, monkeypatch, State.PROBING)
    damage(running.paths.current(running.app) / "config/mode", b"evil")
    running.open()
    assert running.ask() == "1.0"
    assert (record_of(running).ending, record_of(running).reason) == ("interrupted", "power")
    # No blame: nothing is burnt, and the content comes again later.
    assert running.acceptor._ground.floors.load().app(running.app).tries == {}
    assert running.poll() == "wait later"


def damage(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def test_a_node_whose_releases_are_all_destroyed_says_so_and_takes_the_next_plan(
    running: SimInstaller,
) -> None:
    running.close()
    (running.paths.current(running.app) / "code/main.py").unlink()
    running.open()
    assert record_of(running).state is State.DEGRADED
    assert running.supervisor.running(running.app) is None
    running.publish("2.0")
    assert running.poll() == "committed"
    assert running.ask() == "2.0"


def test_a_node_whose_only_release_could_not_be_read_once_runs_it_at_the_next_start(
    running: SimInstaller,
) -> None:
    """One start with a folder of the wrong owner ended in DEGRADED; each later one started the
    whole, committed release, then stopped it and took the link away.
    """
    running.close()
    folder = running.paths.release(running.app, running.paths.current(running.app).readlink().name)
    away = folder.rename(running.paths.prefix / "away")
    running.open()
    assert record_of(running).state is State.DEGRADED
    running.close()
    away.rename(folder)
    for _ in range(2):
        running.open()
        assert (record_of(running).state, running.ask()) == (State.IDLE, "1.0")
        running.close()
    running.open()


def test_a_defect_that_one_app_meets_does_not_stop_the_next(
    running: SimInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.close()
    (running.paths.opt / "a-first").mkdir()
    real = recovery._known

    def known(ground: Ground, app: str, record: Record | None) -> dict[str, Release]:
        if app == "a-first":
            raise RecursionError
        return real(ground, app, record)

    monkeypatch.setattr(recovery, "_known", known)
    with pytest.raises(Failed, match="a-first") as found:
        running.open()
    assert (found.value.reason, running.ask()) == ("internal", "1.0")


@pytest.mark.parametrize(
    "state", [State.QUIESCING, State.SWITCHING, State.STARTING, State.ROLLING_BACK]
)
def test_a_disk_that_takes_no_state_never_stops_the_service(
    running: SimInstaller, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    running.publish("2.0", "bad" if state is State.ROLLING_BACK else "good")
    full = full_from(state)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", full(Journal.write))
        with pytest.raises(Failed):
            running.poll()
        assert running.ask() == "1.0"
    # Once the disk takes states again, everything comes to rest.
    running.restart()
    running.poll()
    assert record_of(running).state is State.IDLE
    assert running.ask() in ("1.0", "2.0")


def full_from(
    state: State,
) -> Callable[[Callable[[Journal, Record], None]], Callable[[Journal, Record], None]]:
    """Return a wrapper after which no record from `state` on can be written."""

    def wrap(real: Callable[[Journal, Record], None]) -> Callable[[Journal, Record], None]:
        is_full: list[bool] = []

        def write(self: Journal, record: Record) -> None:
            if record.state is state:
                is_full.append(True)
            if is_full:
                raise Failed("journal", expected="room", got="none", reason="no-space")
            real(self, record)

        return write

    return wrap


@pytest.mark.parametrize("ballast", [True, False])
def test_a_start_on_a_read_only_disk_serves(running: SimInstaller, ballast: bool) -> None:
    """The lock was opened to be written, and a ballast that could not be kept ended the start."""
    running.close()
    if not ballast:
        (running.paths.journal / "ballast").unlink()
    supervisor = InnerApps(running.paths)
    with Faults(fail_at=1, error=errno.EROFS, lasting=True) as faults:
        faults.arm()
        acceptor = Acceptor(
            running.paths, load_config(running.paths), running.identity, supervisor,
            clock=running.clock,
        )  # fmt: skip
        with closing(acceptor):
            with suppress(EmbrasureError):
                acceptor.recover()
            assert supervisor.running("shop") is not None
    running.open()
