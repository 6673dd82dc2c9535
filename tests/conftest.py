"""Settings of the whole suite: hypothesis, counted skips, figures of the misuse tests."""

from __future__ import annotations

import gc
import os
import sys
import tempfile

import hypothesis
import pytest

import embrasure  # before grpc: it forbids TLS 1.2 for the whole process
from tests.ablation import ablation as ablation
from tests.ablation import figures as ablation_figures
from tests.ablation import pytest_runtest_call as pytest_runtest_call
from tests.simulate.softhsm import hsm as hsm
from tests.simulate.softhsm import softhsm_session as softhsm_session
from tests.simulate.softtpm import softtpm as softtpm
from tests.skips import pytest_sessionfinish as pytest_sessionfinish
from tests.skips import tell as tell_skips

assert embrasure.__version__

# Hundreds of processes load the same modules: each is compiled once, also where the shell says no.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

MEMORY, ROOM_BYTES = "/dev/shm", 1 << 30  # noqa: S108 - pytest makes a folder of ours in it


def _in_memory() -> bool:
    """Return whether the file system in memory has room for tests, and runs programs."""
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize >= ROOM_BYTES and not found.f_flag & os.ST_NOEXEC


# Every write of the product waits for its disk, and in a test that has lost no power for nothing.
# What cuts power, or asks a disk anything, makes file systems of its own. A TMPDIR that is set, and
# `--basetemp`, are stronger.
if _in_memory():
    os.environ.setdefault("TMPDIR", MEMORY)
    tempfile.tempdir = None  # what it was before is forgotten

hypothesis.settings.register_profile(
    "shared",
    deadline=None,  # a shared machine: wall clock proves nothing
    max_examples=60,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Sweeps take a sample by default; these ask for more."""
    parser.addoption("--power-points", default="200", help="power cuts that the sweep takes")
    parser.addoption("--loss-states", default="920", help="states of lost writes that are built")
    every = "damage each state file in every way, with so many flipped bits (0: in one way)"
    parser.addoption("--state-flips", default="0", help=every)
    parser.addoption("--power-fs", default="ext4", help="their file system: ext4, xfs, btrfs")


HEAVY_SECONDS = 180  # the time-out of a test that takes a minute or more


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests: each of two workers begins with half of the heavy ones.

    A worker starts with one half of the list: else the last minutes are one heavy test's alone.
    """
    if config.option.markexpr != "long and not sweep":
        return
    heavy = [item for item in items if _seconds(item) >= HEAVY_SECONDS]
    heavy.sort(key=_seconds, reverse=True)
    light = [item for item in items if _seconds(item) < HEAVY_SECONDS]
    room = (len(items) + 1) // 2 - len(heavy[::2])
    items[:] = [*heavy[::2], *light[:room], *heavy[1::2], *light[room:]]


def _seconds(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None and marker.args else 0.0


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was collected stays to the end: to look it over at every collection of garbage cost a
    twelfth of the whole suite's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Print how many tests were skipped and why, and every figure of those that passed."""
    tell_skips(terminalreporter)
    for report in terminalreporter.stats.get("passed", []):
        for line in report.capstdout.splitlines():
            if line.startswith("figure: "):
                terminalreporter.write_line(line)
    for line in ablation_figures(terminalreporter.stats.get("passed", [])):
        terminalreporter.write_line(line)
