"""A security team's office with real key files, and its gateway: every verb as a person types it.

office = Office.make(folder)                 # roles, environment, app, people; nodes of its own
mine = office.copy(other_folder)             # with the same nodes
with mine.gateway() as running:
    mine.as_person("anna", running.port)
    code, answer = mine.verb("whoami", person="anna")
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import io
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embrasure.cli import main
from embrasure.clock import Clock, now
from gateway.run import Opened, opened, serve
from pki.folder import TrustFolder
from pki.passphrase import PassphraseSource
from tests.simulate.ceremony import NewNode

PASSPHRASE = "correct horse battery staple"  # noqa: S105 - of keys made for tests
HOLDERS = ("alice", "bob", "cora")
OPERATORS = ("anna", "ben", "carl")
ENV, APP = "prod", "shop"
SERVER_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Answer:
    """How a verb ended: exit code, JSON on stdout, what stderr said."""

    code: int
    body: dict[str, Any]
    told: str
    error: dict[str, Any] = field(default_factory=dict)


@functools.cache
def _founded() -> Office:
    folder = Path(tempfile.mkdtemp(prefix="embrasure-office-"))
    atexit.register(_remove, folder, os.getpid())
    return Office.found(folder)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child leaves it
        shutil.rmtree(folder, ignore_errors=True)


def verb(*arguments: object) -> Answer:
    """Return how `embrasure ARGUMENTS --json` ended, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*map(str, arguments), "--json"])
    text, told = out.getvalue(), err.getvalue()
    last = told.strip().splitlines()[-1:] if code else []
    error = json.loads(last[0]) if last and last[0].startswith("{") else {}
    body = json.loads(text) if text.count("\n") == 1 else {"lines": text.splitlines()}
    return Answer(code, body if text else {}, told, error)


@dataclass
class Running:
    """A gateway in a thread of this process; `held` are its open parts."""

    port: int
    held: Opened


