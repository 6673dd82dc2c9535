"""A real node in a folder, with a real small app, against a simulated repository.

bench = SimInstaller(tmp_path)                 # node made, enrolled, listed; app "shop" delegated
bench.publish("1.0")                           # plan, gate 0, blobs: published
bench.acceptor.poll(bench.source(), bench.report)
bench.ask() -> "1.0"                           # what the app answers over HTTP
bench.close()
"""

from __future__ import annotations

import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import Signer

from embrasure import limits
from embrasure.bundle.manifest import Entry, HttpProbe, Manifest, Probe, parse_manifest
from embrasure.clock import now, write_time
from embrasure.errors import EmbrasureError
from embrasure.trust import dsse
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import Enrolled
from embrasure.trust.directory import Floors as FirstFloors
from embrasure.trust.documents import digest, write
from embrasure.trust.order import Order
from embrasure.trust.plan import Plan
from embrasure.trust.receipt import Receipt, parse_receipt
from embrasure.trust.source import Source
from node.accept import Acceptor
from node.backends import Bare
from node.companions import Keeper
from node.config import AppConfig, load_config
from node.confirm_messages import AwaitsNote
from node.deadline import uptime_ms
from node.identity import create_identity, load_identity, load_seal_key, new_node_id
from node.isolation import DEVELOPMENT, Isolation
from node.paths import Paths
from node.serve_only import acceptor_of
from node.serving import Standing
from node.users import User
from tests.simulate.inner import InnerApps
from tests.simulate.nodes import SimNode
from tests.simulate.releases import SimRelease, make_release
from tests.simulate.repository import SimRepository

# A small HTTP server that starts in a moment: answers its version, or fails as it is told to.
SERVER = b"""\
import os, socket, sys, time
mode = open("config/mode").read().strip()
if mode == "crash":
    print("cannot start: out of luck", flush=True)
    sys.exit(3)
server = socket.create_server(("127.0.0.1", int(os.environ["EMBRASURE_PORT_WEB"])))
began = time.monotonic()
print("listening, mode", mode, flush=True)
while True:
    peer, _ = server.accept()
    peer.recv(4096)
    late = mode == "late" and time.monotonic() - began > 0.6
    status = b"500 Bad" if mode == "bad" or late else b"200 OK"
    body = open("config/version", "rb").read().strip()
    head = b"HTTP/1.1 %s\\r\\nContent-Length: %d\\r\\n\\r\\n" % (status, len(body))
    peer.sendall(head + body)
    peer.close()
"""


def quick_http(*, start_s: int = 1) -> HttpProbe:
    """Return a probe that gives up after a second."""
    return HttpProbe(
        port="web", path="/health", status=200, interval_ms=20, timeout_ms=1000, start_s=start_s,
        passes=2,
    )  # fmt: skip


def patient(bench: SimInstaller, version: str, **how: Any) -> SimRelease:
    """Return a good release whose probes wait as long as a busy machine needs to start it."""
    return bench.make(version, probes=[quick_http(start_s=20)], **how)


def free_port() -> int:
    """Return a loopback port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@dataclass(slots=True)
class Told:
    """A report that remembers everything."""

    receipts: list[tuple[bytes, bytes]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    def receipt(self, signed: bytes, body: bytes) -> None:
        self.receipts.append((signed, body))

    def progress(self, state: str, done: int, total: int) -> None:
        if not self.states or self.states[-1] != state:
            self.states.append(state)

    def awaits(self, note: AwaitsNote) -> None:
        """Nobody brings the word."""


class Confirms(Told):
    """A report whose gateway dials anew and confirms at once. changes: what its order says else."""

    def __init__(self, bench: SimInstaller, **changes: object) -> None:
        super().__init__()
        self._bench, self._changes = bench, changes
        self.answers: list[str] = []
        self.threads: list[threading.Thread] = []

    def awaits(self, note: AwaitsNote) -> None:
        """The order is on its way, as the product's gateway would have it."""
        thread = threading.Thread(target=self._answers)
        self.threads.append(thread)
        thread.start()

    def _answers(self) -> None:
        bench = self._bench
        note = bench.acceptor.awaited(uptime_ms())
        if note is None:
            self.answers.append("nothing waits")
            return
        try:
            answer = bench.acceptor.confirm(
                bench.confirmation(note, **self._changes), bench.source(), opened_ms=uptime_ms()
            )
            self.answers.append(answer.reason)
        except EmbrasureError as problem:
            self.answers.append(problem.reason)


