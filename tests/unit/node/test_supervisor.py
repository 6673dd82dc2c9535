"""The supervisor: nothing of an app outlives its stop, and a committed app is kept alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embrasure.errors import Failed
from embrasure.fs import Folder
from node import processes
from node.paths import Paths
from node.supervisor import Instance, Supervisor, Unit
from tests.ablation import Ablation

PYTHON = (sys.executable, "-I", "-S", "-c")
SLEEP = "import time\nprint('up', flush=True)\ntime.sleep(60)"
STUBBORN = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEP}"
# A daemon: its own session, its parent gone, started by a child of the app.
DAEMON = f"""
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time
        time.sleep(60)
    os._exit(0)
{SLEEP}
"""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    for folder in found.folders():
        Folder.open(folder, create=True).close()
    return found


@pytest.fixture
def supervisor(paths: Paths) -> Iterator[Supervisor]:
    made = Supervisor(paths, stop_seconds=1)
    yield made
    made.close()


def unit(paths: Paths, code: str, *, release: str = "1-" + "a" * 16) -> Unit:
    return Unit(app="shop", release=release, argv=(*PYTHON, code), env={"X": "1"}, cwd=paths.prefix)


def wait_for(condition: Callable[[], object], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.01)


def zombies() -> set[int]:
    """Return the dead children of this process that nobody has waited for, apps' sessions only."""
    me, session = os.getpid(), os.getsid(0)
    table = processes.table().values()
    return {p.pid for p in table if p.parent == me and p.session != session and p.is_zombie}


def daemon_of(supervisor: Supervisor, instance: Instance) -> int:
    """Return the pid of the daemon once its parents are gone and it is ours."""
    found: list[int] = []

    def look() -> bool:
        table = processes.table()
        others = supervisor.members(instance) - {instance.pid}
        found[:] = [p for p in others if p in table and table[p].parent == os.getpid()]
        return len(others) == 1 and bool(found)

    wait_for(look)
    return found[0]


def is_alive(pid: int) -> bool:
    process = processes.table().get(pid)
    return process is not None and not process.is_zombie


def started(supervisor: Supervisor, paths: Paths, code: str) -> Instance:
    instance = supervisor.start(unit(paths, code))
    wait_for(lambda: b"up" in supervisor.tail("shop", 100))
    return instance


def test_an_app_runs_until_it_is_stopped(supervisor: Supervisor, paths: Paths) -> None:
    instance = started(supervisor, paths, SLEEP)
    assert supervisor.running("shop") == instance
    assert supervisor.members(instance) == {instance.pid}
    supervisor.stop("shop")
    assert supervisor.running("shop") is None
    assert not is_alive(instance.pid)
    supervisor.stop("shop")


def test_an_app_sees_only_what_it_is_given(supervisor: Supervisor, paths: Paths) -> None:
    started(supervisor, paths, f"import os\nprint(sorted(os.environ), os.getcwd())\n{SLEEP}")
    said = supervisor.tail("shop", 500).decode()
    assert str(paths.prefix) in said
    assert "EMBRASURE_INSTANCE" in said
    assert "HOME" not in said


def test_an_app_gains_no_privilege(supervisor: Supervisor, paths: Paths) -> None:
    code = f"print(open('/proc/self/status').read())\nimport os\nprint(os.umask(0))\n{SLEEP}"
    started(supervisor, paths, code)
    said = supervisor.tail("shop", 5000).decode()
    assert "NoNewPrivs:\t1" in said
    assert "\n63\n" in said


def test_two_starts_of_one_app_are_refused(supervisor: Supervisor, paths: Paths) -> None:
    started(supervisor, paths, SLEEP)
    with pytest.raises(Failed):
        supervisor.start(unit(paths, SLEEP))


def test_an_app_that_ignores_sigterm_is_killed(paths: Paths) -> None:
    supervisor = Supervisor(paths, stop_seconds=0.1)
    instance = started(supervisor, paths, STUBBORN)
    supervisor.close()
    assert not is_alive(instance.pid)


@pytest.mark.misuse
def test_a_daemon_that_left_its_session_is_stopped_with_its_app(
    supervisor: Supervisor, paths: Paths, ablation: Ablation
) -> None:
    instance = started(supervisor, paths, DAEMON)
    daemon = daemon_of(supervisor, instance)
    supervisor.stop("shop")
    assert not is_alive(daemon)
    # Without the token nobody knows whose it is.
    instance = started(supervisor, paths, DAEMON)
    daemon = daemon_of(supervisor, instance)
    with ablation("the token in its environment") as attack:
        attack.without("node.processes.has_token", lambda pid, token: False)
        supervisor.stop("shop")
        attack.succeeded(is_alive(daemon))
    os.kill(daemon, signal.SIGKILL)


