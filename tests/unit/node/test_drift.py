"""The look at what is installed: at every start and once a day, told once, gentle to the disk."""

from __future__ import annotations

import ctypes
import platform
import threading
import time
from pathlib import Path

import pytest

from embrasure import kernel
from embrasure.errors import Unavailable
from embrasure.trust.receipt import Kind, Outcome, Reason
from node import drift, verify
from node.answering import NoSource
from node.paths import Paths
from node.records import NodeRecords
from node.show import state_text
from tests.simulate.installer import SimInstaller, Told


def look(bench: SimInstaller) -> int:
    found = drift.look(bench.acceptor._ground, bench.acceptor._mutex, threading.Event())
    return sum(len(one.drift) for one in found)


def change(bench: SimInstaller, data: bytes) -> None:
    path = bench.paths.current(bench.app).resolve() / "config" / "version"
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def told(bench: SimInstaller) -> int:
    return sum(one.outcome is Outcome.DRIFTED for one in bench.told())


def test_drift_is_told_once_and_shown_until_it_is_repaired(running: SimInstaller) -> None:
    assert look(running) == 0
    assert told(running) == 0
    change(running, b"9.9")
    assert (look(running), look(running)) == (1, 1)
    assert told(running) == 1
    last = running.told()[-1]
    assert (last.kind, last.reason) == (Kind.STATUS, Reason.DRIFT)
    status = state_text(NodeRecords(running.paths).state(), is_running=True)
    assert "1 differ (content config/version)" in status
    assert running.ask() == "9.9", "what runs is left alone"
    assert running.acceptor.repair(running.app, running.source(), Told()).kind == "repaired"
    assert "differ" not in state_text(NodeRecords(running.paths).state(), is_running=True)
    assert look(running) == 0
    change(running, b"9.9")
    assert look(running) == 1
    assert told(running) == 2, "the same again is news again"


def test_an_install_that_ends_meanwhile_is_no_drift(
    running: SimInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(paths: Paths) -> tuple[verify.Verified, ...]:
        found = verify.verify(paths)
        running.publish("2.0")
        assert running.poll() == "committed"
        return found

    change(running, b"9.9")
    monkeypatch.setattr("node.drift.verify", slow)
    assert look(running) == 0
    assert told(running) == 0


def test_a_node_boots_and_looks_with_every_server_down(running: SimInstaller) -> None:
    change(running, b"9.9")
    running.publish("2.0")
    assert running.poll() == "committed"
    running.restart()
    assert look(running) == 0
    # What runs is whole; the way back is what was changed.
    assert running.acceptor.repair(running.app, running.source(), Told()).kind == "repaired"
    assert running.acceptor.repair(running.app, NoSource(), Told()).kind == "none"


def test_the_look_is_paced_and_ends_with_the_node() -> None:
    stop = threading.Event()
    pace, began = drift.Pace(1_000_000, stop), time.monotonic()
    for _ in range(5):
        pace(60_000)
    assert 0.28 < time.monotonic() - began < 5
    stop.set()
    with pytest.raises(Unavailable):
        pace(1)


def test_the_look_comes_last_at_the_disk() -> None:
    get = {"x86_64": 252, "aarch64": 31}.get(platform.machine())
    if get is None:
        pytest.skip(f"needs the number of ioprio_get on {platform.machine()}")
    found: list[tuple[bool, int]] = []

    def thread() -> None:
        found.append((kernel.last_at_the_disk(), ctypes.CDLL(None).syscall(get, 1, 0) >> 13))

    one = threading.Thread(target=thread)
    one.start()
    one.join()
    assert found == [(True, 3)]
    assert ctypes.CDLL(None).syscall(get, 1, 0) >> 13 != 3, "that thread alone"


def test_the_running_agent_looks_by_itself(running: SimInstaller, tmp_path: Path) -> None:
    change(running, b"9.9")
    stop = threading.Event()
    thread = threading.Thread(target=running.acceptor.watch_for_drift, args=(stop,))
    thread.start()
    until = time.monotonic() + 20
    while drift.last_look(running.paths, running.app) is None and time.monotonic() < until:
        time.sleep(0.02)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    found = drift.last_look(running.paths, running.app)
    assert found is not None and found.drift == 1
