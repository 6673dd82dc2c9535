"""Production as real processes: apply is root without a network, fetch and the app other users."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from embrasure import limits
from embrasure.bundle.manifest import ExecProbe, FileAgeProbe, Hook, TcpProbe
from embrasure.errors import Unavailable
from embrasure.trust.documents import digest
from embrasure.trust.receipt import parse_receipt
from node import ipc, processes
from node.answering import Deaf, NoSource, converse
from node.desk import Desk
from node.ipc import SOCKET, to_apply
from node.launch import TASKS, hidden
from node.messages import StatusAsk
from node.metrics import certificate_end
from node.receipts import Outbox
from tests.ablation import Ablation
from tests.integration.test_node_units import unit
from tests.integration.test_renewal import serial_at
from tests.simulate.fleet import SimFleet
from tests.simulate.hooks import kinds, missing
from tests.simulate.installer import free_port
from tests.simulate.production import FETCH, SHOP, STRANGER, in_production, passable
from tests.simulate.renewing import renewing
from tests.simulate.running import PROGRAM, Running, answers, libraries, status, until
from tests.unit.node.test_desk import Slow, Still

pytestmark = pytest.mark.skipif(not kinds(), reason=missing())
CAPABILITIES = (1 << 0) | (1 << 6) | (1 << 7)
PYTHON = "/usr/bin/python3"


@pytest.fixture
def fleet() -> Iterator[SimFleet]:
    with passable() as top:
        yield SimFleet(top)


def as_user(uid: int, code: str, *words: object) -> str:
    """Return what a Python program of that user prints."""
    done = subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", PYTHON, "-I", "-S",
         "-c", code, *map(str, words)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return done.stdout + done.stderr


def facts(pid: int | str) -> dict[str, str]:
    """Return the lines of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def rights(pid: int) -> list[tuple[tuple[str, str, str], str]]:
    """Return what each thread of a process has: three sets of capabilities, and a filter or not."""
    found = [facts(f"{pid}/task/{thread.name}") for thread in Path(f"/proc/{pid}/task").iterdir()]
    return [
        ((one["CapEff"], one["CapPrm"], one["CapBnd"]), one["Seccomp"].strip()) for one in found
    ]


def pids_of(uid: int) -> list[int]:
    """Return the processes of a user."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if facts(int(entry.name))["Uid"].split()[0] == str(uid):
                    found.append(int(entry.name))
            except (OSError, KeyError):
                continue
    return found


def words_of(pid: int) -> bytes:
    """Return the command line of a process, nothing when it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


OPEN = """
import sys
for path in sys.argv[1:]:
    try: print("read", len(open(path, "rb").read()))
    except OSError as problem: print(problem.strerror)
"""
CONNECT = """
import socket, sys
way = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    way.connect(sys.argv[1])
    way.send(b'{"is":"status-ask"}')
    print("answered" if way.recv(65536) else "hung up")
except OSError as problem: print(problem.strerror)
"""


