"""A living site: a push node, a mirror, a letterbox, a pull node, each as processes of the product.

The security team and the gateway are `SimFleet`'s: every key is at hand, honest or stolen.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from embrasure.net.identity import Role
from node.config import Server
from tests.simulate.authority import Authority, Leaf
from tests.simulate.doors import newest_files
from tests.simulate.fleet import RealNode, SimFleet
from tests.simulate.installer import free_port
from tests.simulate.push import Said
from tests.simulate.running import PROGRAM, Running, embrasure, running, until
from tests.simulate.uploader import Uploader, make_service

_TRUST_FILE = re.compile(
    r"metadata/([0-9]+\.(root|targets|snapshot|revocations|fleet-dev)|timestamp)\.json"
    r"|targets/(fleet|revoked)/.*"
)


class Service:
    """A mirror or a letterbox as a process of its own."""

    def __init__(self, fleet: SimFleet, kind: str, name: str) -> None:
        self.fleet, self.kind, self.name = fleet, kind, name
        self.folder = fleet.folder / name
        make_service(self.folder, fleet.authority, fleet.repository.anchor, kind=kind, name=name)
        (self.folder / "ca-root.pem").write_bytes(fleet.authority.root.pem)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.folder.with_suffix(".log").open("ab")
        self.start()
        self._fix_ports()

    @property
    def ports(self) -> dict[str, int]:
        """Where it listens."""
        found: dict[str, int] = json.loads((self.folder / "ports.json").read_text())
        return found

    @property
    def door(self) -> str:
        """Its door, as `trust deliver` names it."""
        return f"{self.kind}/{self.name}@127.0.0.1:{self.ports['door']}"

    def start(self) -> None:
        """It answers."""
        (self.folder / "ports.json").unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [*PROGRAM, self.kind, "run", str(self.folder)],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )  # fmt: skip
        until((self.folder / "ports.json").exists, what=self.kind)

    def _fix_ports(self) -> None:
        """From the next start it listens where it listens now."""
        path, ports = self.folder / f"{self.kind}.toml", self.ports
        second = ports["read" if self.kind == "mirror" else "post"]
        text = path.read_text()
        for name, port in (("ingest", ports["ingest"]), ("read", second), ("door", ports["door"])):
            text = re.sub(rf'{name} = ".*"', f'{name} = "127.0.0.1:{port}"', text)
        path.write_text(text)

    def stop(self) -> None:
        """It answers no more."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)

    def end(self) -> None:
        """Nothing of it is left open."""
        self.stop()
        self.log.close()

    def server(self) -> Server:
        """Return how a node names it."""
        port = self.ports["read" if self.kind == "mirror" else "post"]
        return Server(name=self.name, address=f"127.0.0.1:{port}")

    def reissue(self, authority: Authority) -> None:
        """It was given a new leaf by the issuers as they are now, and started again."""
        self.stop()
        leaf = authority.leaf(self.kind, self.name)
        (self.folder / "tls.key").write_bytes(leaf.key_pem)
        (self.folder / "tls.crt").write_bytes(leaf.chain_pem)
        (self.folder / "renewed.pem").unlink(missing_ok=True)
        self.start()

    def upload(self, leaf: Leaf | None = None) -> None:
        """All that is published is shown here; a letterbox takes trust files only."""
        files = self.fleet.repository.files
        if self.kind == "letterbox":
            files = {path: raw for path, raw in files.items() if _TRUST_FILE.fullmatch(path)}
        role: Role = "mirror" if self.kind == "mirror" else "letterbox"

        async def main() -> None:
            uploader = Uploader(
                self.fleet.authority, self.ports["ingest"], role=role, name=self.name, leaf=leaf
            )
            async with uploader:
                await uploader.send_all(files)

        asyncio.run(main())


class LivingSite:
    """Everything runs; `release` goes to the push node by order, to the pull node by the mirror."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self.fleet = SimFleet(folder)
        self.mirror = Service(self.fleet, "mirror", "m1")
        held.callback(self.mirror.end)
        self.box = Service(self.fleet, "letterbox", "l1")
        held.callback(self.box.end)
        self.push_web, self.pull_web = free_port(), free_port()
        self.push = self.fleet.make("n1", port=self.push_web)
        self.pull = self.fleet.make(
            "n2", mode="pull", port=self.pull_web, mirrors=(self.mirror.server(),),
            letterbox=self.box.server(),
        )  # fmt: skip
        self.ordered: tuple[object, object] | None = None

    def show(self, leaf: Leaf | None = None) -> None:
        """What is published is at the mirror and the letterbox."""
        self.mirror.upload(leaf)
        self.box.upload(leaf)

    def publish(self, version: str) -> None:
        """A release is approved and both nodes are its canaries; nobody has it yet."""
        plan, gate = self.fleet.publish(self.push, version, also=[self.pull])
        self.ordered = (plan, gate)

    def order(self, leaf: Leaf | None = None) -> Said:
        """Return what the push node said to an order for the last release."""
        assert self.ordered is not None
        envelope = self.fleet.order(self.push, *self.ordered)  # type: ignore[arg-type]  # plan and gate
        gateway = self.fleet.gateway(self.push)
        if leaf is not None:
            gateway.leaf = leaf
        return asyncio.run(gateway.order(envelope))

    def door(self, node: RealNode) -> str:
        """The door of a push node, as `trust deliver` names it."""
        ports = json.loads((node.paths.run / "ports.json").read_text())
        return f"node/{node.id}@127.0.0.1:{ports['door']}"

    def doors(self) -> list[str]:
        """Every door of this site."""
        return [self.door(self.push), self.mirror.door, self.box.door]

    def team_folder(self) -> Path:
        """Return a folder with the newest trust files, as the security team has them."""
        folder = self.fleet.folder / "team"
        for path, raw in newest_files(self.fleet.repository).items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(raw)
        return folder

    def identity(self, authority: Authority | None = None, *, name: str = "anna") -> Path:
        """Return a folder with an operator's fresh leaf."""
        leaf = (authority or self.fleet.authority).leaf("operator", name)
        folder = self.fleet.folder / f"person-{name}"
        folder.mkdir(exist_ok=True)
        (folder / "tls.crt").write_bytes(leaf.chain_pem)
        key = folder / "tls.key"
        key.write_bytes(leaf.key_pem)
        key.chmod(0o600)
        return folder

    def deliver(self, *doors: str, identity: Path | None = None) -> dict[str, dict[str, object]]:
        """Return target -> what `embrasure trust deliver` said of it, for all doors by default."""
        to = [word for door in (doors or self.doors()) for word in ("--to", door)]
        who = identity or self.identity()
        done = embrasure(
            "trust", "deliver", self.team_folder(), *to, "--identity", who, "--json"
        )  # fmt: skip
        if not done.stdout:
            raise AssertionError(done.stderr)
        found = json.loads(done.stdout)["targets"]
        return {str(one["to"]): one for one in found}


@contextmanager
def living_site(folder: Path) -> Iterator[tuple[LivingSite, Running, Running]]:
    """A site whose nodes run and have seen what is published; stopped at the end."""
    with ExitStack() as held:
        site = LivingSite(folder, held)
        site.show()
        push = held.enter_context(running(site.push))
        pull = held.enter_context(running(site.pull))
        yield site, push, pull
