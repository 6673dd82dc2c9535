"""Download early, install in the window: what waits, for what, until when, what it may not do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from embrasure.config import parse_toml
from embrasure.errors import Misuse
from node import hold, windows
from node.config import AppConfig
from node.records import NodeRecords
from node.show import state_text
from node.states import State
from node.windows import Pause, Window
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller, Told, free_port
from tests.simulate.sources import DeadSource, MemorySource

MONDAY = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def pause(moment: str, *found: Window, need_s: int = 600) -> Pause:
    return windows.pause(found, at(moment), need_s=need_s)


def opens(moment: str, *found: Window, need_s: int = 600) -> str:
    """Return "open", or when it opens (UTC), or the word for never."""
    shut = pause(moment, *found, need_s=need_s)
    if not shut.reason:
        return "open"
    if shut.reason != "window":
        return shut.reason
    return datetime.fromtimestamp(shut.until, tz=UTC).isoformat(timespec="minutes")


NIGHT = Window(start="02:00", length="2h", zone="Europe/Berlin")
SUNDAY = Window(start="22:00", length="8h", days=("sun",), zone="Europe/Berlin")


def test_no_window_is_always_open() -> None:
    assert opens("2026-05-04T12:00+00:00") == "open"


def test_a_window_is_open_by_the_wall_clock_of_its_zone() -> None:
    assert opens("2026-05-04T02:00+02:00", NIGHT) == "open"
    assert opens("2026-05-04T01:59+02:00", NIGHT) == "2026-05-04T00:00+00:00"
    assert opens("2026-01-04T02:30+01:00", NIGHT) == "open"  # winter, one hour later in UTC
    assert opens("2026-01-04T02:30+02:00", NIGHT) == "2026-01-04T01:00+00:00"


def test_there_must_be_room_for_the_sum_of_the_time_outs() -> None:
    assert opens("2026-05-04T03:50+02:00", NIGHT, need_s=600) == "open"
    assert opens("2026-05-04T03:51+02:00", NIGHT, need_s=600) == "2026-05-05T00:00+00:00"
    assert opens("2026-05-04T02:00+02:00", NIGHT, need_s=7200) == "open"
    assert opens("2026-05-04T02:00+02:00", NIGHT, need_s=7201) == "window_short"
    assert pause("2026-05-04T02:00+02:00", NIGHT, need_s=7201).kind == "hold"


def test_a_window_may_pass_midnight_and_touching_ones_are_one() -> None:
    assert opens("2026-05-04T01:00+02:00", SUNDAY) == "open"  # Monday, in Sunday's window
    assert opens("2026-05-05T01:00+02:00", SUNDAY) == "2026-05-10T20:00+00:00"
    halves = (
        Window(start="22:00", length="2h", days=("sun",)),
        Window(start="00:00", length="2h", days=("mon",)),
    )
    assert opens("2026-05-03T22:30+00:00", *halves, need_s=3 * 3600) == "open"
    assert opens("2026-05-03T22:30+00:00", halves[0], need_s=3 * 3600) == "window_short"
    day = Window(start="00:00", length="24h")
    assert opens("2026-05-03T23:59+00:00", day, need_s=5 * 86400) == "open"


def test_a_week_long_window_covers_its_last_day() -> None:
    week = Window(start="12:00", length="7d", days=("mon",))
    assert opens("2026-05-11T11:00+00:00", week, need_s=60) == "open"


def test_a_start_that_the_clock_skips_is_moved_and_one_that_comes_twice_counts_once() -> None:
    early = Window(start="02:30", length="30m", zone="Europe/Berlin")
    # 29 March 2026: 02:00 is followed by 03:00 summer time.
    assert opens("2026-03-29T00:59+00:00", early) == "2026-03-29T01:30+00:00"
    assert opens("2026-03-29T03:35+02:00", early) == "open"
    # 25 October 2026: 02:30 comes twice, in summer time first.
    assert opens("2026-10-25T02:35+02:00", early) == "open"
    assert opens("2026-10-25T02:35+01:00", early) == "2026-10-26T01:30+00:00"
    # A window across the jump lasts its real minutes.
    long = Window(start="01:00", length="3h", zone="Europe/Berlin")
    assert opens("2026-03-29T04:45+02:00", long) == "open"
    assert opens("2026-03-29T05:00+02:00", long) == "2026-03-29T23:00+00:00"


@pytest.mark.misuse
def test_a_zone_that_nobody_knows_keeps_the_window_shut(ablation: Ablation) -> None:
    lost = Window(start="00:00", length="24h", zone="Europe/Berln")
    shut = pause("2026-05-04T12:00+00:00", lost)
    assert (shut.reason, shut.kind) == ("zone", "hold")
    assert "Europe/Berln" in shut.detail
    with ablation("the zone's own name: UTC would be as good") as attack:
        attack.without("embrasure.weekly.zone_of", lambda name: UTC)
        attack.succeeded(opens("2026-05-04T12:00+00:00", lost) == "open")


@pytest.mark.parametrize(
    "wrong",
    [
        'start = "24:00"\nlength = "1h"',
        'start = "02:00"\nlength = "8d"',
        'start = "02:00"\nlength = "0h"',
        'start = "02:00"\nlength = "1h"\ndays = []',
        'start = "02:00"\nlength = "1h"\ndays = ["sunday"]',
        'start = "02:00"\nlength = "1h"\nzone = "../../etc/passwd"',
        'start = "02:00"\nlength = "1h"\nzone = "/etc/localtime"',
    ],
)
def test_a_window_that_makes_no_sense_is_told_by_its_key(wrong: str) -> None:
    with pytest.raises(Misuse, match="windows"):
        parse_toml(f"[[windows]]\n{wrong}\n".encode(), AppConfig, thing="shop.toml")


# --- A real node --------------------------------------------------------------------------------


def window_from_now(bench: SimInstaller, hours: float, length: str = "4h") -> None:
    """The owner lets the app be changed from `hours` from now on, for `length`."""
    start = (bench.clock() + timedelta(hours=hours)).replace(second=0)
    text = f'[[windows]]\nstart = "{start:%H:%M}"\nlength = "{length}"\n'
    path = bench.paths.app_toml(bench.app)
    base = path.read_text().partition("[[windows]]")[0]
    path.write_text(base + text)


def state_of(bench: SimInstaller) -> State:
    record = bench.acceptor._ground.journal.read(bench.app).record
    assert record is not None
    return record.state


def staged(bench: SimInstaller) -> list[str]:
    return sorted(path.name for path in bench.paths.releases(bench.app).iterdir())


def metadata_only(bench: SimInstaller) -> MemorySource:
    """A source that has lost every blob."""
    return MemorySource({k: v for k, v in bench.repo.files.items() if not k.startswith("blobs/")})


def test_a_release_is_fetched_before_its_window_and_installed_in_it(running: SimInstaller) -> None:
    window_from_now(running, 2)
    running.publish("2.0")
    pid = running.supervisor.running(running.app)
    assert running.poll() == "wait window"
    assert (state_of(running), len(staged(running))) == (State.WAITING, 2)
    assert running.ask() == "1.0"
    assert running.supervisor.running(running.app) == pid
    (app,) = NodeRecords(running.paths).state().apps
    assert app.state == "waiting"
    assert app.until > running.clock().timestamp() + 3000
    assert "waits for a window" in state_text(NodeRecords(running.paths).state(), is_running=True)
    running.clock.ahead = timedelta(hours=2, minutes=1)

    assert running.poll(metadata_only(running)) == "committed"
    assert running.ask() == "2.0"


@pytest.mark.misuse
def test_an_order_does_not_open_the_owners_window(
    running: SimInstaller, ablation: Ablation
) -> None:
    window_from_now(running, 2)
    running.publish("2.0")
    answer = running.acceptor.order(running.order(oseq=1), running.source(), Told())
    assert (answer.kind, answer.reason) == ("wait", "window")
    with ablation("the look at the owner's windows") as attack:
        attack.without("node.windows.pause", lambda *_, **__: Pause())
        attack.succeeded(running.poll() == "committed")


def test_what_waits_keeps_no_other_app_from_its_install(running: SimInstaller) -> None:
    window_from_now(running, 2)
    running.publish("2.0")
    assert running.poll() == "wait window"
    running.repo.add_app("tool")
    running.allow("tool", free_port())
    running.app = "tool"
    running.publish("1.0")
    answers = running.acceptor.poll(running.source(), Told())
    assert {one.app: one.kind for one in answers} == {"shop": "wait", "tool": "committed"}
    running.clock.ahead = timedelta(hours=2, minutes=1)
    answers = running.acceptor.poll(running.source(), Told())
    assert {one.app: one.kind for one in answers} == {"shop": "committed", "tool": "none"}
    assert running.ask() == "2.0"


def test_a_newer_plan_takes_the_place_of_one_that_waits(running: SimInstaller) -> None:
    window_from_now(running, 2)
    running.publish("2.0")
    assert running.poll() == "wait window"
    newer = running.publish("3.0")
    assert running.poll() == "wait window"
    record = running.acceptor._ground.journal.read(running.app).record
    assert record is not None and record.to.seq == newer.seq


def test_a_restart_while_it_waits_keeps_blobs_and_goes_on(running: SimInstaller) -> None:
    window_from_now(running, 2)
    running.publish("2.0")
    assert running.poll() == "wait window"
    running.restart()
    assert running.ask() == "1.0"
    assert state_of(running) is State.IDLE

    assert running.poll(metadata_only(running)) == "wait window"
    window_from_now(running, 0.5)
    assert running.poll() == "wait window"  # within the hour that a retry may wait at most
    running.restart()
    assert running.poll() == "wait window"
    running.restart()
    running.clock.ahead = timedelta(hours=2, minutes=1)
    assert running.poll() == "committed"


def test_a_closed_gate_and_a_hold_stage_as_well(running: SimInstaller) -> None:
    plan = running.publish("2.0")
    running.repo.set_gate(plan, state="paused")
    running.repo.publish()
    assert running.poll() == "wait paused"
    assert state_of(running) is State.WAITING
    hold.put(running.paths, running.app, seconds=3600, reason="quarter")
    assert running.poll() == "hold owner"
    assert state_of(running) is State.WAITING
    running.repo.set_gate(plan)
    running.repo.publish()
    assert running.poll() == "hold owner"
    hold.take_away(running.paths, running.app)
    assert running.poll() == "committed"


def test_a_plan_is_staged_before_its_gate_is_there(running: SimInstaller) -> None:
    release = running.repo.add_release(running.app, release=running.make("2.0"))
    plan = running.repo.set_plan(release, canary=[running.node])
    running.repo.publish()
    assert running.poll() == "wait gate"
    assert state_of(running) is State.WAITING
    running.repo.set_gate(plan)
    running.repo.publish()
    assert running.poll(metadata_only(running)) == "committed"
    assert running.ask() == "2.0"


def test_what_is_denied_while_it_waits_is_gone(running: SimInstaller) -> None:
    window_from_now(running, 2)
    running.publish("2.0")
    assert running.poll() == "wait window"
    assert running.release is not None
    running.repo.revoke(manifests=[running.release.digest])
    running.repo.publish()
    assert running.poll() == "hold denied"
    assert state_of(running) is State.IDLE
    assert running.poll() == "hold denied"


@pytest.mark.misuse
def test_what_was_changed_while_it_waited_does_not_run(
    running: SimInstaller, ablation: Ablation
) -> None:
    window_from_now(running, 2)
    running.publish("2.0")
    assert running.poll() == "wait window"

    def tamper() -> None:
        changed = running.paths.releases(running.app) / staged(running)[-1] / "config" / "version"
        changed.chmod(0o644)
        changed.write_bytes(b"9.9")
        changed.chmod(0o444)

    tamper()
    running.clock.ahead = timedelta(hours=2, minutes=1)
    assert running.poll() == "rejected fetch"
    assert running.ask() == "1.0"
    running.clock.ahead = timedelta()
    assert running.poll() == "wait window"
    tamper()
    running.clock.ahead = timedelta(hours=2, minutes=1)
    with ablation("the last look at what was staged") as attack:
        attack.without("node.waiting.is_whole", lambda *_, **__: True)
        attack.succeeded(running.poll() == "committed" and running.ask() == "9.9")


@pytest.mark.misuse
def test_a_slow_source_does_not_keep_the_slot_and_the_next_try_goes_on_at_the_byte(
    running: SimInstaller, ablation: Ablation
) -> None:
    big = bytes(range(256)) * 4096
    running.publish("2.0", release=running.make("2.0", files={"code/big": big}))

    class Slow(MemorySource):
        offsets: ClassVar[list[int]] = []

        def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
            if path.startswith("blobs/") and limit > 1000:
                self.offsets.append(offset)
                whole = b"".join(super().fetch(path, offset=offset, limit=limit))
                for start in range(0, len(whole), 200_000):
                    time.sleep(0.06)
                    yield whole[start : start + 200_000]
            else:
                yield from super().fetch(path, offset=offset, limit=limit)

    ground = running.acceptor._ground
    object.__setattr__(ground, "fetch_s", 0.1)
    assert running.poll(Slow(running.repo.files)) == "rejected fetch"
    assert running.ask() == "1.0"
    with ablation("how long one release may be fetched") as attack:
        attack.without("node.transaction.Transaction.check_time")
        attack.succeeded(running.poll(Slow(running.repo.files)) == "committed")
    assert Slow.offsets[0] == 0 < Slow.offsets[1], "resumed at the byte"


def test_a_window_that_is_too_short_says_so(running: SimInstaller) -> None:
    window_from_now(running, -0.02, length="5m")
    running.publish("2.0", soak_s=3600)
    assert running.poll() == "hold window_short"
    assert "no window of this node" in state_text(
        NodeRecords(running.paths).state(), is_running=True
    )


def test_a_window_never_keeps_a_bad_release_from_going_back(running: SimInstaller) -> None:
    class Closing(Told):
        def progress(self, state: str, done: int, total: int) -> None:
            if state == "probing":
                window_from_now(running, 2)

    running.publish("2.0", "bad")
    (answer,) = running.acceptor.poll(running.source(), Closing())
    assert answer.kind == "rolled_back"
    assert running.ask() == "1.0"


def test_without_a_source_it_goes_on_waiting(running: SimInstaller) -> None:
    window_from_now(running, 2)
    running.publish("2.0")
    assert running.poll() == "wait window"
    with pytest.raises(Exception, match="expected"):
        running.poll(DeadSource())
    assert state_of(running) is State.WAITING
