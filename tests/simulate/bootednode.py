"""A production node on a machine that systemd has booted, put there as docs/deploy.md says."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from embrasure.bundle.manifest import Manifest
from embrasure.trust.gate import Gate
from embrasure.trust.plan import Plan
from tests.simulate.booted import HOME, PROGRAM, Machine, machine
from tests.simulate.fleet import APP, RealNode, SimFleet
from tests.simulate.installer import free_port, quick_http
from tests.simulate.push import Said, SimGateway
from tests.simulate.running import answers, until

UNITS = ("embrasure-apply.service", "embrasure-fetch.service", "embrasure-recover.service",
         "embrasure-recover.timer")  # fmt: skip
NAME = "node"  # of its folder, in that of the machine
Change = Callable[[Manifest], Manifest]
Made = tuple[SimFleet, RealNode, int, int]
SHARED = f"/opt/embrasure/{APP}/shared"


@dataclass
class BootedNode:
    """The node, its machine, its fleet, and where its app and its listener are."""

    machine: Machine
    fleet: SimFleet
    node: RealNode
    port: int
    listen: int

    def publish(
        self, version: str, *, change: Change = lambda made: made, extra: bytes = b"",
        soak_s: int = 0,
    ) -> tuple[Plan, Gate]:  # fmt: skip
        """Return plan and gate of a release whose probes wait as long as a busy machine needs.

        extra: one more file, `code/data`
        """

        return self.fleet.publish(
            self.node, version, change=lambda made: change(patiently(made)), extra=extra,
            soak_s=soak_s,
        )  # fmt: skip

    def install(
        self, version: str, *, change: Change = lambda made: made, extra: bytes = b"",
        soak_s: int = 0,
    ) -> Said:  # fmt: skip
        """Return what the node said while it obeyed an order of a new release, which it runs."""
        said = self.order(*self.publish(version, change=change, extra=extra, soak_s=soak_s))
        assert answers(self.port) == version, f"{said}\n{self.machine.journal()[-6000:]}"
        return said

    def order(self, plan: Plan, gate: Gate) -> Said:
        """Return what the node said while it obeyed one order; one that recovers is asked again."""
        return until(lambda: self._ordered(plan, gate), seconds=60, what="an answer")

    def _ordered(self, plan: Plan, gate: Gate) -> Said | None:
        gateway = SimGateway(
            self.fleet.authority, self.fleet.repository.files, port=self.listen, node=self.node.id,
            confirm=lambda awaited: self.fleet.confirmation(self.node, awaited),
        )  # fmt: skip
        said = asyncio.run(gateway.order(self.fleet.order(self.node, plan, gate)))
        return None if said.refusals == [("wait", "busy")] else said

    def serves(self, version: str, *, seconds: float = 40) -> None:
        """Return once the app says that it is this version."""
        try:
            until(lambda: answers(self.port) == version, seconds=seconds, what=version)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.machine.journal()[-6000:]}") from None

    def ask(self, *words: object) -> str:
        """Return what `embrasure` printed on the machine."""
        return self.machine.must(PROGRAM, *words)

    def start(self) -> None:
        """Both halves run, as their units say, and at each boot."""
        names = ("embrasure-apply", "embrasure-fetch", "embrasure-recover.timer")
        self.machine.must("systemctl", "enable", "--now", *names)

    def drop_in(self, unit: str, *lines: str) -> None:
        """The owner of the machine says more of a unit, as `systemctl edit` does."""
        folder = self.machine.folder / "units" / f"{unit}.service.d"
        folder.mkdir(exist_ok=True)
        (folder / "own.conf").write_text("\n".join(["[Service]", *lines, ""]))
        self.machine.must("systemctl", "daemon-reload")


def patiently(made: Manifest) -> Manifest:
    """Return the manifest with a probe that waits as long as a busy machine needs."""
    return msgspec.structs.replace(made, probes=(quick_http(start_s=20),))


def put(found: Machine, name: str, where: str) -> None:
    """A file of deploy/ is where docs/deploy.md puts it."""
    found.must(
        "install", "-D", "-m", "0644", HOME / "checkout" / "deploy" / "systemd" / name, where
    )


def prepare(found: Machine) -> None:
    """Users and folders of deploy/ are there."""
    put(found, "embrasure.sysusers.conf", "/usr/lib/sysusers.d/embrasure.conf")
    put(found, "embrasure.tmpfiles.conf", "/usr/lib/tmpfiles.d/embrasure.conf")
    found.must("systemd-sysusers")
    found.must("systemd-tmpfiles", "--create", "embrasure.conf")


def push_node(folder: Path) -> Made:
    """Return a node that a gateway dials, its fleet, and the ports of its app and its listener."""
    fleet, port, listen = SimFleet(folder), free_port(), free_port()
    node = fleet.make(NAME, port=port)
    _say(node.paths.node_toml, 'listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{listen}"')
    return fleet, node, port, listen


@contextmanager
def booted_node(make: Callable[[Path], Made] = push_node) -> Iterator[BootedNode]:
    """Yield a node whose units run, on a machine of its own; nothing is left afterwards.

    make: makes it in the folder of the machine, below `node`
    """
    with machine(on=False) as found:
        shutil.rmtree(found.prefix)
        fleet, node, port, listen = make(found.folder)
        (found.prefix / "opt" / "embrasure").mkdir(parents=True, exist_ok=True)
        _say(node.paths.app_toml(APP), "{ python3", '{ sh = "/bin/sh", python3')
        found.on()
        prepare(found)
        for name in UNITS:
            put(found, name, f"/etc/systemd/system/{name}")
        made = BootedNode(found, fleet, node, port, listen)
        if listen:
            made.drop_in("embrasure-fetch", f"SocketBindAllow=tcp:{listen}")
        made.start()
        yield made


def _say(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new))
