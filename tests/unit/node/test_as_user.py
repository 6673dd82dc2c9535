"""A root without any right over others ends what runs as an app's user, and touches nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from embrasure.errors import Failed
from embrasure.fs import Folder
from node import as_user, commands, processes
from node.backends import Room
from node.paths import Paths
from node.probing import Prober
from node.supervisor import Supervisor, Unit
from node.users import User
from tests.ablation import Ablation
from tests.simulate.production import SHOP, STRANGER, as_apply

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: an app of another user")
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
FORKING = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    while True:
        if os.fork():
            os._exit(0)
time.sleep(60)
"""
GRANDCHILD = "import os, time\nif os.fork() == 0: os.setsid()\ntime.sleep(60)"


@pytest.fixture
def paths() -> Iterator[Paths]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="embrasure-as-") as top:
        Path(top).chmod(0o755)
        found = Paths(Path(top))
        for folder in found.folders():
            Folder.open(folder, create=True).close()
        yield found
        as_user.end_all(SHOP)


def started(user: User | None, *command: str) -> subprocess.Popen[bytes]:
    """Return a process of that user, which has become it."""
    words = [] if user is None else [
        "setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]  # fmt: skip
    process = subprocess.Popen([*words, *command])
    until = time.monotonic() + 10
    while user and processes.uid_of(process.pid) != user.uid and time.monotonic() < until:
        time.sleep(0.01)
    return process


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether it ends within a moment; it is gone in any case."""
    try:
        process.wait(0.3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


@pytest.mark.misuse
@pytest.mark.parametrize(
    "code",
    [pytest.param(GRANDCHILD, id="grandchild", marks=pytest.mark.long),
     pytest.param(STUBBORN, id="stubborn", marks=pytest.mark.long),
     pytest.param(FORKING, id="forking", marks=pytest.mark.long)],
)  # fmt: skip
def test_an_app_is_stopped_by_a_root_without_rights(
    code: str, paths: Paths, ablation: Ablation
) -> None:
    def start() -> Supervisor:
        supervisor = Supervisor(paths, stop_seconds=0.5)
        supervisor.start(Unit(app="shop", release="1-" + "a" * 16, argv=(*PYTHON, code), env={},
                              cwd=Path("/"), user=SHOP))  # fmt: skip
        time.sleep(0.5)
        return supervisor

    supervisor = as_apply(start)
    as_apply(lambda: supervisor.stop("shop"))
    assert not any(processes.of(SHOP) for _ in range(5))
    with ablation("signals as its user") as attack:
        attack.without("node.as_user.send")
        attack.without("node.as_user.end_all")
        second = as_apply(start)
        with pytest.raises(Failed):
            as_apply(lambda: second.stop("shop"))
        attack.succeeded(any(processes.of(SHOP) for _ in range(5)))
    as_apply(second.close)
    supervisor.close()


@pytest.mark.long
@pytest.mark.misuse
def test_a_hook_is_ended_at_its_deadline_by_a_root_without_rights(ablation: Ablation) -> None:
    # It ends by itself after 4 s, or the test without its guard would wait for ever.
    code = STUBBORN.replace("60", "4").replace("time.sleep", "os.fork(); time.sleep")
    room = Room(read=(), write=(), user=SHOP)

    def took() -> float:
        began = time.monotonic()
        hook = as_apply(lambda: commands.run([*PYTHON, f"import os\n{code}"], env={},
                                             cwd=Path("/"), seconds=0.3, room=room))  # fmt: skip
        assert hook.code is None
        return time.monotonic() - began

    processes.adopt_orphans()
    assert took() < 3.8
    assert not processes.of(SHOP)
    with ablation("signals as its user") as attack:
        attack.without("node.as_user.send")
        attack.succeeded(took() > 3.9)


@pytest.mark.misuse
def test_a_prober_that_its_app_holds_up_is_ended(ablation: Ablation) -> None:
    def asked() -> Prober:
        asking = Prober(SHOP)
        asked = {"kind": "file-age", "path": "/", "since": 0, "seconds_old": 1, "seconds": 1}
        assert asking.check(asked) == "file: no regular file"
        started(SHOP, "kill", "-STOP", str(asking._process.pid)).wait()
        assert asking.check(asked | {"seconds": 0.1}) == "prober: no answer"
        return asking

    def lives(asking: Prober) -> bool:
        time.sleep(0.2)
        return asking._process.poll() is None

    asking = as_apply(asked)
    assert not lives(asking)
    asking.close()
    with ablation("signals as its user") as attack:
        attack.without("node.as_user.send")
        asking = as_apply(asked)
        attack.succeeded(lives(asking))
    as_apply(asking.close)


@pytest.mark.misuse
def test_what_a_killed_node_left_is_ended_at_the_next_start(
    paths: Paths, ablation: Ablation
) -> None:
    # A hook, say: no file names it. A user that an app had before is in its file.
    hook, before = started(SHOP, "sleep", "60"), started(STRANGER, "sleep", "60")
    (paths.run / "shop.instance").write_text(f"{'e' * 32} {STRANGER.uid} {STRANGER.gid}")
    supervisor = as_apply(lambda: Supervisor(paths, stop_seconds=1))
    supervisor.clear_users([SHOP])
    assert ended(hook) and ended(before)
    supervisor.close()
    with ablation("the end of all users at the start") as attack:
        attack.without("node.supervisor.Supervisor.clear_users")
        hook = started(SHOP, "sleep", "60")
        second = as_apply(lambda: Supervisor(paths, stop_seconds=1))
        second.clear_users([SHOP])
        attack.succeeded(not ended(hook))
        second.close()


@pytest.mark.misuse
def test_a_number_that_became_another_process_is_not_signalled(ablation: Ablation) -> None:
    """Between the look into /proc and the signal a process can end, and its number be reused."""
    other = started(None, "sleep", "60")
    processes.send([other.pid], signal.SIGKILL, SHOP)
    with ablation("the user's own rights") as attack:
        assert other.poll() is None
        attack.without("node.as_user._become", lambda _: None)
        processes.send([other.pid], signal.SIGKILL, SHOP)
        attack.succeeded(ended(other))


PROBE = """
import ctypes, os, sys
libc, pid, thread = ctypes.CDLL(None, use_errno=True), *map(int, sys.argv[1:])
number = {"x86_64": 234, "aarch64": 131}[os.uname().machine]  # tgkill
print(libc.syscall(number, pid, thread, 0))
"""


@pytest.mark.misuse
def test_the_user_cannot_signal_the_thread_that_is_it(ablation: Ablation) -> None:
    def reached() -> bool:
        told: list[str] = []

        def work() -> None:
            told.append(str(threading.get_native_id()))
            time.sleep(0.4)

        thread = threading.Thread(target=as_user._done_as, args=(SHOP, work))
        thread.start()
        while not told:
            time.sleep(0.01)
        words = ["setpriv", f"--reuid={SHOP.uid}", f"--regid={SHOP.gid}", "--clear-groups"]
        said = subprocess.run([*words, *PYTHON, PROBE, str(os.getpid()), *told],
                              capture_output=True, text=True, check=True)  # fmt: skip
        thread.join()
        return said.stdout.strip() == "0"

    assert not reached()
    with ablation("a real id that is nobody's") as attack:
        attack.without("node.as_user._become", lambda uid: as_user._set_ids(uid, uid, 0))
        attack.succeeded(reached())


def rights() -> tuple[Sequence[int], str]:
    """Return whom this thread is, and what it may."""
    text = Path("/proc/thread-self/status").read_text()
    return os.getresuid(), text.partition("CapEff:\t")[2].split()[0]


def test_only_one_thread_changes_and_it_comes_back() -> None:
    inside: list[tuple[Sequence[int], str]] = []
    before = rights()
    as_user._done_as(SHOP, lambda: inside.append(rights()))
    assert inside == [((2**32 - 3, SHOP.uid, 0), "0" * 16)] and rights() == before
    with pytest.raises(ZeroDivisionError):
        as_user._done_as(SHOP, lambda: print(1 // 0))
    as_user._done_as(SHOP, lambda: None)
    for root in (User(0, 0), User(2**32 - 3, 1)):
        with pytest.raises(Failed, match="signal"):
            as_user.end_all(root)


def test_signals_are_sent_though_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    as_user.end_all(SHOP)
    first, second = started(SHOP, "sleep", "60"), started(SHOP, "sleep", "60")

    def full(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        as_user.send([first.pid], signal.SIGKILL, SHOP)
        as_user.end_all(SHOP)
    assert ended(first) and ended(second)


def test_a_fork_has_a_sender_of_its_own() -> None:
    as_user.end_all(SHOP)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            as_user.end_all(SHOP)
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("uid_map", "nobody"),
    [("         0          0 4294967295\n", 2**32 - 3), ("0 1000 1\n1 100000 65536\n", 65536),
     ("0 100000 65536\n", 65535), ("0 1000 1\n", 0), ("", 0)],
)  # fmt: skip
def test_nobody_is_the_highest_number_of_a_user_namespace(uid_map: str, nobody: int) -> None:
    assert as_user.stranger(uid_map) == nobody