@dataclass
class Office:
    """Everything below one folder: `trust`, `gateway`, one folder a person."""

    folder: Path

    @property
    def trust(self) -> Path:
        """The security team's folder."""
        return self.folder / "trust"

    @property
    def passphrase(self) -> Path:
        """The one passphrase of all key files."""
        return self.folder / "passphrase"

    @classmethod
    def make(cls, folder: Path, *, nodes: int = 3) -> Office:
        """Return an office whose fleet has one environment, one app, three operators, nodes.

        A process founds one fleet, for keys take seconds; every office is a copy of that one.
        """
        office = _founded().copy(folder)
        if nodes:
            office.enrol(range(nodes))
        return office

    @classmethod
    def found(cls, folder: Path) -> Office:
        """Return the office of a new fleet, without a node."""
        office = cls(folder)
        office.passphrase.write_text(PASSPHRASE + "\n")
        office.passphrase.chmod(0o600)
        people = [word for name in HOLDERS for word in ("--keyholder", name)]
        office.pki("pki", "init", office.trust, "--domain", "office.test", *people,
                   "--threshold", 2, "--generate", "--kdf", "moderate")  # fmt: skip
        office.pki("trust", "env", "add", ENV, office.trust, "--kdf", "moderate", *office.signs())
        people = [word for name in OPERATORS for word in ("--operator", name)]
        office.pki("trust", "app", "add", APP, office.trust, "--env", ENV, *people,
                   "--threshold", 2, "--generate", "--kdf", "moderate",
                   *office.signs())  # fmt: skip
        return office

    def copy(self, folder: Path) -> Office:
        """Return an office of the same people and keys that nothing else touches."""
        shutil.copytree(self.folder, folder)
        return Office(folder)

    def signs(self) -> list[object]:
        """Return the flags by which two keyholders sign."""
        keys = [self.trust / "keys" / f"{name}.key" for name in HOLDERS[:2]]
        return [word for key in keys for word in ("--sign", key)]

    def pki(self, *arguments: object) -> Answer:
        """Return how a verb of the security team ended; it must end well."""
        found = verb(*arguments, "--passphrase-file", self.passphrase)
        if found.code:
            raise AssertionError(found.told)
        return found

    def enrol(self, numbers: range) -> list[NewNode]:
        """Return new nodes, whose entries are in force in the trust folder."""
        root = TrustFolder.open(self.trust).root_id
        nodes = [NewNode(root, number, domain="office.test") for number in numbers]
        files = []
        for node in nodes:
            file = self.folder / f"{node.id}.statement.json"
            file.write_bytes(node.envelope(now()))
            files.append(file)
        self.pki("pki", "enrol", *files, self.trust, "--out", self.folder / "answers",
                 *self.signs())  # fmt: skip
        return nodes

    # --- the gateway ---------------------------------------------------------------------------

    @property
    def gateway_folder(self) -> Path:
        """The gateway's folder."""
        return self.folder / "gateway"

    def init(self) -> Answer:
        """Return how `gateway init` ended."""
        return verb("gateway", "init", self.gateway_folder, "--trust", self.trust)

    @contextmanager
    def gateway(self, *, clock: Clock = now, wait_s: float = 10) -> Iterator[Running]:
        """Yield the gateway, which serves until the block ends."""
        if not self.gateway_folder.exists():
            assert self.init().code == 0
        source = PassphraseSource(lambda _: PASSPHRASE.encode(), tries=1)
        with opened(self.gateway_folder, source, clock=clock, wait_s=wait_s) as held:
            ready = threading.Event()
            found: dict[str, Any] = {}

            def start(port: int) -> None:
                found["port"] = port
                ready.set()

            async def run() -> None:
                found["loop"], found["stop"] = asyncio.get_running_loop(), asyncio.Event()
                await serve(held, clock=clock, ready=start, stop=found["stop"])

            def thread() -> None:
                try:
                    asyncio.run(run())
                except BaseException as problem:
                    found["problem"] = problem
                    ready.set()

            worker = threading.Thread(target=thread)
            worker.start()
            try:
                assert ready.wait(SERVER_SECONDS), "the gateway did not start"
                if "problem" in found:
                    raise found["problem"]
                yield Running(found["port"], held)
            finally:
                if "loop" in found and worker.is_alive():
                    found["loop"].call_soon_threadsafe(found["stop"].set)
                worker.join(SERVER_SECONDS)

    # --- operators -----------------------------------------------------------------------------

    def context(self, person: str) -> Path:
        """Return the person's context file."""
        return self.folder / person / "context.toml"

    def as_person(self, person: str, port: int, *, key: str = "") -> Path:
        """Return a new context of `person` for the gateway at `port`."""
        file = self.trust / "keys" / f"{key or person}.key"
        self.pki("pki", "issue", f"operator/{person}", self.trust, "--out", self.folder / person,
                 "--gateway", f"127.0.0.1:{port}", "--key", f"keyfile:{file}")  # fmt: skip
        return self.context(person)

    def verb(self, *arguments: object, person: str, signs: bool = False) -> Answer:
        """Return how a verb of `person` ended; signs: it needs the passphrase."""
        secret = ["--passphrase-file", self.passphrase] if signs else []
        return verb(*arguments, "--context", self.context(person), *secret)

    def bundle(self, version: str = "1.0", *, body: str = "") -> Path:
        """Return a built bundle of a small app."""
        source, out = self.folder / f"src-{version}", self.folder / f"shop-{version}.bundle"
        (source / "code").mkdir(parents=True, exist_ok=True)
        script = source / "code" / "main"
        script.write_text(f"#!/bin/sh\n# {version}\n{body}\n")
        script.chmod(0o755)
        (source / "app.toml").write_text(
            f'app = "{APP}"\nversion = "{version}"\n[run]\nargv = ["code/main"]\nports = ["web"]\n'
            '[[probes]]\nkind = "http"\nport = "web"\npath = "/health"\nstatus = 200\n'
        )
        found = verb("release", "build", source, "--out", out)
        assert found.code == 0, found.told
        return out

    def plan_file(self, text: str = "") -> Path:
        """Return a plan file for the app."""
        file = self.folder / "plan.toml"
        file.write_text(f'app = "{APP}"\nenv = "{ENV}"\ntitle = "test"\n{text}')
        return file

    def propose(self, version: str = "1.0", *flags: str, person: str = "anna") -> Answer:
        """Return how `release propose` of a new bundle ended."""
        return self.verb("release", "propose", self.bundle(version), "--plan", self.plan_file(),
                         *flags, person=person, signs=True)  # fmt: skip

    def approve(self, plan: str, *, person: str) -> Answer:
        """Return how `approve` ended, confirmed with the whole digest."""
        return self.verb("approve", plan.removeprefix("sha256:")[:16], "--confirm-digest", plan,
                         person=person, signs=True)  # fmt: skip
