"""A clean stop is an interruption: however many come, none counts as a crash of the release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from embrasure import limits
from embrasure.errors import Unavailable
from node.journal import Journal
from node.states import Record, State
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller
from tests.simulate.sweep_install import sign_of_life


@contextmanager
def stopping_at(bench: SimInstaller, state: State) -> Iterator[None]:
    """The node is asked to end whenever `state` comes on disk."""
    real = Journal.write

    def write(self: Journal, record: Record) -> None:
        real(self, record)
        if record.state is state:
            bench.acceptor.halt()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "write", write)
        yield


def offered(bench: SimInstaller, version: str) -> None:
    """A good release is published."""
    bench.publish(release=bench.make(version, probes=[sign_of_life()]))


def stopped(bench: SimInstaller, state: State, times: int) -> Record:
    """Return the record after an install of 2.0 that so many clean stops in `state` cut short."""
    offered(bench, "2.0")
    with stopping_at(bench, state):
        with pytest.raises(Unavailable):
            bench.poll()
        for _ in range(times - 1):
            bench.close()
            # Once it has come to rest nothing stops it any more.
            with suppress(Unavailable):
                bench.open()
    bench.close()
    found = Journal(bench.paths).read(bench.app).record
    assert found is not None
    return found


@pytest.mark.misuse
def test_clean_stops_while_a_release_is_probed_are_no_crash_loop(
    tmp_path: Path, ablation: Ablation
) -> None:
    bench = SimInstaller(tmp_path / "a", inner=True)
    times = limits.STARTS + 2
    offered(bench, "1.0")
    assert bench.poll() == "committed"
    record = stopped(bench, State.PROBING, times)
    assert (record.state, record.starts) == (State.PROBING, limits.STARTS)
    bench.open()
    record = stopped_record(bench)
    assert (record.state, record.ending) == (State.IDLE, "committed")
    assert bench.acceptor._ground.floors.load().app(bench.app).tries == {}
    bench.close()
    with ablation("the start that a clean stop gives back") as attack:
        attack.without("node.transaction.Transaction.give_back")
        other = SimInstaller(tmp_path / "b", inner=True)
        offered(other, "1.0")
        other.poll()
        record = stopped(other, State.PROBING, times)
        # Three shut-downs have condemned a release that never failed.
        attack.succeeded((record.ending, record.reason) == ("rolled_back", "crash-loop"))


def test_a_release_in_whose_soak_the_node_is_stopped_for_ever_ends_as_an_interruption(
    tmp_path: Path,
) -> None:
    bench = SimInstaller(tmp_path, inner=True)
    offered(bench, "1.0")
    assert bench.poll() == "committed"
    record = stopped(bench, State.PROBING, 20)
    assert (record.state, record.ending) == (State.IDLE, "interrupted")
    assert record.reason == "transitions"
    assert record.transitions <= limits.TRANSITIONS
    bench.open()
    assert bench.acceptor._ground.floors.load().app(bench.app).tries == {}
    assert bench.poll() == "wait later"
    bench.close()


def stopped_record(bench: SimInstaller) -> Record:
    """Return what the journal says now."""
    found = Journal(bench.paths).read(bench.app).record
    assert found is not None
    return found
