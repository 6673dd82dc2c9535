"""What a hostile hook gets: the same attacks against every back end that works on this host."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from embrasure import limits, sandbox
from embrasure.errors import Denied
from node import backends, bubblewrap, commands, launch, processes
from node.output import cleaned
from node.users import User
from tests.ablation import Ablation
from tests.simulate.hooks import USER, AsRoot, AsUser, kinds, missing, staged

# CI installs bubblewrap and runs as root; systemd is not the first process there.
pytestmark = [pytest.mark.long, pytest.mark.skipif(not kinds(), reason=missing())]

in_room = sandbox.hidden  # before a test replaces it
READ = """
import sys
for path in sys.argv[1:]:
    try: print(open(path).read())
    except OSError as problem: print(problem.strerror)
"""
WRITE = """
import sys
for path in sys.argv[1:]:
    try: open(path, "w").write("mine"); print("wrote", path)
    except OSError: pass
"""


# Every kind runs in CI; a node without any privilege with the long tests.
LONG = {"bubblewrap-user": [pytest.mark.long]}
KINDS = [pytest.param(kind, marks=LONG.get(kind, ())) for kind in kinds() or ["none"]]


@pytest.fixture(params=KINDS, scope="module")
def run(request: pytest.FixtureRequest) -> Iterator[AsRoot | AsUser]:
    with staged(request.param) as found:
        yield found


def test_an_honest_hook_does_its_work(run: AsRoot | AsUser) -> None:
    code = (
        "import os, subprocess, threading\n"
        "assert open('version').read() == '1.0'\n"
        f"open({str(run.stage.shared / 'made')!r}, 'w').write('done')\n"
        "open('/tmp/x', 'w').write('x'); open('/dev/null', 'w').write('x')\n"
        "t = threading.Thread(target=print, args=('thread',), daemon=True); t.start(); t.join()\n"
        "print(subprocess.run(['sh', '-c', 'echo $((6*7))'], capture_output=True).stdout)\n"
        "print(os.getuid(), os.getgid(), os.getgroups() in ([], [os.getgid()]))\n"
        "print(sorted(os.listdir('/proc/self/fd')) == ['0', '1', '2', '3'])\n"
        "raise SystemExit(7)"
    )
    ended = run(code)
    assert ended.code == 7, ended.output
    said = ended.output.decode().split("\n")
    assert said[:4] == ["thread", "b'42\\n'", f"{USER.uid} {USER.gid} True", "True"]
    made = run.stage.shared / "made"
    assert made.read_text() == "done" and made.stat().st_uid == USER.uid
    made.unlink()
    assert run("pass").is_good


@pytest.mark.misuse
def test_a_hook_reads_no_key_no_trust_file_no_other_app(
    run: AsRoot | AsUser, ablation: Ablation
) -> None:
    assert b"the secret" not in run(READ, *run.stage.secrets, "/etc/shadow").output
    with ablation("the sandbox") as attack:
        attack.succeeded(run(READ, *run.stage.secrets, bare=True).output.count(b"the secret") == 3)


@pytest.mark.misuse
def test_a_hook_writes_nowhere_but_into_its_own_data(
    run: AsRoot | AsUser, ablation: Ablation
) -> None:
    stage = run.stage
    folders = [stage.release, stage.other, stage.keys, stage.top, Path("/"), Path("/dev"),
               Path("/run"), Path("/proc/1"), Path("/etc"), Path("/usr")]  # fmt: skip
    targets = [folder / f"embrasure-{os.getpid()}" for folder in folders]
    assert run(WRITE, *targets).output == b""
    assert b"wrote" in run(WRITE, stage.shared / "mine").output
    assert run(WRITE, stage.shared / "mine", changes=False).output == b"", "`check` only looks"
    private = Path("/tmp") / f"embrasure-{os.getpid()}"  # noqa: S108  # its own, not the host's
    assert b"wrote" in run(WRITE, private).output and not private.exists()
    with ablation("the sandbox") as attack:
        attack.succeeded(b"wrote" in run(WRITE, targets[0], bare=True).output)
    targets[0].unlink()


@pytest.mark.misuse
def test_a_hook_has_no_network_and_makes_no_socket(
    run: AsRoot | AsUser, ablation: Ablation
) -> None:
    code = (
        "import ctypes, socket, sys\n"
        "for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):\n"
        "    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n"
        "        try: socket.socket(family, kind); print('made')\n"
        "        except OSError: pass\n"
        "socket.socketpair()\n"
        "if ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(256)) >= 0:\n"
        "    print('ring')\n"
        "try: socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print('connected')\n"
        "except OSError: pass\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = run(code, port)
        assert (ended.code, ended.output) == (0, b"")
        with ablation("the sandbox") as attack:
            said = run(code, port, bare=True).output
            attack.succeeded(b"made" in said and b"connected" in said)


@pytest.mark.misuse
def test_a_hook_gains_nothing_by_a_setuid_program(run: AsRoot | AsUser, ablation: Ablation) -> None:
    program = run.stage.release / "id"
    shutil.copy("/usr/bin/id", program)
    os.chown(program, 0, 0)
    program.chmod(0o4755)
    code = f"import os; os.execv({str(program)!r}, ['id', '-u'])"
    assert run(code).output.split() == [str(USER.uid).encode()]
    with ablation("no new privileges") as attack:
        words = ["setpriv", f"--reuid={USER.uid}", f"--regid={USER.gid}", "--clear-groups"]
        done = subprocess.run([*words, str(program), "-u"], capture_output=True, check=True)
        attack.succeeded(done.stdout.split() == [b"0"])
    program.unlink()


@pytest.mark.misuse
def test_a_hook_makes_no_namespace_and_looks_into_no_process(
    run: AsRoot | AsUser, ablation: Ablation
) -> None:
    code = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.unshare(0x10000000) == 0: print('namespace')\n"  # CLONE_NEWUSER
        "if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0: print('mounted')\n"
        "print(len([p for p in os.listdir('/proc') if p.isdigit()]))"
    )
    said = run(code).output.split()
    assert said[:-1] == [] and int(said[-1]) <= 4, "it sees its own processes only"
    with ablation("the sandbox") as attack:
        said = run(code, bare=True).output.split()
        attack.succeeded(b"namespace" in said and int(said[-1]) > 4)


@pytest.mark.misuse
def test_no_variable_of_a_release_reaches_what_starts_its_commands(ablation: Ablation) -> None:
    # The loader obeys LD_PRELOAD, LD_AUDIT and LD_DEBUG_OUTPUT; the last one needs no compiler.
    with staged("bubblewrap-root") as run:
        assert isinstance(run, AsRoot)
        stage, room = run.stage, run.stage.room(USER, changes=True)
        outside, inside = stage.top / "outside", stage.shared
        outside.mkdir()
        outside.chmod(0o777)

        def owners(folder: Path, backend: backends.Backend) -> set[int]:
            name = str(folder / "trace")
            code = f"import os\nassert os.environ['LD_DEBUG_OUTPUT'] == {name!r}"
            ended = commands.run(
                ["/usr/bin/python3", "-I", "-S", "-c", code], seconds=10, cwd=stage.release,
                env={"LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": name}, backend=backend, room=room,
            )  # fmt: skip
            assert ended.is_good, ended.output
            traces = list(folder.glob("trace*"))
            found = {path.stat().st_uid for path in traces}
            for path in traces:
                path.unlink()
            return found

        assert owners(outside, run.backend) == set(), "nothing outside of the room obeys it"
        assert owners(inside, run.backend) == {USER.uid}, "the command itself has it"
        assert owners(inside, backends.Bare()) == {USER.uid}
        with ablation("an environment that is hidden until the last step") as attack:
            attack.without("embrasure.sandbox.hidden", lambda env: {**env, **in_room(env)})
            attack.succeeded(owners(outside, run.backend) == {USER.uid})
            attack.without("node.processes.hidden", lambda env: {**env, **launch.hidden(env)})
            # Root's own loader obeys the release.
            attack.succeeded(owners(inside, backends.Bare()) == {0})


HANG = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                if number == 0 and os.fork() == 0: os._exit(0)
                time.sleep(0.01)
        if number == 1: os._exit(0)
        time.sleep(600)
print("hanging", sys.argv[1], flush=True)
time.sleep(600)
"""


