"""Deploy two published versions of datasette, then a broken build, to a fleet of real processes.

    python -m tools.real_application [--push 3] [--pull 3]

Each version is installed from the package index into a plain folder, pinned by hash, built into a
release, approved by two operators, rolled out by waves, and asked over HTTP for its version on
every node. The broken build must roll back on the canary and reach nobody else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from demo import releases
from demo.fleet import DemoNode, Fleet, free_ports
from demo.processes import Processes
from demo.releases import Pace, Proposal
from demo.sockets import family
from demo.watcher import Watcher
from embrasure.errors import Failed

SOURCES = Path(__file__).resolve().parent.parent / "tests" / "apps" / "datasette"
FIRST, SECOND, BROKEN = "0.65.4", "0.65.5", "0.65.5+broken"
SOAK_SECONDS = 2


@dataclass(slots=True)
class Findings:
    """What was seen. versions: after each roll-out, node name -> version it answered."""

    exits: dict[str, int] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    linked: dict[str, dict[str, str]] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    operators_seen: int = 0
    gateway_listeners: set[int] = field(default_factory=set)
    files: int = 0
    seconds: float = 0.0


def install(folder: Path, version: str) -> Path:
    """Return a release folder that holds this version with all it needs, pinned by hash."""
    code = folder / "code"
    code.mkdir(parents=True)
    shutil.copy(SOURCES / "main.py", code / "main.py")
    shutil.copy(SOURCES / "app.toml", folder / "app.toml")
    subprocess.run(  # noqa: S603 - our own argument list
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--no-deps", "--require-hashes", "--no-compile", "--only-binary", ":all:",
            "--target", code / "site", "-r", SOURCES / f"{version}.txt",
        ],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return folder


def break_it(folder: Path, whole: Path) -> Path:
    """Return a copy of a release folder that lacks one library: it starts, and dies at once."""
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "code" / "site" / "jinja2")
    return folder


def version_of(node: DemoNode) -> str:
    """Return the version that datasette on `node` reports over HTTP."""
    url = f"http://127.0.0.1:{node.app_port}/-/versions.json"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(json.loads(answer.read())["datasette"]["version"])
    except (OSError, ValueError, KeyError) as problem:
        return f"none ({problem})"


class RealApplication:
    """One run on one fleet."""

    def __init__(self, folder: Path, *, push: int, pull: int) -> None:
        self.fleet = Fleet(Processes(folder), "datasette", ports=free_ports())
        self.pace = Pace(soak_s=SOAK_SECONDS, push=push, pull=pull)
        self.findings = Findings()

    def run(self) -> Findings:
        """Return what was seen; raises Failed where it could not go on. Nothing keeps running."""
        started = time.monotonic()
        try:
            self._set_up()
            with Watcher(self.fleet.ports[0], self._gateway_pid) as watcher:
                self._deploy_all()
            self._judge(watcher)
        except Failed:
            for service in self.fleet.processes.services:
                print(f"--- {service.name}\n{service.tail(8)}", file=sys.stderr)
            raise
        finally:
            self.fleet.processes.stop_all()
        self.findings.seconds = time.monotonic() - started
        return self.findings

    def _set_up(self) -> None:
        fleet = self.fleet
        fleet.ceremony(min_soak_s=SOAK_SECONDS)
        read, post = fleet.start_mirrors()
        fleet.make_nodes(push=self.pace.push, pull=self.pace.pull, mirror=read, letterbox=post)
        for node in fleet.nodes:
            fleet.start_node(node)
        fleet.start_gateway()
        fleet.make_operators()
        fleet.tell_addresses("anna")

    def _deploy_all(self) -> None:
        folder = self.fleet.folder / "sources"
        first = install(folder / FIRST, FIRST)
        self.findings.files = sum(path.is_file() for path in first.rglob("*"))
        self._deploy(FIRST, first)
        second = install(folder / SECOND, SECOND)
        self._deploy(SECOND, second)
        self._deploy(BROKEN, break_it(folder / "broken", second))

    def _deploy(self, version: str, source: Path) -> None:
        bundle = releases.build(self.fleet, source, version)
        plan = releases.plan_file(self.fleet, version, self.pace)
        proposal: Proposal = releases.propose(self.fleet, "anna", bundle, plan)
        releases.approve_all(self.fleet, proposal, ("bea", "carl"))
        rollout = releases.start(self.fleet, "bea", proposal)
        done = releases.wait(self.fleet, "bea", rollout, seconds=240)
        app = self.fleet.app
        self.findings.exits[version] = done.code
        self.findings.versions[version] = {n.name: version_of(n) for n in self.fleet.nodes}
        self.findings.linked[version] = {n.name: n.current(app) for n in self.fleet.nodes}

    def _gateway_pid(self) -> int:
        return self.fleet.gateway.pid if self.fleet.gateway else 0

    def _judge(self, watcher: Watcher) -> None:
        """Nobody but operators' commands ever connected to the gateway."""
        services = [s for s in self.fleet.processes.services if s is not self.fleet.gateway]
        ours = frozenset().union(*(family(service.pid) for service in services))
        verbs = ("release", "approve", "rollout", "fleet")
        for pid, line in watcher.clients.items():
            words = line.split()
            if pid in ours or not any(verb in words for verb in verbs):
                self.findings.strangers.append(f"{pid} {line}")
        self.findings.operators_seen = len(watcher.clients)
        self.findings.gateway_listeners = watcher.listeners - {self.fleet.ports[0]}


def main() -> int:
    """Run it and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--push", type=int, default=3)
    parser.add_argument("--pull", type=int, default=3)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="embrasure-real-") as folder:
        found = RealApplication(Path(folder), push=wanted.push, pull=wanted.pull).run()
    for version, answered in found.versions.items():
        print(f"{version}: roll-out ended with {found.exits[version]}; nodes answer {answered}")
    print(f"connections to the gateway: {found.operators_seen} operators, "
          f"{len(found.strangers)} others")  # fmt: skip
    print(f"figure: real_application = {found.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
