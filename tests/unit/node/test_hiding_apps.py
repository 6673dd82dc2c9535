"""Whatever an app does to hide, nothing of its user lives once it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from embrasure.fs import Folder
from node import processes
from node.paths import Paths
from node.processes import Process
from node.supervisor import Supervisor, Unit
from node.users import User
from tests.ablation import Ablation
from tests.simulate.production import SHOP

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: an app of another user")
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")
# Its first thread ends; /proc calls it a zombie from then on.
HEADLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("up", flush=True)
ctypes.CDLL(None).syscall({exit}, 0)
"""
# A daemon of a session of its own whose every process lives for an instant.
FORKING = """
import os, time
if os.fork() == 0:
    os.setsid()
    while True:
        if os.fork():
            os._exit(0)
print("up", flush=True)
time.sleep(60)
"""
# What a killed node leaves behind, without the token that the next one looks for.
NAMELESS = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    os.execve("/bin/sleep", ["sleep", "60"], {})
time.sleep(60)
"""
# Nobody may look into it: its files in /proc are root's.
CLOSED = """
import ctypes, time
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def paths() -> Iterator[Paths]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="embrasure-end-") as top:
        Path(top).chmod(0o755)
        found = Paths(Path(top))
        for folder in found.folders():
            Folder.open(folder, create=True).close()
        yield found
        kill_all()


def kill_all() -> None:
    """Nothing of the app's user is left for another test."""
    processes.end_all_of(SHOP, 10)
    with suppress(ChildProcessError):
        processes.reap_orphans()


def started(paths: Paths, supervisor: Supervisor, code: str, *, user: User | None = SHOP) -> int:
    """Return the pid of the app, which has done what it wants to do first."""
    instance = supervisor.start(Unit(app="shop", release="1-" + "a" * 16, argv=(*PYTHON, code),
                          env={}, cwd=Path("/"), user=user))  # fmt: skip
    time.sleep(1)
    return instance.pid


def are_left() -> bool:
    """Return whether anything of the app's user lives; looked at often, for it may hide."""
    time.sleep(0.3)  # those that were killed just now are seen dead
    return any(processes.of(SHOP) or born() for _ in range(5))


def born() -> bool:
    """Return whether new dead children come from the app's user: something forks."""

    def dead() -> set[int]:
        return {pid for pid, p in processes.table().items()
                if p.is_zombie and processes.uid_of(pid) == SHOP.uid}  # fmt: skip

    before = dead()
    time.sleep(0.02)
    return bool(dead() - before)


def by_name(pid: int) -> Process | None:
    """What /proc says of a process, taken at its word."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[3]), fields[0] in (b"Z", b"X"))


def threads(pid: int) -> list[str]:
    """Return the living threads of a process."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "stat").read_text().rpartition(") ")[2][0] not in "ZX":
                found.append(task.name)
    return found


@pytest.mark.misuse
def test_an_app_whose_first_thread_has_ended_is_stopped(paths: Paths, ablation: Ablation) -> None:
    code = HEADLESS.format(exit=93 if os.uname().machine == "aarch64" else 60)
    supervisor = Supervisor(paths, stop_seconds=1)
    pid = started(paths, supervisor, code, user=None)
    assert len(threads(pid)) == 1 and by_name(pid) != processes.table()[pid]
    supervisor.stop("shop")
    assert not threads(pid)
    with ablation("its other threads") as attack:
        attack.without("node.processes._read", by_name)
        pid = started(paths, supervisor, code, user=None)
        supervisor.stop("shop")
        attack.succeeded(threads(pid))
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.01)  # the supervisor waits for it
    supervisor.close()


@pytest.mark.misuse
def test_an_app_that_forks_faster_than_proc_is_read_is_stopped(
    paths: Paths, ablation: Ablation
) -> None:
    supervisor = Supervisor(paths, stop_seconds=2)
    started(paths, supervisor, FORKING)
    supervisor.stop("shop")
    assert not are_left()
    with ablation("the end of all of its user") as attack:
        attack.without("node.processes.end_all_of")
        left = False
        for _ in range(5):  # now and then a look comes between two forks
            started(paths, supervisor, FORKING)
            with suppress(Exception):
                supervisor.stop("shop")
            if left := are_left():
                break
        attack.succeeded(left)
    kill_all()
    time.sleep(0.3)
    supervisor.close()


@pytest.mark.misuse
def test_what_a_killed_node_left_is_ended_though_it_dropped_its_token(
    paths: Paths, ablation: Ablation
) -> None:
    def killed_in_the_middle() -> None:
        process = processes.spawn([*PYTHON, NAMELESS], env={}, cwd=Path("/"),
                                  output=subprocess.DEVNULL, token="e" * 32, user=SHOP)  # fmt: skip
        time.sleep(0.7)
        process.kill()
        processes.ended(process)
        (paths.run / "shop.instance").write_text(f"{'e' * 32} {SHOP.uid} {SHOP.gid}")

    supervisor = Supervisor(paths, stop_seconds=1)
    killed_in_the_middle()
    supervisor.clear_leftovers("shop")
    assert not are_left()
    with ablation("the end of all of its user") as attack:
        attack.without("node.processes.end_all_of")
        killed_in_the_middle()
        supervisor.clear_leftovers("shop")
        attack.succeeded(are_left())
    supervisor.close()


@pytest.mark.misuse
def test_a_process_that_nobody_may_look_into_is_seen(ablation: Ablation) -> None:
    reading, writing = os.pipe()
    process = processes.spawn([*PYTHON, CLOSED], env={}, cwd=Path("/"), output=writing,
                              token="f" * 32, user=SHOP)  # fmt: skip
    os.close(writing)
    assert os.read(reading, 8) == b"up\n"
    os.close(reading)
    assert process.pid in processes.of(SHOP)
    assert process.pid in processes.members(process.pid, "", SHOP)
    with ablation("the owner of its folder, which is always the effective user") as attack:
        attack.without("node.processes.uid_of", lambda pid: Path(f"/proc/{pid}/stat").stat().st_uid)
        attack.succeeded(process.pid not in processes.of(SHOP))
    kill_all()
    processes.ended(process)