def alive(mark: str) -> list[int]:
    """Return the processes that carry the mark among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if entry.name.isdigit() and mark.encode() in words:
                found.append(int(entry.name))
    return found


@pytest.mark.misuse
def test_nothing_of_a_hook_outlives_its_time(
    run: AsRoot | AsUser, ablation: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_GRACE_SECONDS", 0.3)
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    began = time.monotonic()
    ended = run(HANG, mark, seconds=0.7)
    assert ended.code is None and b"hanging" in ended.output
    assert time.monotonic() - began < 5
    assert not alive(mark)
    with ablation("the end of all that it started") as attack:
        if isinstance(run, AsRoot):
            attack.without("node.commands._clear", only_the_first)
            run(HANG, mark, seconds=0.7, bare=True)
        else:  # its node is another process: the same without one
            words = [*kill_words(), "-c", HANG, mark]
            first = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
            time.sleep(0.5)
            only_the_first(first)
        left = alive(mark)
        attack.succeeded(len(left) > 1)
        while left := alive(mark):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            processes.reap_orphans()


def only_the_first(process: subprocess.Popen[bytes], *_: object, **__: object) -> None:
    """What a plain time-out does."""
    process.kill()
    process.wait()


def kill_words() -> list[str]:
    """Return the words before a program that the app's user runs."""
    return ["setpriv", f"--reuid={USER.uid}", f"--regid={USER.gid}", "--clear-groups",
            "/usr/bin/python3", "-I", "-S"]  # fmt: skip


