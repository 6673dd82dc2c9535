"""A pull node as it really runs: a real mirror to ask, a real letterbox to post to, no way back."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from nacl.public import SealedBox

from embrasure import limits
from embrasure.net.identity import Role
from embrasure.trust.receipt import Kind, Outcome, Receipt, parse_receipt
from embrasure.wire import mirror_pb2
from node.config import Server
from tests.simulate.fleet import SimFleet
from tests.simulate.installer import free_port
from tests.simulate.running import PROGRAM, answers, libraries, running, status, until
from tests.simulate.uploader import Uploader, make_service

TRUST_FILE = re.compile(
    r"metadata/([0-9]+\.(root|targets|snapshot|revocations|fleet-dev)|timestamp)\.json"
    r"|targets/(fleet|revoked)/.*"
)


class Service:
    """A mirror or a letterbox as a process of its own."""

    def __init__(self, fleet: SimFleet, kind: str, name: str) -> None:
        self.fleet, self.kind, self.name = fleet, kind, name
        self.folder = fleet.folder / name
        make_service(
            self.folder, fleet.authority, fleet.repository.anchor, kind=kind, name=name
        )  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        # The same ports after a restart, as a server of a real network has.
        self.fix_ports()

    @property
    def ports(self) -> dict[str, int]:
        """Where it listens."""
        found: dict[str, int] = json.loads((self.folder / "ports.json").read_text())
        return found

    def start(self) -> None:
        """It answers."""
        (self.folder / "ports.json").unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [*PROGRAM, self.kind, "run", str(self.folder)], stdin=subprocess.DEVNULL
        )
        until((self.folder / "ports.json").exists, what=self.kind)

    def fix_ports(self) -> None:
        """From the next start it listens where it listens now."""
        path, ports = self.folder / f"{self.kind}.toml", self.ports
        second = ports["read" if self.kind == "mirror" else "post"]
        text = path.read_text()
        text = re.sub(r'ingest = ".*"', f'ingest = "127.0.0.1:{ports["ingest"]}"', text)
        path.write_text(re.sub(r'read = ".*"', f'read = "127.0.0.1:{second}"', text))

    def stop(self) -> None:
        """It answers no more."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)

    def server(self) -> Server:
        """Return how a node names it."""
        port = self.ports["read" if self.kind == "mirror" else "post"]
        return Server(name=self.name, address=f"127.0.0.1:{port}")

    def upload(self) -> None:
        """All that is published is shown here; a letterbox takes trust files only."""
        files = self.fleet.repository.files
        if self.kind == "letterbox":
            files = {path: data for path, data in files.items() if TRUST_FILE.fullmatch(path)}

        async def main() -> None:
            async with self.uploader() as uploader:
                await uploader.send_all(files)

        asyncio.run(main())

    def uploader(self) -> Uploader:
        """Return a gateway that calls it."""
        role: Role = "mirror" if self.kind == "mirror" else "letterbox"
        return Uploader(
            self.fleet.authority, self.ports["ingest"], role=role, name=self.name
        )  # fmt: skip


class Site:
    """A mirror, a letterbox and one pull node."""

    def __init__(self, folder: Path, name: str = "n1") -> None:
        self.fleet = SimFleet(folder)
        self.mirror = Service(self.fleet, "mirror", "m1")
        self.box = Service(self.fleet, "letterbox", "l1")
        self.web = free_port()
        self.node = self.fleet.make(
            name, mode="pull", port=self.web, mirrors=(self.mirror.server(),),
            letterbox=self.box.server(),
        )  # fmt: skip

    def release(self, version: str, **how: object) -> None:
        """A release is approved, its wave open, and the mirror shows it."""
        self.fleet.publish(self.node, version, **how)  # type: ignore[arg-type]  # passed through
        self.mirror.upload()

    def collected(self) -> list[Receipt]:
        """Return every receipt that waits in the letterbox, opened and checked."""

        async def main() -> list[mirror_pb2.Post]:
            async with self.box.uploader() as caller:
                found = caller.box.Collect(mirror_pb2.CollectRequest(limit=100))
                return [post async for post in found]

        opened = SealedBox(self.fleet.repository.collect)
        bodies = [opened.decrypt(post.body) for post in asyncio.run(main())]
        found = [
            parse_receipt(body[: limits.RECEIPT_BYTES], self.node.receipt_key) for body in bodies
        ]
        return sorted(found, key=lambda receipt: receipt.rseq)

    def ends(self) -> list[tuple[int, Kind, Outcome]]:
        """Return number, kind and outcome of the receipts in the letterbox."""
        return [(one.rseq, one.kind, one.outcome) for one in self.collected()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    try:
        found.mirror.upload()
        found.box.upload()
        yield found
    finally:
        found.mirror.stop()
        found.box.stop()


OK = [(1, Kind.HEALTHY, Outcome.OK), (2, Kind.SOAKED, Outcome.OK)]


def test_news_at_the_mirror_is_installed_and_told_through_the_letterbox(site: Site) -> None:
    with running(site.node) as node:
        site.release("1.0")
        until(lambda: answers(site.web) == "1.0", what="the release")
        until(lambda: site.ends() == OK, what="two receipts")
        assert until(lambda: status(site.node)["rseq"] == 2)
        # A pull node has no gRPC at all, in no process.
        for module in ("node.apply_main", "node.agent"):
            assert "cygrpc" not in libraries(node.pid(module))
        # Told and taken: nothing waits in the outbox, so nothing is posted twice.
        until(lambda: not list(site.node.paths.outbox.iterdir()), what="an empty outbox")
        site.release("2.0", mode="bad")
        bad = (3, Kind.STATUS, Outcome.ROLLED_BACK)
        until(lambda: site.ends() == [*OK, bad], what="the third receipt")
        assert answers(site.web) == "1.0"


def test_servers_that_are_down_stop_nothing_and_what_was_missed_comes_later(site: Site) -> None:
    with running(site.node):
        site.box.stop()
        site.release("1.0")
        until(lambda: answers(site.web) == "1.0", what="the release")
        site.mirror.stop()
        assert len(list(site.node.paths.outbox.iterdir())) == 2
        site.box.start()
        until(lambda: site.ends() == OK, what="the receipts, late")
        site.mirror.start()
        site.release("2.0")
        until(lambda: answers(site.web) == "2.0", what="the next release")


def test_a_mirror_of_another_name_gives_the_node_nothing(site: Site) -> None:
    site.release("1.0")
    text = site.node.paths.node_toml.read_text()
    site.node.paths.node_toml.write_text(text.replace('"m1"', '"m2"'))
    with running(site.node) as node:
        until(lambda: "mirror/m2" in node.log.read_text(), what="a refusal")
        assert answers(site.web) == ""
    site.node.paths.node_toml.write_text(text)
    with running(site.node):
        until(lambda: answers(site.web) == "1.0", what="the release from the right mirror")