@pytest.mark.misuse
def test_a_production_node_is_three_users_and_an_install_goes_through(
    fleet: SimFleet, ablation: Ablation
) -> None:
    port = free_port()
    node = in_production(fleet, "node", port=port)
    paths = node.paths
    plan, gate = fleet.publish(node, "1")
    with unit(node, "apply") as apply, unit(node, "fetch") as fetch:
        asyncio.run(fleet.gateway(node).order(fleet.order(node, plan, gate)))
        assert until(lambda: answers(port), what="the app")

        # Who they are.
        root = facts(apply.pid)
        assert root["Uid"].split()[1] == "0" and int(root["CapBnd"], 16) == CAPABILITIES
        assert int(root["CapEff"], 16) == CAPABILITIES and root["Seccomp"].strip() == "2"
        threads = rights(apply.pid)
        assert {held for held, _ in threads} == {(f"{CAPABILITIES:016x}",) * 3}
        assert [kind for _, kind in threads].count("0") == 1, "the thread that starts apps"
        assert "cygrpc" not in libraries(apply.pid) and "cygrpc" in libraries(fetch.pid)
        net = facts(fetch.pid)
        assert set(net["Uid"].split()) == {str(FETCH.uid)} and not net["Groups"].strip()
        assert int(net["CapEff"], 16) == int(net["CapPrm"], 16) == 0 and net["NoNewPrivs"] == "1"
        (app,) = [pid for pid in pids_of(SHOP.uid) if b"main.py" in words_of(pid)]
        assert facts(app)["PPid"] == str(apply.pid)
        assert int(facts(app)["CapEff"], 16) == 0 and facts(app)["NoNewPrivs"] == "1"
        said = status(node)["isolation"]
        assert isinstance(said, dict) and (said["sandbox"], said["level"]) == ("bubblewrap", 1)
        receipts = Outbox(paths).of_plan("shop", digest(plan))
        assert {parse_receipt(one.signed, node.receipt_key).isolation for one in receipts} == {1}

        # What fetch's user, the app's and a stranger read.
        private = [paths.receipt_key, paths.seal_key, paths.floors / "a", paths.app_toml("shop"),
                   *paths.outbox.iterdir(), *paths.journal.iterdir()]  # fmt: skip
        for user in (FETCH, SHOP, STRANGER):
            assert "read" not in as_user(user.uid, OPEN, *private)
        assert "read" in as_user(FETCH.uid, OPEN, paths.tls_key)
        assert "read" not in as_user(SHOP.uid, OPEN, paths.tls_key)
        code = paths.current("shop") / "manifest.json"
        assert "read" in as_user(SHOP.uid, OPEN, code)
        assert "read" not in as_user(STRANGER.uid, OPEN, code)

        # Who may speak with apply.
        sock = paths.run / SOCKET
        assert "answered" in as_user(FETCH.uid, CONNECT, sock)
        for user in (SHOP, STRANGER):
            assert "Permission denied" in as_user(user.uid, CONNECT, sock)
        sock.chmod(0o666)
        assert "answered" not in as_user(STRANGER.uid, CONNECT, sock), "the kernel says who it is"
        with ablation("the users") as attack:
            # One user for all, as in development: it reads every key, and is believed.
            attack.succeeded("Permission" not in as_user(0, OPEN, *private))
            to_apply(paths).close()
        fetch.end()
        assert answers(port), "the app does not need fetch"
        apply.end()
    # Other tests use these users at the same time: these very processes are gone.
    assert not any(Path(f"/proc/{pid}").exists() for pid in (app, fetch.pid, apply.pid))


@pytest.mark.misuse
def test_a_socket_takes_only_the_users_it_was_told(fleet: SimFleet, ablation: Ablation) -> None:
    folder = fleet.folder / "run"
    folder.mkdir(mode=0o711)
    listener = ipc.Listener(folder, SOCKET, group=FETCH.gid)
    (folder / SOCKET).chmod(0o666)

    def asks(allowed: frozenset[int]) -> bool:
        words = ["setpriv", f"--reuid={STRANGER.uid}", f"--regid={STRANGER.gid}", "--clear-groups"]
        process = subprocess.Popen(
            [*words, PYTHON, "-I", "-S", "-c", CONNECT, str(folder / SOCKET)],
            stdout=subprocess.DEVNULL,
        )
        channel = listener.accept(allowed, seconds=20)
        if channel is not None:
            channel.close()
        process.wait(20)
        return channel is not None

    try:
        assert not asks(frozenset({0, FETCH.uid}))
        with ablation("the user ids") as attack:
            attack.without("node.ipc.check_peer")
            attack.succeeded(asks(frozenset({0, FETCH.uid})))
    finally:
        listener.close()


CROWD = """
import socket, sys, time
ways = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(int(sys.argv[2]))]
for way in ways: way.connect(sys.argv[1])
print("here", flush=True)
time.sleep(60)
"""


@pytest.mark.misuse
def test_a_crowd_of_fetch_leaves_the_owner_his_room(fleet: SimFleet, ablation: Ablation) -> None:
    """A stolen fetch held every conversation, and `node status` said that no agent runs."""
    folder, stop = fleet.folder / "run", threading.Event()
    folder.mkdir(mode=0o711)
    desk = Desk(Slow(), Still(), allowed=frozenset({0, FETCH.uid}))
    words = ["setpriv", f"--reuid={FETCH.uid}", f"--regid={FETCH.gid}", "--clear-groups", PYTHON]
    with closing(ipc.Listener(folder, SOCKET, group=FETCH.gid)) as listener:
        serving = threading.Thread(target=desk.serve, args=(listener, stop))
        serving.start()

        def is_heard() -> bool:
            """Whether the owner is, while as many of fetch are there as have room."""
            crowd = subprocess.Popen(
                [
                    *words,
                    "-I",
                    "-S",
                    "-c",
                    CROWD,
                    str(folder / SOCKET),
                    str(limits.CONVERSATIONS + 2),
                ],
                stdout=subprocess.PIPE,
            )
            with crowd:
                assert crowd.stdout and crowd.stdout.readline() == b"here\n"
                time.sleep(0.3)
                try:
                    with ipc.connect(folder, SOCKET, frozenset({0})) as channel:
                        return converse(channel, StatusAsk(), NoSource(), Deaf()).state is not None
                except Unavailable:
                    return False
                finally:
                    crowd.kill()

        try:
            assert is_heard()
            with ablation("a room for each user") as attack:
                desk._rooms[0] = desk._rooms[FETCH.uid]
                attack.succeeded(not is_heard())
        finally:
            stop.set()
            serving.join()