def test_a_hook_that_is_told_to_stop_may_tidy_up(run: AsRoot | AsUser) -> None:
    code = (
        "import signal, sys, time\n"
        "def stop(*_): print('tidy', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('ready', flush=True)\ntime.sleep(600)"
    )
    ended = run(code, seconds=1.0)
    assert ended.code is None and ended.output.split() == [b"ready", b"tidy"]


def test_a_flood_of_output_is_bounded_and_obeyed_by_no_terminal(run: AsRoot | AsUser) -> None:
    code = (
        "import os\nos.write(1, b'first\\n')\n"
        "try:\n    while True: os.write(1, b'\\x1b[2J\\x07flood' * 1000)\n"
        "finally: pass"
    )
    began = time.monotonic()
    ended = run(code, seconds=1.5)  # a room by systemd takes most of a second on a busy machine
    assert ended.code is None and time.monotonic() - began < 6
    assert len(ended.output) <= limits.OUTPUT_BYTES
    assert ended.output.startswith(b"first\n") and b" bytes]\n" in ended.output
    told = cleaned(ended.output, limit=limits.LOG_TAIL_BYTES)
    assert "flood" in told and "\x1b" not in told and "\x07" not in told


@pytest.mark.long
@pytest.mark.misuse
def test_a_hook_takes_no_more_memory_and_tasks_than_it_may(
    run: AsRoot | AsUser, ablation: Ablation
) -> None:
    code = (
        "import os, time\n"
        "try: held = bytearray(600 << 20); print('memory')\n"
        "except MemoryError: pass\n"
        "count = 0\n"
        "try:\n"
        "    while count < 140:\n"
        "        if os.fork() == 0: time.sleep(600)\n"
        "        count += 1\n"
        "except OSError: pass\n"
        "print('tasks' if count == 140 else '')"
    )
    assert run(code, seconds=20).output.split() == []
    with ablation("its limits") as attack:
        said = run(code, seconds=20, bare=True).output.split()
        attack.succeeded(said == [b"memory", b"tasks"])


@pytest.mark.misuse
def test_root_and_a_node_without_a_sandbox_run_no_hook(ablation: Ablation, tmp_path: Path) -> None:
    found = bubblewrap.find()
    assert found is not None
    room = backends.Room(read=(), write=(), user=None)
    for backend in (found, backends.Refusing()):
        with pytest.raises(Denied) as caught:
            commands.run(["/usr/bin/id", "-u"], env={}, cwd=tmp_path, seconds=5, backend=backend,
                         room=room)  # fmt: skip
        assert caught.value.reason in ("no-user", "no-sandbox")
    done = subprocess.run(
        processes.launched(["/usr/bin/id", "-u"], User(0, 0)), capture_output=True
    )
    assert done.returncode == 127 and b"never root" in done.stderr
    with ablation("the refusal") as attack:
        ended = commands.run(["/usr/bin/id", "-u"], env={}, cwd=tmp_path, seconds=5)
        attack.succeeded(ended.output.split() == [b"0"])


def test_what_a_room_costs(run: AsRoot | AsUser) -> None:
    if isinstance(run, AsRoot):
        began = time.monotonic()
        for _ in range(5):
            assert commands.run(["/usr/bin/true"], env={}, cwd=Path("/"), seconds=5,
                                backend=run.backend, room=run.stage.room(USER, changes=True)
                                ).is_good  # fmt: skip
        print(f"figure: hook_room = {(time.monotonic() - began) / 5 * 1000:.0f} ms")
