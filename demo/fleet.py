"""A whole fleet on loopback, built with the product's own commands, every part its own process."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from demo.processes import Processes, Service
from embrasure.errors import Failed

DOMAIN, ENV = "demo.test", "prod"
KEYHOLDERS = ("alice", "bob", "carol")
PASSPHRASE = "a demo protects nothing worth stealing"  # noqa: S105 - keys of one temporary folder
AT_ONCE = 3  # commands of the set-up
MIRROR_PORTS = {"mirror": 12, "letterbox": 14}  # places in the block, two each
T = TypeVar("T")
R = TypeVar("R")
FIRST_PORT, BLOCK, BLOCKS = 15_000, 16, 1_000  # below the kernel's ephemeral range


@dataclass(slots=True)
class DemoNode:
    """One node: its folder, its app's port, and its service once it runs."""

    name: str
    mode: str
    prefix: Path
    app_port: int
    id: str = ""
    service: Service | None = None

    @property
    def installed(self) -> Path:
        """The folder in which releases of an app are installed."""
        return self.prefix / "opt" / "embrasure"

    def current(self, app: str) -> str:
        """Return the name of the release that is switched on, or nothing."""
        link = self.installed / app / "current"
        return link.readlink().name if link.is_symlink() else ""


@dataclass(slots=True)
class Fleet:
    """Everything of one demo below one folder."""

    processes: Processes
    app: str
    operators: Sequence[str] = ("anna", "bea", "carl")
    nodes: list[DemoNode] = field(default_factory=list)
    ports: tuple[int, ...] = ()
    gateway: Service | None = None
    mirror: Service | None = None
    letterbox: Service | None = None

    @property
    def folder(self) -> Path:
        """Where everything of this fleet lies."""
        return self.processes.folder

    @property
    def trust(self) -> Path:
        """The security team's folder: offline keys, CAs, trust files."""
        return self.folder / "security-team"

    @property
    def passphrase(self) -> tuple[str, str]:
        """The option that names the passphrase file."""
        return "--passphrase-file", str(self.folder / "passphrase")

    @property
    def signing(self) -> list[str]:
        """The options by which two of three keyholders sign."""
        keys = [str(self.trust / "keys" / f"{name}.key") for name in KEYHOLDERS[:2]]
        return [word for key in keys for word in ("--sign", key)]

    def context(self, person: str) -> Path:
        """The file that makes a command act for `person`."""
        return self.folder / "operators" / person / "context.toml"

    def of_mode(self, mode: str) -> list[DemoNode]:
        """Return the push or the pull nodes."""
        return [node for node in self.nodes if node.mode == mode]

    # --- the security team ---------------------------------------------------------------------

    def ceremony(self, *, min_soak_s: int) -> str:
        """Root 2 of 3, an environment, an app approved by 2 of 3 operators; its fleet's name."""
        secret = self.folder / "passphrase"
        secret.touch(mode=0o600)
        secret.write_text(PASSPHRASE + "\n")
        holders = [word for name in KEYHOLDERS for word in ("--keyholder", name)]
        made = self.processes.must(
            "pki", "init", self.trust, "--domain", DOMAIN, *holders, "--threshold", "2",
            "--generate", "--env", ENV, "--kdf", "moderate", "--json", *self.passphrase,
        )  # fmt: skip
        people = [word for name in self.operators for word in ("--operator", name)]
        self.processes.must(
            "trust", "app", "add", self.app, self.trust, "--env", ENV, *people, "--threshold", "2",
            "--generate", "--kdf", "moderate", "--min-soak", str(min_soak_s), *self.signing,
            *self.passphrase,
        )  # fmt: skip
        found = made.json()
        return str(found.get("root") or found.get("fleet") or "")

    def make_nodes(self, *, push: int, pull: int, mirror: str, letterbox: str) -> None:
        """Nodes make their own keys; two keyholders put them in the directory."""
        for number in range(1, push + pull + 1):
            mode = "push" if number <= push else "pull"
            name = f"{mode}-{number if mode == 'push' else number - push}"
            node = DemoNode(name, mode, self.folder / "nodes" / name, self.ports[number])
            self.nodes.append(node)
        statements = each(lambda node: self._make_node(node, mirror, letterbox), self.nodes)
        enrolled = self.processes.must(
            "pki", "enrol", *statements, self.trust, "--out", self.folder / "answers",
            *self.signing, *self.passphrase, "--json",
        ).json()  # fmt: skip
        answers = enrolled["answers"]
        if not isinstance(answers, dict):
            raise Failed("pki enrol", expected="an answer for each node", got=answers)
        each(
            lambda node: self.processes.must(
                "node", "enrol", "--root", node.prefix, str(answers[node.id])
            ),
            self.nodes,
        )

    def _make_node(self, node: DemoNode, mirror: str, letterbox: str) -> Path:
        words = ["--env", ENV, "--mode", node.mode, "--domain", DOMAIN]
        if node.mode == "pull":
            words += ["--mirror", f"m1={mirror}", "--letterbox", f"l1={letterbox}", "--poll", "2"]
        made = self.processes.must(
            "node", "init", "--root", node.prefix, *words, "--anchor", self.trust / "anchor.json",
            "--json",
        ).json()  # fmt: skip
        node.id = str(made["node"])
        apps = node.prefix / "etc" / "embrasure" / "apps.d"
        apps.mkdir(exist_ok=True, parents=True)
        (apps / f"{self.app}.toml").write_text(
            f'[ports]\nweb = {node.app_port}\n[interpreters]\npython3 = "{sys.executable}"\n'
        )
        return Path(str(made["path"]))

    # --- services ------------------------------------------------------------------------------

    def start_mirrors(self) -> tuple[str, str]:
        """Mirror and letterbox run; returns where nodes read and post."""
        kinds = (("mirror", "m1", "read"), ("letterbox", "l1", "post"))
        read, post = each(lambda kind: self._mirror(*kind), kinds)
        return read, post

    def _mirror(self, kind: str, name: str, node_port: str) -> str:
        tls, folder = self.folder / f"{name}-tls", self.folder / name
        self.processes.must(
            "pki", "issue", f"{kind}/{name}", self.trust, "--out", tls, *self.passphrase
        )
        self.processes.must(
            kind, "init", folder, "--trust-anchor", self.trust / "anchor.json", "--name", name,
            "--domain", DOMAIN, "--env", ENV, "--tls", tls,
            "--gateway-issuer", self.trust / "ca" / "gateway.crt",
        )  # fmt: skip
        return f"127.0.0.1:{self._run_mirror(kind, name, node_port)}"

    def _run_mirror(self, kind: str, name: str, node_port: str) -> int:
        """The service runs on its own two ports; returns the one for nodes."""
        folder, first = self.folder / name, MIRROR_PORTS[kind]
        (folder / "ports.json").unlink(missing_ok=True)
        service = self.processes.start(
            kind, kind, "run", folder, "--ingest", f"127.0.0.1:{self.ports[first]}",
            f"--{node_port}", f"127.0.0.1:{self.ports[first + 1]}",
        )  # fmt: skip
        setattr(self, kind, service)
        return int(str(self.processes.wait_file(folder / "ports.json", service)[node_port]))

    def start_servers(self) -> None:
        """Mirror, letterbox and gateway run again where they ran before."""
        self._run_mirror("mirror", "m1", "read")
        self._run_mirror("letterbox", "l1", "post")
        self.start_gateway()

    def start_gateway(self) -> None:
        """The gateway runs and knows its operators; a second call starts it again."""
        folder = self.folder / "gateway"
        if not folder.exists():
            self.processes.must(
                "gateway", "init", folder, "--trust", self.trust, "--name", "g1",
                "--listen", f"127.0.0.1:{self.ports[0]}",
            )  # fmt: skip
        (folder / "ports.json").unlink(missing_ok=True)
        self.gateway = self.processes.start("gateway", "gateway", "run", folder, *self.passphrase)
        self.processes.wait_file(folder / "ports.json", self.gateway)

    def make_operators(self) -> None:
        """Each operator has a folder of his own with TLS certificate and context."""
        people = [f"operator/{person}" for person in self.operators]
        self.processes.must(
            "pki", "issue", *people, self.trust, "--out", self.folder / "operators",
            "--gateway", f"127.0.0.1:{self.ports[0]}", *self.passphrase,
        )  # fmt: skip

    def start_node(self, node: DemoNode) -> None:
        """The node's agent runs."""
        ports = node.prefix / "run" / "embrasure" / "ports.json"
        ports.unlink(missing_ok=True)
        node.service = self.processes.start(node.name, "node", "run", "--root", node.prefix)

    def wait_node(self, node: DemoNode) -> int:
        """Return the port on which a push node listens, once it does."""
        if node.service is None:
            raise Failed(node.name, expected="a started node", got="none")
        path = node.prefix / "run" / "embrasure" / "ports.json"
        return int(str(self.processes.wait_file(path, node.service)["push"]))

    def tell_addresses(self, person: str) -> None:
        """The gateway knows where to dial; addresses need no trust."""
        places = [
            ("node", node.id, f"127.0.0.1:{self.wait_node(node)}") for node in self.of_mode("push")
        ]
        for kind, name in (("mirror", "m1"), ("letterbox", "l1")):
            ports = json.loads((self.folder / name / "ports.json").read_bytes())
            places.append((kind, name, f"127.0.0.1:{ports['ingest']}"))
        each(
            lambda place: self.processes.must(
                "fleet", "address", *place, "--env", ENV, context=self.context(person)
            ),
            places,
        )


def each(act: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return what `act` gives for each item, in order; two at a time, as there are cores."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(pool.map(act, items))


def free_ports(count: int = BLOCK) -> tuple[int, ...]:
    """Return ports that nobody uses, from a block of this process's own.

    Two demos at the same time have different pids, so different blocks.
    """
    for attempt in range(BLOCKS):
        first = FIRST_PORT + (os.getpid() + attempt) % BLOCKS * BLOCK
        ports = tuple(range(first, first + count))
        if all(_is_free(port) for port in ports):
            return ports
    raise Failed("ports", expected=f"{count} free ports from {FIRST_PORT}", got="none")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
