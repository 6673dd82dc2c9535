"""Apply and fetch as two processes that a service manager starts, each by its own unit."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.config import Server
from node.identity import load_identity
from node.ipc import to_apply
from node.join_files import own_receipt_id
from node.metrics import FILE
from tests.simulate.fleet import RealNode, SimFleet
from tests.simulate.installer import free_port
from tests.simulate.running import PROGRAM, answers, embrasure, status, until
from tests.source import TOP

FETCH = TOP / "deploy" / "systemd" / "embrasure-fetch.service"
# Nobody is there.
M1, L1 = (Server(name=name, address="127.0.0.1:9") for name in ("m1", "l1"))
needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root for a mount namespace"
)


class Manager:
    """What a service manager is to a process: a socket that it tells how it is."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(20)
        self.path.chmod(0o777)  # whoever the process runs as

    def hears(self, state: str) -> None:
        """Return once the process said `state`."""
        while self._socket.recv(64) != state.encode():
            pass

    def close(self) -> None:
        """Nobody listens."""
        self._socket.close()
        self.path.unlink()


class Unit:
    """A process that runs, and what it says of itself."""

    def __init__(self, process: subprocess.Popen[bytes], manager: Manager) -> None:
        self._process, self._manager = process, manager
        self.hears = manager.hears
        self.pid = process.pid

    def end(self) -> None:
        """It has ended well at SIGTERM, and said so."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            assert self._process.wait(30) == 0
            self._manager.hears("STOPPING=1")


@contextmanager
def unit(node: RealNode, name: str, before: Sequence[str] = ()) -> Iterator[Unit]:
    """One process as its unit starts it; it ends well at SIGTERM."""
    root = node.paths.prefix
    manager = Manager(root.parent, name)
    process = subprocess.Popen(
        [*before, *PROGRAM, "node", "run", "--only", name, "--root", str(root)],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "NOTIFY_SOCKET": str(manager.path)},
    )
    try:
        manager.hears("READY=1")
        found = Unit(process, manager)
        yield found
        found.end()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        manager.close()


def hidden(node: RealNode) -> list[Path]:
    """Return what the unit of fetch hides, where it lies in this node."""
    lines = (line for line in FETCH.read_text().splitlines() if line.startswith("Inaccessible"))
    words = (word for line in lines for word in line.partition("=")[2].split())
    return [node.paths.prefix / word.removeprefix("-").lstrip("/") for word in words]


def hiding(paths: Sequence[Path]) -> list[str]:
    """Return the words before a command that hide `paths`, and of /proc all but processes."""
    empty = 'mount -t tmpfs -o ro none "$p"'
    cover = f"for p in {' '.join(map(str, paths))}; do " + (
        f'if [ -d "$p" ]; then {empty}; elif [ -e "$p" ]; then mount --bind /dev/null "$p"; fi '
        "|| exit 1; done; "
    )
    proc = "mount -t proc -o subset=pid none /proc || exit 1; "  # ProcSubset=pid
    return ["unshare", "--mount", "sh", "-c", proc + cover + 'exec "$@"', "sh"]


@pytest.fixture
def fleet(tmp_path: Path) -> SimFleet:
    return SimFleet(tmp_path)


@needs_mounts
def test_a_push_node_runs_as_two_units_and_fetch_sees_no_key_but_its_own(fleet: SimFleet) -> None:
    port = free_port()
    node = fleet.make("node", port=port)
    covered = hidden(node)
    assert node.paths.keys in covered
    plan, gate = fleet.publish(node, "1")
    with unit(node, "apply") as apply, unit(node, "fetch", hiding(covered)) as fetch:
        asyncio.run(fleet.gateway(node).order(fleet.order(node, plan, gate)))
        assert until(lambda: answers(port), what="the app")
        assert status(node)["agent"] == "running"
        apply.hears("WATCHDOG=1")
        assert f'embrasure_node_info{{node="{node.id}"' in (node.paths.metrics / FILE).read_text()
        fetch.hears("WATCHDOG=1")
        again = embrasure("node", "run", "--only", "fetch", "--root", node.paths.prefix)
        assert again.returncode == 5 and "E_BUSY" in again.stderr
        fetch.end()
        assert answers(port), "the app does not need fetch"
    assert not (node.paths.run / "ports.json").exists()
    assert status(node)["agent"] == "not running"


@needs_mounts
def test_fetch_of_a_pull_node_never_opens_the_receipt_key(fleet: SimFleet) -> None:
    node = fleet.make("node", mode="pull", port=free_port(), mirrors=(M1,), letterbox=L1)
    assert own_receipt_id(node.paths) == load_identity(node.paths).receipt_id
    with unit(node, "apply"), unit(node, "fetch", hiding(hidden(node))):
        to_apply(node.paths).close()
