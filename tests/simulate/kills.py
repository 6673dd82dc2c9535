"""SIGKILL at random moments for the real apply process of a node that is being ordered about.

A service manager is played: what was killed is started again when its unit says so. Switches are
counted by the kernel (inotify), starts of the app by the app itself.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import random
import re
import signal
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from embrasure.errors import EmbrasureError
from embrasure.trust.receipt import Kind
from node.answering import Deaf, NoSource, converse
from node.confirm_messages import AwaitedAsk, ConfirmAsk
from node.deadline import uptime_ms
from node.ipc import to_apply
from node.journal import Journal
from node.messages import OrderAsk
from node.paths import Paths
from node.states import RESTING
from tests.simulate.installer import Confirms, SimInstaller, patient
from tests.simulate.promises import check_link, check_told
from tests.simulate.running import PROGRAM, answers, until
from tests.source import TOP

# Answers which version it is, when it began to listen (a clock that all processes share), its pid.
SERVER = b"""\
import os, socket, time
server = socket.create_server(("127.0.0.1", int(os.environ["EMBRASURE_PORT_WEB"])))
version = open("config/version", "rb").read().strip()
body = b"%s %d %d" % (version, time.monotonic_ns(), os.getpid())
while True:
    peer, _ = server.accept()
    peer.recv(4096)
    peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    peer.close()
"""
_IN_MOVED_TO = 0x80
_PATIENCE = 60.0


@dataclass
class Kill:
    """One kill. late_s: from the kill to the first answer of a process that started after it, less
    what the app takes to start by itself.

    waited_s: how much of that the kernel let apply's main thread and the app wait for a processor,
    which others had. Sleep, disk and the work itself are not in it.
    """

    version: str
    after_s: float
    late_s: float
    waited_s: float
    answered: str


@dataclass
class Result:
    """What one node went through."""

    kills: list[Kill] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    own_start_s: float = 0.0
    own_wait_s: float = 0.0


def waited(pid: int) -> float:
    """Return how long the first thread of the process was ready to run and did not, so far."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text()
    except OSError:
        return 0.0  # it is gone, or the kernel does not count: then nothing is excused
    return int(text.split()[1]) / 1e9


def restart_delay() -> float:
    """Return how long systemd waits before it starts a killed apply again, by its unit."""
    unit = TOP / "deploy" / "systemd" / "embrasure-apply.service"
    (found,) = re.findall(r"^RestartSec=([0-9]+)ms$", unit.read_text(), re.MULTILINE)
    return int(found) / 1000


class Switches:
    """Every change of `current`, as the kernel tells it."""

    def __init__(self, folder: Path) -> None:
        self._link = folder / "current"
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._fd, os.fsencode(folder), _IN_MOVED_TO) >= 0
        self.seen: list[str] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._fd, 4096):
                while data:
                    length = struct.unpack_from("iIII", data)[3]
                    name, data = data[16 : 16 + length].rstrip(b"\0"), data[16 + length :]
                    if name == b"current":
                        self.seen.append(self._link.readlink().name)

    def close(self) -> None:
        """Nothing is told any more."""
        os.close(self._fd)


