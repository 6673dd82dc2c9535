"""A node with its app and repository, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulate.installer import SimInstaller, Told


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[SimInstaller]:
    """A node on which nothing is installed yet."""
    made = SimInstaller(tmp_path)
    yield made
    made.close()


@pytest.fixture
def running(bench: SimInstaller) -> SimInstaller:
    """A node on which version 1.0 is committed and runs."""
    bench.publish("1.0")
    assert bench.poll() == "committed"
    bench.report = Told()
    return bench