class TestClock:
    """Real time, moved by hand."""

    __test__ = False

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return now() + self.ahead


def make_node(root: Path, repo: SimRepository, *, mode: str = "pull", name: str = "") -> Paths:
    """Return the paths of a node that is made, listed in the directory and enrolled."""
    paths = Paths(root)
    paths.config.mkdir(parents=True)
    paths.apps.mkdir()
    node = name or new_node_id()
    create_identity(
        paths, node=node, env=repo.env, mode="push" if mode == "push" else "pull",
        domain="sim.test", root_id=repo.root_id, clock=now,
    )  # fmt: skip
    paths.anchor.write_bytes(repo.anchor)
    paths.node_toml.write_text(
        f'id = "{node}"\nenv = "{repo.env}"\nmode = "{mode}"\ndomain = "sim.test"\n'
    )
    paths.node_toml.chmod(0o600)
    identity = load_identity(paths)
    repo.add_node(
        SimNode(
            id=node, env=repo.env, mode=identity.mode, signing=identity.receipt_key,
            seal=load_seal_key(paths),
        )
    )  # fmt: skip
    enrol(paths, repo)
    return paths


def enrol(
    paths: Paths,
    repo: SimRepository,
    *,
    signer: Signer | None = None,
    seq: Mapping[str, int] | None = None,
    changes: Mapping[str, object] | None = None,
) -> None:
    """The security team's answer lies where the node looks for it."""
    identity, versions = load_identity(paths), repo.versions
    answer = Enrolled(
        v=1,
        type="enrolled",
        root=repo.root_id,
        env=identity.env,
        node=identity.node,
        epoch=identity.epoch,
        floors=FirstFloors(
            root=versions["root"],
            targets=versions["targets"],
            fleet=versions[f"fleet-{repo.env}"],
            revocations=versions["revocations"],
            seq=dict(seq or {}),
            time=write_time(repo.clock()),
        ),
        tls=repo.bundles[repo.env],
        chain=(),
    )
    answer = msgspec.structs.replace(answer, **(changes or {}))
    signer = signer or repo.sign_with[f"fleet-{repo.env}"][0]
    paths.enrolled.write_bytes(dsse.seal("enrolled", write(answer), signer))


APP_USER = User(54321, 54321)  # a number: nobody has to exist


@dataclass(frozen=True, slots=True)
class Owned(Isolation):
    """Development, but what apps own is a user's: files of a release are names of the blobs."""

    def user(self, app: str, config: AppConfig) -> User:
        return APP_USER