class Victim:
    """A push node whose apply process is killed again and again."""

    def __init__(self, root: Path, seed: int) -> None:
        self.bench = SimInstaller(root, mode="push", stop_seconds=1)
        self.chosen = random.Random(seed)  # noqa: S311  # moments of a test, no secret
        self.approved: set[str] = set()
        self.release("0")
        self.bench.report = Confirms(self.bench)
        assert self.bench.poll() == "committed"
        self.bench.close()
        self.paths: Paths = self.bench.paths
        self.process: subprocess.Popen[bytes] | None = None
        self._number = 1000  # of the gateway's last order
        self._log = (root / "apply.log").open("ab")

    def release(self, version: str) -> None:
        """A release with this version is approved and its gate is open."""
        made = patient(self.bench, version, files={"code/main.py": SERVER})
        self.approved.add(self.bench.publish(release=made).manifest.sha256)

    def start(self) -> None:
        """The real program runs, as its systemd unit starts it."""
        self.process = subprocess.Popen(
            [*PROGRAM, "node", "run", "--root", str(self.paths.prefix), "--only", "apply"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def kill(self) -> None:
        """The process ended at once, wherever it was."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def waited(self) -> float:
        """Return how long the process was ready to run and did not, so far."""
        return 0.0 if self.process is None else waited(self.process.pid)

    def stop(self) -> None:
        """The process ended when it was asked to."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self._log.close()

    def order(self, envelope: bytes) -> list[str]:
        """Return what apply answered to the order, as fetch would bring it; "gone" if it died."""
        ask, began = OrderAsk(envelope=_text(envelope)), self.process
        while True:
            try:
                with to_apply(self.paths) as channel:
                    heard = converse(channel, ask, self.bench.source(), Deaf())
            except (EmbrasureError, OSError):
                time.sleep(0.3)  # so long a process that was killed may take to be gone
                if began is not self.process or began is None or began.poll() is not None:
                    return ["gone"]
                continue  # it lives, and had no room for one more conversation
            said = [f"{one.kind} {one.reason}".strip() for one in heard.answers]
            if said != ["wait busy"]:  # it is still recovering
                return said
            time.sleep(0.02)

    def confirm(self, stop: threading.Event) -> None:
        """Play the gateway that dials anew and lets a release stay, until `stop` is set."""
        while not stop.wait(0.02):
            with contextlib.suppress(EmbrasureError, OSError):
                with to_apply(self.paths) as channel:
                    ask = AwaitedAsk(opened_ms=uptime_ms())
                    note = converse(channel, ask, NoSource(), Deaf()).awaits
                if note is None or not note.nonce:
                    continue
                self._number += 1
                order = self.bench.order(
                    oseq=self._number, action="confirm", plan=note.plan, tx=note.tx,
                    node_nonce=note.nonce,
                )  # fmt: skip
                said = ConfirmAsk(envelope=_text(order), opened_ms=uptime_ms())
                with to_apply(self.paths) as channel:
                    converse(channel, said, self.bench.source(), Deaf())

    def next_order(self) -> bytes:
        """Return an order for what is published, with the next number."""
        self._number += 1
        return self.bench.order(oseq=self._number)

    def answered_since(self, moment: int) -> tuple[str, int]:
        """Return the version that answers from a process started after `moment`, and its pid; ""
        for none.
        """
        version, *told = answers(self.bench.port).split() or [""]
        began, pid = map(int, told or ("0", "0"))
        return (version, pid) if began > moment else ("", 0)

    def served_since(self, moment: int) -> str:
        """Return the version that answers from a process started after `moment`, "" if none."""
        return self.answered_since(moment)[0]

    def until_answered(self, moment: int) -> tuple[str, int]:
        """Return the version and the pid, as soon as such a process answers."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if (found := self.answered_since(moment))[0]:
                return found
            time.sleep(0.005)
        raise AssertionError(f"nothing answers {_PATIENCE:g} s after a kill")

    def until_served(self, moment: int) -> str:
        """Return the version, as soon as such a process answers."""
        return self.until_answered(moment)[0]

    def is_at_rest(self) -> bool:
        """Whether no install is open and orders are taken again."""
        record = Journal(self.paths).read(self.bench.app).record
        return record is not None and record.state in RESTING and self._is_listening()

    def _is_listening(self) -> bool:
        try:
            to_apply(self.paths).close()
        except EmbrasureError:
            return False
        return True

    def own_start(self, times: int = 5) -> tuple[float, float]:
        """Return how long the app itself takes from its start to its answer (median), and how much
        of that it waited for a processor.
        """
        folder, took = self.paths.current(self.bench.app).resolve(), list[tuple[float, float]]()
        argv = (self.bench.release or self.bench.make("x")).manifest.run.argv
        assert argv[0] == "python3"
        for _ in range(times):
            moment = time.monotonic_ns()
            app = subprocess.Popen(
                [PROGRAM[0], *argv[1:]], cwd=folder,
                env={"EMBRASURE_PORT_WEB": str(self.bench.port)},
            )  # fmt: skip
            self.until_served(moment)
            took.append(((time.monotonic_ns() - moment) / 1e9, waited(app.pid)))
            app.kill()
            app.wait()
        return sorted(took)[times // 2]

    def suffer(self, kills: int) -> Result:
        """Return what became of the node: each order is cut off by a kill, then sent once more."""
        own_start_s, own_wait_s = self.own_start()
        result = Result(own_start_s=own_start_s, own_wait_s=own_wait_s)
        switches = Switches(self.paths.app(self.bench.app))
        self.start()
        over = threading.Event()
        gateway = threading.Thread(target=self.confirm, args=(over,))
        gateway.start()
        try:
            until(self.is_at_rest, seconds=_PATIENCE, what="the first start")
            # One that nothing disturbs says how long an install takes.
            began = time.monotonic()
            said = self._obeyed("1")
            assert said == ["committed"], said
            typical, committed = time.monotonic() - began, "1"
            for number in range(2, kills + 2):
                before = len(switches.seen)
                # Early ones more often: later there is more waiting for probes than work.
                after_s = 1.2 * typical * self.chosen.random() ** 2
                committed = self._one(number, after_s, committed, result)
                plan = self.bench.plan
                name = f"{plan.seq}-{plan.manifest.sha256[:16]}" if plan is not None else ""
                if switches.seen[before:].count(name) > 1:
                    result.duplicates.append(f"{number}: {switches.seen[before:]}")
            last = str(kills + 2)
            said = self._obeyed(last)
            assert said == ["committed"], said
            assert self.served_since(0) == last
        finally:
            over.set()
            gateway.join()
            self.stop()
            switches.close()
        self._check_receipts(result)
        return result

    def _obeyed(self, version: str) -> list[str]:
        self.release(version)
        return self.order(self.next_order())

    def _one(self, number: int, after_s: float, committed: str, result: Result) -> str:
        """Return the version that is committed after one kill in the middle of an order."""
        version, said = str(number), list[str]()
        self.release(version)
        envelope = self.next_order()
        ordering = threading.Thread(target=lambda: said.extend(self.order(envelope)), daemon=True)
        ordering.start()
        time.sleep(after_s)
        self.kill()
        moment = time.monotonic_ns()
        time.sleep(restart_delay())
        self.start()
        answered, pid = self.until_answered(moment)
        late = (time.monotonic_ns() - moment) / 1e9 - result.own_start_s
        wait = self.waited() + waited(pid) - result.own_wait_s
        result.kills.append(Kill(version, after_s, late, wait, answered))
        ordering.join()
        allowed = {version} if said == ["committed"] else {version, committed}
        if answered not in allowed:
            result.broken.append(f"{answered} answers after a kill in {version}, {said}")
        until(self.is_at_rest, seconds=_PATIENCE, what="rest after a kill")
        try:
            check_link(self.paths, self.bench.app, self.approved)
        except AssertionError as problem:
            result.broken.append(f"after a kill in {version}: {problem}")
        # The gateway does not know what became of it, and sends it again: it is obeyed if the kill
        # came before its number was used up, and never a second time.
        again = until(lambda: self._again(envelope), seconds=_PATIENCE, what="an answer")
        if again not in (["committed"], ["none repeat"], ["refuse replay"]):
            result.duplicates.append(f"{version} sent again: {again}")
        return self.served_since(0)

    def _again(self, envelope: bytes) -> list[str] | None:
        said = self.order(envelope)
        return None if said in (["gone"], []) else said

    def _check_receipts(self, result: Result) -> None:
        key = bytes(self.bench.identity.receipt_key.verify_key)
        try:
            check_told(self.paths, key, [])
        except AssertionError as problem:
            result.broken.append(str(problem))
        told = Counter(one.plan for one in self.bench.told() if one.kind is Kind.SOAKED)
        result.duplicates += [f"{plan.hex()[:16]} told {n} times" for plan, n in told.items()
                              if n > 1]  # fmt: skip


def _text(envelope: bytes) -> str:
    return base64.b64encode(envelope).decode("ascii")


def victims(root: Path, count: int, kills: int) -> list[Result]:
    """Return what became of `count` nodes, each in a process of its own, `kills` in all."""
    pipes = []
    for worker in range(count):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(read_end)
                result = Victim(root / f"victim-{worker}", worker).suffer(kills // count)
                os.write(write_end, json.dumps(asdict(result)).encode())
            except BaseException as problem:
                with contextlib.suppress(OSError):
                    lost = Result(broken=[f"{type(problem).__name__}: {problem}"[:2000]])
                    os.write(write_end, json.dumps(asdict(lost)).encode())
            os._exit(0)
        os.close(write_end)
        pipes.append((child, read_end))
    results = []
    for child, read_end in pipes:
        with os.fdopen(read_end) as file:
            found = json.loads(file.read())
        os.waitpid(child, 0)
        found["kills"] = [Kill(**one) for one in found["kills"]]
        results.append(Result(**found))
    return results


def kills_of(results: Sequence[Result]) -> list[Kill]:
    """Return every kill, the one that was healed soonest first."""
    return sorted((kill for one in results for kill in one.kills), key=lambda kill: kill.late_s)