THREADS = """
import sys, threading
end, count = threading.Event(), 0
try:
    for count in range(int(sys.argv[1])):
        threading.Thread(target=end.wait, daemon=True).start()
except RuntimeError: pass
print(count, flush=True)
end.set()
"""


@pytest.mark.long
@pytest.mark.misuse
def test_one_app_does_not_use_up_the_processes_of_all(ablation: Ablation) -> None:
    """Apply and every other app live beside it: a thread that apply cannot have stops them all."""
    code, most = [PYTHON, "-I", "-S", "-c", THREADS, str(TASKS + 50)], TASKS
    words = ["setpriv", f"--reuid={SHOP.uid}", f"--regid={SHOP.gid}", "--clear-groups"]

    def threads(command: list[str]) -> int:
        done = subprocess.run(command, env=hidden({"PATH": "/usr/bin"}), stdout=subprocess.PIPE,
                              timeout=30)  # fmt: skip
        return int(done.stdout)

    assert threads(processes.launched(code, SHOP)) < most
    with ablation("its own bound") as attack:
        attack.succeeded(threads([*words, *code]) >= most)


@pytest.mark.misuse
def test_apply_makes_no_network_socket(fleet: SimFleet, ablation: Ablation) -> None:
    code = (
        "import socket, sys\n"
        "from embrasure.sandbox import CAPABILITIES, keep_capabilities, leave_the_network\n"
        "if sys.argv[1] == 'apply':\n"
        "    keep_capabilities(CAPABILITIES); leave_the_network()\n"
        "for family in (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET):\n"
        "    kind = socket.SOCK_RAW if family == socket.AF_PACKET else socket.SOCK_STREAM\n"
        "    try: socket.socket(family, kind); print('made')\n"
        "    except OSError as problem: print(problem.errno)\n"
        "socket.socket(socket.AF_UNIX).close(); print('unix')"
    )

    def said(who: str) -> list[str]:
        done = subprocess.run([PROGRAM[0], "-c", code, who], capture_output=True, text=True)
        return done.stdout.split()

    assert said("apply") == ["13", "13", "13", "unix"]
    with ablation("the filter") as attack:
        attack.succeeded(said("nobody")[:2] == ["made", "made"])