class SimInstaller:
    """One node, one app, one repository."""

    def __init__(
        self,
        root: Path,
        *,
        app: str = "shop",
        mode: str = "pull",
        stop_seconds: float = 2,
        confirm_s: int = limits.CONFIRM_SECONDS,
        inner: bool = False,
        owned: bool = False,
    ) -> None:
        """inner: apps are files of this process (`tests/simulate/inner.py`), no programs; owned: by
        a user who is not root, which only root can do.
        """
        self.inner = inner
        self.owned = owned
        self._isolation = Owned(False, Bare(), 0) if owned else DEVELOPMENT
        self.clock = TestClock()
        self.app = app
        self.repo = SimRepository(clock=self.clock)
        self.repo.add_app(app)
        self.paths = make_node(root / "node", self.repo, mode=mode)
        with self.paths.node_toml.open("a") as config:
            config.write(f"confirm_s = {confirm_s}\n")
        self.identity = load_identity(self.paths)
        self.node = self.repo.nodes[self.identity.node]
        self.repo.publish()
        self.port = free_port()
        self.allow(app, self.port)
        self.report = Told()
        self.stop_seconds = stop_seconds
        self.plan: Plan | None = None
        self.release: SimRelease | None = None
        self.open()

    def allow(self, app: str, port: int) -> None:
        """The owner lets the app run on this port."""
        text = (
            f'[ports]\nweb = {port}\n[interpreters]\npython3 = "{sys.executable}"\nsh = "/bin/sh"\n'
        )
        self.paths.app_toml(app).write_text(text)
        self.paths.app_toml(app).chmod(0o600)

    def open(self, standing: Standing | None = None) -> None:
        """The node's apply side runs. standing: what it goes by, whole by default."""
        self.supervisor: Keeper | InnerApps
        if self.inner:
            self.supervisor = InnerApps(self.paths)
        else:
            self.supervisor = Keeper(self.paths, stop_seconds=self.stop_seconds)
        self.acceptor: Acceptor = acceptor_of(
            self.paths, standing or Standing(load_config(self.paths), self.identity),
            self.supervisor, clock=self.clock, isolation=self._isolation,
        )  # fmt: skip
        self.acceptor.recover()

    def close(self) -> None:
        """Nothing of the node runs."""
        self.acceptor.close()
        self.supervisor.close()

    def restart(self) -> None:
        """The node was stopped and started again."""
        self.close()
        self.open()

    def give_time(self, seconds: int) -> None:
        """A release that is installed from now on waits so long for its word, until a restart."""
        object.__setattr__(self.acceptor._ground, "confirm_s", seconds)

    def source(self) -> Source:
        """Return what is published."""
        return self.repo.source()

    def make(
        self,
        version: str,
        mode: str = "good",
        *,
        argv: Sequence[str] = ("python3", "code/main.py"),
        files: Mapping[str, bytes] | None = None,
        probes: Sequence[Probe] | None = None,
        change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    ) -> SimRelease:
        """Return a release of the small server."""
        every = {
            "code/main.py": SERVER,
            "config/mode": mode.encode(),
            "config/version": version.encode(),
            **(files or {}),
        }
        made = make_release(self.app, every, version=version, argv=argv, probes=[quick_http()])
        manifest = change(
            msgspec.structs.replace(made.manifest, probes=tuple(probes or [quick_http()]))
        )
        raw = write(manifest)
        parse_manifest(raw)
        return SimRelease(manifest, raw, sha256_hex(raw), made.blobs)

    def publish(
        self,
        version: str = "1.0",
        mode: str = "good",
        *,
        release: SimRelease | None = None,
        soak_s: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> Plan:
        """Return the plan, published with its open gate, that makes this node the canary."""
        self.release = self.repo.add_release(self.app, release=release or self.make(version, mode))
        self.plan = self.repo.set_plan(
            self.release, canary=[self.node], soak_s=soak_s, settings=settings
        )
        self.repo.set_gate(self.plan)
        self.repo.publish()
        return self.plan

    def order(self, *, oseq: int, **changes: object) -> bytes:
        """Return a signed order for the published plan."""
        plan = self.repo.plans[f"{self.repo.env}-{self.app}"]
        at = self.clock()
        order = Order(
            v=1,
            type="order",
            root=self.repo.root_id,
            env=self.repo.env,
            node=self.identity.node,
            node_epoch=1,
            app=self.app,
            plan=digest(plan),
            gate="0" * 64,
            action="apply",
            tx=None,
            node_nonce=None,
            oseq=oseq,
            nonce=f"{oseq:032x}",
            issued=write_time(at),
            expires=write_time(at + timedelta(seconds=120)),
        )
        order = msgspec.structs.replace(order, **changes)
        return dsse.seal("order", write(order), self.repo.sign_with[f"gates-{self.repo.env}"][0])

    def confirmation(self, note: AwaitsNote, **changes: object) -> bytes:
        """Return the signed order that confirms what waits, with a number just above the floor."""
        floor = max(self.acceptor._ground.floors.load().oseq.values(), default=0)
        members = {
            "action": "confirm", "plan": note.plan, "tx": note.tx, "node_nonce": note.nonce,
            "oseq": floor + 1, **changes,
        }  # fmt: skip
        return self.order(**members)  # type: ignore[arg-type]  # members by name

    def poll(self, source: Source | None = None) -> str:
        """Return what became of the app: `kind reason`."""
        answer = self.acceptor.poll(source or self.source(), self.report)[0]
        return f"{answer.kind} {answer.reason}".strip()

    def poll_error(self) -> str:
        """Return the reason of the error that a poll ends with."""
        try:
            return f"no error: {self.poll()}"
        except EmbrasureError as problem:
            return problem.reason

    def ask(self) -> str:
        """Return the version that answers over HTTP, once something does; of a file, its own."""
        if self.inner:
            found = self.supervisor.running(self.app)
            return (found.unit.cwd / "config" / "version").read_text() if found else "nothing"
        until = time.monotonic() + 3
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=3) as reply:
                    text: str = reply.read().decode()
                return text
            except urllib.error.URLError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def told(self) -> list[Receipt]:
        """Return every receipt in the outbox, parsed, oldest first."""
        posted = self.acceptor._ground.receipts.outbox.pending(100)
        return [parse_receipt(one.signed, bytes(self.identity.receipt_key.verify_key))
                for one in posted]  # fmt: skip


def mode_of(entry: Entry) -> int:
    """Return the mode that a file must have."""
    return int(entry.mode, 8)