def test_a_kept_app_is_started_again_and_an_uncommitted_one_is_not(
    supervisor: Supervisor, paths: Paths
) -> None:
    first = started(supervisor, paths, SLEEP)
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: supervisor.running("shop") is None)
    assert supervisor.exit_of(first) == -signal.SIGKILL
    supervisor.keep("shop")
    wait_for(lambda: supervisor.running("shop") is not None)
    second = supervisor.running("shop")
    assert second is not None
    assert second != first
    os.kill(second.pid, signal.SIGKILL)
    wait_for(lambda: supervisor.running("shop") not in (None, second))


def test_a_stopped_app_stays_stopped(supervisor: Supervisor, paths: Paths) -> None:
    first = started(supervisor, paths, SLEEP)
    supervisor.keep("shop")
    os.kill(first.pid, signal.SIGKILL)
    supervisor.stop("shop")
    time.sleep(0.7)
    assert supervisor.running("shop") is None


def test_an_app_that_cannot_be_started_ends_at_once(supervisor: Supervisor, paths: Paths) -> None:
    missing = Unit(
        app="shop", release="1-" + "a" * 16, argv=("/no/such",), env={}, cwd=paths.prefix
    )
    instance = supervisor.start(missing)
    wait_for(lambda: supervisor.exit_of(instance) == 127)
    assert b"does not start" in supervisor.tail("shop", 200)
    nowhere = Unit(
        app="other", release="1-" + "a" * 16, argv=("/bin/true",), env={}, cwd=Path("/no/such")
    )
    with pytest.raises(Failed):
        supervisor.start(nowhere)


def test_an_app_started_from_a_thread_outlives_that_thread(
    supervisor: Supervisor, paths: Paths
) -> None:
    found: list[Instance] = []
    thread = threading.Thread(target=lambda: found.append(supervisor.start(unit(paths, SLEEP))))
    thread.start()
    thread.join()
    wait_for(lambda: b"up" in supervisor.tail("shop", 100))
    assert is_alive(found[0].pid)
    # The guard is the supervisor's own thread: without it the app ends with the one that asked.
    direct: list[subprocess.Popen[bytes]] = []

    def spawn() -> None:
        app = subprocess.Popen(processes.launched((*PYTHON, SLEEP)), stdout=subprocess.PIPE)
        direct.append(app)
        assert app.stdout is not None
        assert app.stdout.readline() == b"up\n"  # so it is bound to the thread that asked

    thread = threading.Thread(target=spawn)
    thread.start()
    thread.join()
    with direct[0]:
        assert direct[0].wait(20) == -signal.SIGKILL


def test_a_killed_node_takes_its_apps_with_it_and_the_next_one_clears_the_rest(
    paths: Paths,
) -> None:
    code = f"""
import sys
from pathlib import Path
from node.paths import Paths
from node.supervisor import Supervisor, Unit
paths = Paths(Path({str(paths.prefix)!r}))
unit = Unit("shop", "1-{"a" * 16}", {(*PYTHON, DAEMON)!r}, {{}}, paths.prefix)
supervisor = Supervisor(paths)
instance = supervisor.start(unit)
while len(supervisor.members(instance)) < 2: pass
print(instance.pid, instance.token, flush=True)
input()
"""
    node = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert node.stdout is not None
    pid, token = node.stdout.readline().decode().split()
    node.kill()
    node.communicate()
    wait_for(lambda: not is_alive(int(pid)))
    # Its daemon lives on, and would hold the port of the next release.
    assert processes.leftovers(token)
    supervisor = Supervisor(paths, stop_seconds=1)
    supervisor.stop("shop")
    assert not processes.leftovers(token)
    supervisor.close()


def test_output_is_bounded_and_never_blocks_the_app(supervisor: Supervisor, paths: Paths) -> None:
    code = f"import sys\nsys.stdout.write('x' * 3_000_000)\n{SLEEP}"
    started(supervisor, paths, code)
    assert len(supervisor.tail("shop", 10_000_000)) <= 64 * 1024
    sizes = [path.stat().st_size for path in paths.logs.iterdir()]
    assert sum(sizes) <= 2 * 1024 * 1024 + 64 * 1024


def test_no_zombie_is_left(supervisor: Supervisor, paths: Paths) -> None:
    code = f"import os\nif os.fork() == 0:\n    os.fork()\n    os._exit(0)\n{SLEEP}"
    others = zombies()  # of tests before this one, and in their sessions
    started(supervisor, paths, code)
    wait_for(lambda: not zombies() - others, 4)


def test_a_full_disk_costs_lines_of_the_log_never_the_app(
    supervisor: Supervisor, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Folder, name: str, data: bytes, *, mode: int = 0o600) -> int:
        raise Failed("log", expected="room", got="none", reason="no-space")

    monkeypatch.setattr(Folder, "append", full)
    first = started(supervisor, paths, SLEEP)
    supervisor.keep("shop")
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: supervisor.running("shop") not in (None, first))