@pytest.mark.misuse
def test_no_thread_of_apply_keeps_what_the_others_gave_up(ablation: Ablation) -> None:
    """All threads share one memory: code in one of them has the rights of any."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from embrasure.sandbox import CAPABILITIES, keep_capabilities\n"
        "from node.service import Signals\n"
        "signals = Signals()\n"
        "stop = signals.stop() if sys.argv[1] == 'before' else None\n"
        "keep_capabilities(CAPABILITIES)\n"
        "stop = stop or signals.stop()\n"
        "for thread in Path('/proc/self/task').iterdir():\n"
        "    lines = (thread / 'status').read_text().splitlines()\n"
        "    print(*(line.split()[1] for line in lines if line.startswith('CapEff')))"
    )

    def held(when: str) -> set[int]:
        done = subprocess.run([PROGRAM[0], "-c", code, when], capture_output=True, text=True)
        first, second = done.stdout.split()
        return {int(first, 16), int(second, 16)}

    assert held("after") == {CAPABILITIES}
    with ablation("the moment at which the thread for signals starts") as attack:
        attack.succeeded(any(rights & 1 << 5 for rights in held("before")))  # CAP_KILL, and all


@pytest.mark.long
def test_a_hook_and_a_probe_run_as_the_app_in_a_room(fleet: SimFleet) -> None:
    port = free_port()
    node = in_production(fleet, "node", port=port)
    shared = node.paths.shared("shop")
    told = (
        f"id -u > {shared}/who; cat /proc/self/status | grep -c 'Seccomp:.2' > {shared}/filter; "
        f"ls {node.paths.keys} > {shared}/keys 2>&1; true"
    )
    hook = Hook(point="prepare", argv=("sh", "-c", told), timeout_s=20)
    probe = ExecProbe(
        argv=("sh", "-c", f"test -s {shared}/who && ! touch {shared}/x"), interval_ms=50,
        timeout_ms=5000, start_s=20, passes=1,
    )  # fmt: skip
    beat = FileAgeProbe(path="beat", max_age_s=60, interval_ms=50, timeout_ms=5000, start_s=20,
                        passes=1)  # fmt: skip
    tcp = TcpProbe(port="web", interval_ms=50, timeout_ms=5000, start_s=20, passes=2)
    line = 'touch "$EMBRASURE_SHARED/beat"; exec python3 code/main.py'
    app = node.paths.app_toml("shop")
    app.write_text(app.read_text().replace("{ python3", '{ sh = "/bin/sh", python3'))
    plan, gate = fleet.publish(
        node, "1",
        change=lambda one: msgspec.structs.replace(
            one, hooks=(hook,), probes=(*one.probes, probe, beat, tcp),
            run=msgspec.structs.replace(one.run, argv=("sh", "-c", line)),
        ),
    )  # fmt: skip
    with unit(node, "apply"), unit(node, "fetch"):
        asyncio.run(fleet.gateway(node).order(fleet.order(node, plan, gate)))
        assert until(lambda: answers(port), what="the app")
        assert (shared / "who").read_text().strip() == str(SHOP.uid)
        assert (shared / "filter").read_text().strip() == "1"
        assert "No such file" in (shared / "keys").read_text()
        assert not (shared / "x").exists()
        assert status(node)["apps"][0]["state"] == "idle"  # type: ignore[index]  # read as JSON


@pytest.mark.long
def test_a_node_starts_its_two_users_itself(fleet: SimFleet) -> None:
    port = free_port()
    node = in_production(fleet, "node", mode="push", port=port)
    running = Running(node)
    try:
        until((node.paths.run / "net" / "ports.json").exists, what="fetch")
        assert len(pids_of(FETCH.uid)) == 1
    finally:
        running.end()
    assert not pids_of(FETCH.uid)


WRITE = """
import sys
for path in sys.argv[1:]:
    try: open(path, "wb").write(b"x"); print("wrote", path)
    except OSError: pass
"""
FORGE = """
import base64, json, os, socket, sys
sock, ask = sys.argv[1], json.loads(sys.argv[2])
way = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
way.connect(sock)
way.settimeout(20)
way.send(json.dumps(ask, separators=(",", ":")).encode())
said = []
while raw := way.recv(65536):
    note = json.loads(raw)
    said.append(note["is"] + " " + note.get("reason", ""))
    if note["is"] in ("failure", "done", "failed"): break
