"""The owner's hold and maintenance: no new install for a while, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from embrasure import limits
from embrasure.errors import EmbrasureError, Misuse
from node import hold
from node.records import NodeRecords
from node.show import state_text
from tests.ablation import Ablation
from tests.simulate.installer import Confirms, SimInstaller, Told


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[SimInstaller]:
    found = SimInstaller(tmp_path)
    yield found
    found.close()


def keep(bench: SimInstaller, app: str, hours: float = 4, reason: str = "quarter") -> None:
    hold.put(bench.paths, app, seconds=hours * 3600, reason=reason)


def test_a_held_app_is_not_installed_until_the_hold_ends_by_itself(bench: SimInstaller) -> None:
    bench.publish("1.0")
    keep(bench, bench.app)
    assert bench.poll() == "hold owner"
    bench.restart()
    assert bench.poll() == "hold owner"
    shown = state_text(NodeRecords(bench.paths).state(), is_running=True)
    assert f"{bench.app}: held until " in shown and "quarter" in shown
    bench.clock.ahead = timedelta(hours=4, seconds=1)
    assert bench.poll() == "committed"
    assert bench.ask() == "1.0"


@pytest.mark.misuse
def test_a_gateway_cannot_order_past_a_hold_and_the_owner_can_let_go(
    bench: SimInstaller, ablation: Ablation
) -> None:
    bench.publish("1.0")
    keep(bench, bench.app)
    answer = bench.acceptor.order(bench.order(oseq=1), bench.source(), Told())
    assert (answer.kind, answer.reason) == ("hold", "owner")
    assert not bench.paths.current(bench.app).exists()
    with ablation("the look at the owner's hold") as attack:
        attack.without("node.hold.held", lambda *_: "")
        told = bench.acceptor.order(bench.order(oseq=2), bench.source(), Confirms(bench))
        attack.succeeded(told.kind == "committed")


def test_unhold_ends_it_and_only_of_that_app(bench: SimInstaller) -> None:
    bench.allow("other", 1)
    bench.publish("1.0")
    keep(bench, bench.app)
    keep(bench, "other")
    assert hold.take_away(bench.paths, bench.app)
    assert not hold.take_away(bench.paths, bench.app)
    assert [one.app for one in hold.load(bench.paths)] == ["other"]
    assert "committed" in [one.kind for one in bench.acceptor.poll(bench.source(), Told())]


class Holding(Told):
    """The owner holds everything as soon as the new release is probed."""

    def __init__(self, bench: SimInstaller) -> None:
        super().__init__()
        self._bench = bench

    def progress(self, state: str, done: int, total: int) -> None:
        super().progress(state, done, total)
        if state == "probing":
            keep(self._bench, self._bench.app)
            keep(self._bench, hold.NODE)


def test_a_hold_never_keeps_a_bad_release_from_going_back(bench: SimInstaller) -> None:
    bench.publish("1.0")
    assert bench.poll() == "committed"
    bench.publish("2.0", "bad")
    (answer,) = bench.acceptor.poll(bench.source(), Holding(bench))
    assert answer.kind == "rolled_back"
    assert bench.ask() == "1.0"


def test_maintenance_takes_no_order_and_the_same_order_holds_afterwards(
    bench: SimInstaller,
) -> None:
    bench.publish("1.0")
    keep(bench, hold.NODE)
    order = bench.order(oseq=1)
    first = bench.acceptor.order(order, bench.source(), Told())
    assert (first.kind, first.reason, bench.poll()) == ("hold", "owner", "hold owner")
    assert "takes no order: held until" in state_text(
        NodeRecords(bench.paths).state(), is_running=True
    )
    assert hold.take_away(bench.paths, hold.NODE)
    assert bench.acceptor.order(order, bench.source(), Confirms(bench)).kind == "committed"


def test_maintenance_lets_the_install_under_way_finish(bench: SimInstaller) -> None:
    class Starting(Told):
        def progress(self, state: str, done: int, total: int) -> None:
            if state == "fetching":
                keep(bench, hold.NODE)

    bench.publish("1.0")
    (answer,) = bench.acceptor.poll(bench.source(), Starting())
    assert answer.kind == "committed"
    bench.publish("2.0")
    assert bench.poll() == "hold owner"


@pytest.mark.parametrize("hours", [0, 7 * 24 + 0.01, float("1e9")])
def test_no_hold_is_without_an_end(bench: SimInstaller, hours: float) -> None:
    with pytest.raises(Misuse):
        keep(bench, bench.app, hours)
    assert hold.load(bench.paths) == ()


@pytest.mark.parametrize("reason", ["", "x" * 121, "a\nb", "\x1b[31m"])
def test_a_reason_is_one_printable_line(bench: SimInstaller, reason: str) -> None:
    with pytest.raises(Misuse):
        keep(bench, bench.app, reason=reason)


def test_a_hold_of_an_unknown_app_is_a_typing_mistake(bench: SimInstaller) -> None:
    with pytest.raises(Misuse):
        keep(bench, "shopp")


@pytest.mark.misuse
def test_a_hold_written_by_hand_for_ever_ends_after_the_longest(
    bench: SimInstaller, ablation: Ablation
) -> None:
    keep(bench, bench.app)
    value = json.loads(bench.paths.holds.read_bytes())
    value["holds"][0]["until"] = 2**40
    bench.paths.holds.write_text(json.dumps(value, separators=(",", ":"), sort_keys=True))
    (made,) = hold.load(bench.paths)
    later = bench.clock() + timedelta(seconds=limits.HOLD_SECONDS + 1)
    assert not hold.held(bench.paths, bench.app, later)
    with ablation("the longest hold, counted from its start") as attack:
        attack.succeeded(later.timestamp() < made.until)


@pytest.mark.misuse
def test_a_file_of_holds_that_cannot_be_read_holds_everything(
    bench: SimInstaller, ablation: Ablation
) -> None:
    bench.publish("1.0")
    keep(bench, bench.app)
    bench.paths.holds.write_bytes(bench.paths.holds.read_bytes()[:-3])
    assert bench.poll() == "hold owner"
    assert "cannot be read" in NodeRecords(bench.paths).state().apps[0].hold
    with pytest.raises(EmbrasureError):
        keep(bench, bench.app)
    with ablation("the fail-closed reading") as attack:
        attack.without("node.hold.held", lambda *_: "")
        attack.succeeded(bench.poll() == "committed")
    assert hold.take_away(bench.paths, bench.app)
    assert hold.load(bench.paths) == ()


@pytest.mark.misuse
def test_a_clock_set_back_makes_no_ended_hold_live_again(
    bench: SimInstaller, ablation: Ablation
) -> None:
    keep(bench, bench.app, hours=0.5)
    # A signed time a little later than the end is on disk: the time floor.
    ended = int(bench.clock().timestamp()) + 3600
    bench.acceptor._ground.floors.change(lambda one: msgspec.structs.replace(one, time=ended))
    bench.publish("1.0")
    assert NodeRecords(bench.paths).state().apps[0].hold == ""
    with ablation("the time floor") as attack:
        attack.succeeded(hold.held(bench.paths, bench.app, bench.clock()))
