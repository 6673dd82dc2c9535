"""One door: what is approved installs, what fails goes back, what is repeated does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embrasure.trust.receipt import Kind, Outcome, Ran, Reason
from tests.simulate.installer import SimInstaller


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[SimInstaller]:
    made = SimInstaller(tmp_path)
    yield made
    made.close()


def test_a_published_release_is_installed_and_answers(bench: SimInstaller) -> None:
    bench.publish("1.0")
    assert bench.poll() == "committed"
    assert bench.ask() == "1.0"
    told = bench.told()
    assert [(r.kind, r.outcome, r.ran) for r in told] == [
        (Kind.HEALTHY, Outcome.OK, Ran.MAIN),
        (Kind.SOAKED, Outcome.OK, Ran.MAIN),
    ]
    assert bench.poll() == "none done"


def test_a_bad_release_goes_back_to_the_last_committed_one(bench: SimInstaller) -> None:
    bench.publish("1.0")
    assert bench.poll() == "committed"
    bench.publish("2.0", "bad")
    assert bench.poll() == "rolled_back probe"
    assert bench.ask() == "1.0"
    last = bench.told()[-1]
    assert (last.outcome, last.reason, last.ran) == (
        Outcome.ROLLED_BACK,
        Reason.PROBE,
        Ran.PREVIOUS,
    )
    assert bench.poll() == "hold quarantine"
    bench.publish("3.0")
    assert bench.poll() == "committed"
    assert bench.ask() == "3.0"