print(said)
"""


@pytest.mark.long
@pytest.mark.misuse
def test_a_stolen_fetch_installs_nothing_and_signs_nothing(
    fleet: SimFleet, ablation: Ablation
) -> None:
    port = free_port()
    node = in_production(fleet, "node", port=port)
    paths = node.paths
    plan, gate = fleet.publish(node, "1")
    with unit(node, "apply"), unit(node, "fetch"):
        asyncio.run(fleet.gateway(node).order(fleet.order(node, plan, gate)))
        assert until(lambda: answers(port), what="the app")
        before = [path.name for path in paths.outbox.iterdir()]
        release = paths.current("shop").resolve()
        inside = [release / "config" / "version", release / "new", paths.current("shop"),
                  paths.blobs / "new", paths.journal / "shop.json", paths.outbox / "new",
                  paths.floors / "a", paths.tls_bundle, paths.tls_denials, paths.node_toml,
                  paths.app_toml("shop"), paths.holds, paths.run / "x", paths.shared("shop") / "x",
                  paths.receipt_key, paths.seal_key]  # fmt: skip
        assert as_user(FETCH.uid, WRITE, *inside) == ""
        # It says to apply what it likes: an order by nobody, and one that was changed.
        order = fleet.order(node, plan, gate)
        for envelope in (b"{}", order.replace(b'"sig"', b'"gis"'), order[:-20] + b"0" * 18 + b"}]"):
            ask = {"is": "order", "envelope": base64.b64encode(envelope).decode()}
            said = as_user(FETCH.uid, FORGE, paths.run / SOCKET, json.dumps(ask))
            assert "committed" not in said and "failure" in said, said
        assert [path.name for path in paths.outbox.iterdir()] == before
        assert answers(port) == "1"
        with ablation("its own user") as attack:
            victim = paths.blobs / "new"
            attack.succeeded("wrote" in as_user(0, WRITE, victim))
            victim.unlink()


@pytest.mark.long
def test_a_certificate_is_renewed_by_fetch_alone(fleet: SimFleet) -> None:
    node = in_production(fleet, "node", port=free_port(), aged=timedelta(days=3))
    with unit(node, "apply"), unit(node, "fetch"):
        before = serial_at(node.port)
        folder = fleet.folder / "gateway"
        with renewing(folder, fleet.repository, fleet.authority) as renewals:
            renewals.address("node", node.id, node.port)
            asyncio.run(renewals.renewals.look())
            held = renewals.held("node", node.id)
            assert held.problem == "" and held.serial != before
            assert serial_at(node.port) == held.serial
        found = node.paths.renewed.stat()
        assert (found.st_uid, found.st_mode & 0o777) == (FETCH.uid, 0o600)
        # What fetch can write is not opened by apply's user, whatever fetch lets it.
        good = node.paths.renewed.read_bytes()
        end = certificate_end(node.paths)
        node.paths.tls.chmod(0o755)
        node.paths.renewed.chmod(0o644)
        assert certificate_end(node.paths) == end
        node.paths.renewed.unlink()
        assert certificate_end(node.paths) == end, "of the first certificate alone"
        node.paths.tls.chmod(0o700)
        node.paths.renewed.write_bytes(good)
        os.chown(node.paths.renewed, FETCH.uid, FETCH.gid)
        node.paths.renewed.chmod(0o600)
    with unit(node, "apply"), unit(node, "fetch"):
        assert serial_at(node.port) == held.serial
    # Half a file keeps nobody out of reach.
    node.paths.renewed.write_bytes(good[:300])
    with unit(node, "apply"), unit(node, "fetch"):
        assert serial_at(node.port) == before


@pytest.mark.long
@pytest.mark.misuse
def test_what_a_killed_apply_left_of_an_app_is_gone_and_nothing_else(
    fleet: SimFleet, ablation: Ablation
) -> None:
    port = free_port()
    node = in_production(fleet, "node", port=port)
    app = node.paths.app_toml("shop")
    app.write_text(app.read_text().replace("{ python3", '{ sh = "/bin/sh", python3'))
    line = "(trap '' TERM; exec setsid sleep 611) & exec python3 code/main.py"
    plan, gate = fleet.publish(
        node, "1",
        change=lambda one: msgspec.structs.replace(
            one, run=msgspec.structs.replace(one.run, argv=("sh", "-c", line))
        ),
    )  # fmt: skip

    def sleepers() -> list[int]:
        return [pid for pid in pids_of(SHOP.uid) if b"611" in words_of(pid)]

    # Of another user: nothing of it is touched. (All that is the app's user ends with the app.)
    words = ["setpriv", f"--reuid={STRANGER.uid}", f"--regid={STRANGER.gid}", "--clear-groups"]
    other = subprocess.Popen([*words, "sleep", "612"])
    try:
        with suppress(AssertionError), unit(node, "apply") as apply:
            with unit(node, "fetch"):
                asyncio.run(fleet.gateway(node).order(fleet.order(node, plan, gate)))
                assert until(lambda: answers(port), what="the app")
            (left,) = sleepers()
            (first,) = [pid for pid in pids_of(SHOP.uid) if b"main.py" in words_of(pid)]
            os.kill(apply.pid, signal.SIGKILL)
        time.sleep(0.5)
        old = processes.of(SHOP)
        # The kernel ends nothing of it: no thread of apply could signal another user.
        assert {left, first} <= old, "it outlived apply"
        with ablation("the end of its user at the next start") as attack:
            # Nobody looks after it, it holds the port, and would answer in a new release's place.
            attack.succeeded(until(lambda: answers(port), what="an answer of the old app"))
        with unit(node, "apply"):
            assert until(lambda: answers(port), what="the app")
            assert not old & processes.of(SHOP) and len(sleepers()) == 1
            assert other.poll() is None
            os.kill(sleepers()[0], signal.SIGKILL)  # else apply waits for it as long as for any app
        assert not processes.of(SHOP)
    finally:
        other.kill()
        other.wait()
