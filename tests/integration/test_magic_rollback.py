"""A release that cuts its node off comes back by itself: real gateway, real node, real network."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from embrasure.bundle.manifest import Manifest
from embrasure.trust.receipt import Kind, Outcome, Reason, parse_receipt
from gateway.audit import verify_file
from node.journal import Journal
from node.receipts import Outbox
from node.states import Record
from tests.integration.test_node_pull import Site as PullSite
from tests.simulate.fleet import APP, RealNode, SimFleet
from tests.simulate.installer import SERVER, free_port, quick_http
from tests.simulate.netns import NODE, Network, booted, cable, needs_network
from tests.simulate.realgateway import RealGateway
from tests.simulate.releases import SimRelease, make_release
from tests.simulate.running import PROGRAM, Running, answers, children, running, until

# Takes the port of the node's agent as soon as that lets go of it, and keeps it.
GREEDY = b"""\
import socket, threading, time
def take():
    while True:
        try:
            server = socket.create_server(("127.0.0.1", int(open("config/port").read())))
            server.listen()
            time.sleep(600)
        except OSError:
            time.sleep(0.001)
threading.Thread(target=take, daemon=True).start()
"""


def by_mirror(manifest: Manifest) -> Manifest:
    """Return the manifest of a release that wants to be confirmed by a mirror."""
    return msgspec.structs.replace(manifest, confirm="mirror")


def release(version: str, code: bytes = b"", **config: str) -> SimRelease:
    """Return a release of the small server. code: runs before it; config: more files."""
    files = {
        "code/main.py": code + SERVER, "config/mode": b"good", "config/version": version.encode(),
        **{f"config/{name}": text.encode() for name, text in config.items()},
    }  # fmt: skip
    return make_release(
        APP, files, version=version, argv=("python3", "code/main.py"), probes=[quick_http()]
    )


def settings(node: RealNode, **lines: object) -> None:
    """The owner's configuration says so, too."""
    text = node.paths.node_toml.read_text()
    kept = [line for line in text.splitlines() if line.partition(" =")[0] not in lines]
    # Keys come before the first table.
    fresh = [f"{name} = {json.dumps(value)}" for name, value in lines.items()]
    node.paths.node_toml.write_text("\n".join([*fresh, *kept, ""]))


def record_of(node: RealNode) -> Record | None:
    """Return what the node's journal holds."""
    return Journal(node.paths).read(APP).record


def waits(node: RealNode, *, but: Record | None = None) -> Record | None:
    """Return the record once a release waits for its word. but: for another word than in this."""
    record = record_of(node)
    if record is None or record.state != "provisional" or not record.nonce_hash:
        return None
    return None if but is not None and record.nonce_hash == but.nonce_hash else record


def rests(node: RealNode, but: str = "") -> Record | None:
    """Return the record once the install is over. but: not of this plan"""
    record = record_of(node)
    is_over = record is not None and record.state == "idle" and record.to.plan != but
    return record if is_over else None


def test_a_release_that_takes_the_agents_port_cuts_the_node_off_and_comes_back(
    tmp_path: Path,
) -> None:
    fleet, web = SimFleet(tmp_path), free_port()
    node = fleet.make("n1", port=web)
    settings(node, confirm_s=2)

    def deploy(version: str, code: bytes = b"") -> list[tuple[Kind, Outcome]]:
        made = fleet.repository.add_release(
            APP, release=release(version, code, port=str(node.port))
        )
        plan = fleet.repository.set_plan(made, canary=[node.listed])
        gate = fleet.repository.set_gate(plan)
        fleet.repository.publish()
        said = asyncio.run(fleet.gateway(node).order(fleet.order(node, plan, gate)))
        return [(r.kind, r.outcome) for r in
                (parse_receipt(one, node.receipt_key) for one in said.receipts)]  # fmt: skip

    with running(node):
        assert deploy("1.0")[-1] == (Kind.SOAKED, Outcome.OK)
        installed = record_of(node)
        assert installed is not None
        first = installed.to.plan
        # It passes its probes and its soak; only a new connection shows what it did.
        assert deploy("2.0", GREEDY) == [(Kind.HEALTHY, Outcome.OK)]
        until(lambda: answers(web) == "1.0", what="the old release")
        record = until(lambda: rests(node, first), what="the end of the roll-back")
        assert (record.ending, record.reason) == ("interrupted", "no-confirm")
        # The gateway reaches it again, on the same port, and the next release is installed.
        assert deploy("3.0")[-1] == (Kind.SOAKED, Outcome.OK)
        assert answers(web) == "3.0"


class Machine:
    """The node's machine: its network is set by what the release that is linked says."""

    def __init__(self, network: Network, node: RealNode, folder: Path) -> None:
        self._network, self.node, self._folder = network, node, folder
        self._log = (folder / "machine.log").open("ab")
        self._processes: list[subprocess.Popen[bytes]] = []

    def boot(self) -> None:
        """It is up, under a new boot id; its network service and its agent run."""
        linked = self.node.paths.current(APP) / "config/link"
        service = (
            f"while sleep 0.05; do ip link set {self._network.link}"
            f' "$(cat {linked} 2>/dev/null || echo up)"; done'
        )
        agent = [*PROGRAM, "node", "run", "--root", str(self.node.paths.prefix)]
        for command in (["sh", "-c", service], agent):
            self._processes.append(
                subprocess.Popen(
                    booted(self._network, self._folder, command),
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                )
            )

    def lose_power(self) -> None:
        """Every process of it is gone in the same moment."""
        for process in self._processes:
            family = [process.pid]
            for pid in family:
                family += children(pid)
            for pid in family:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait()
        self._processes.clear()

    def end(self) -> None:
        """Nothing of it is left."""
        self.lose_power()
        self._log.close()


@contextmanager
def machine(network: Network, node: RealNode, folder: Path) -> Iterator[Machine]:
    found = Machine(network, node, folder)
    found.boot()
    try:
        yield found
    finally:
        found.end()


@needs_network
@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_release_that_cuts_the_node_off_comes_back_with_a_reboot_in_the_middle(
    tmp_path: Path,
) -> None:
    """Its network configuration takes the link down. Nobody but the node can repair that."""
    fleet, web, port = SimFleet(tmp_path), free_port(), free_port()
    node = fleet.make("n1", port=web)
    settings(node, confirm_s=8, listen=f"{NODE}:{port}")
    gateway = RealGateway(fleet, node, f"{NODE}:{port}")
    gateway.approve(release("1.0", link="up"))
    with cable() as network, machine(network, node, tmp_path) as host:
        try:
            gateway.start(network.inside(network.gateway))
            until(lambda: gateway.rollout() == "succeeded", seconds=40, what="the first release")
            assert network.ask(web) == "1.0"
            gateway.kill()
            gateway.approve(release("2.0", link="down"))
            gateway.start(network.inside(network.gateway))
            before = until(lambda: waits(node), seconds=40, what="a release that waits")
            assert node.paths.current(APP).readlink().name == before.to.id
            host.lose_power()
            host.boot()
            after = until(lambda: waits(node, but=before), what="the same release waiting again")
            assert before.confirm_by is not None and after.confirm_by is not None
            # Another boot, by the kernel's own file; the time is what was left, no more.
            assert after.confirm_by.boot != before.confirm_by.boot
            assert after.confirm_by.span_ms == before.confirm_by.span_ms == 8000
            assert after.starts == before.starts - 1
            assert network.ask(web) == "2.0"  # it serves, and nobody can reach its node
            done = until(lambda: rests(node), seconds=30, what="the way back")
            assert (done.ending, done.reason) == ("interrupted", "no-confirm")
            assert network.ask(web) == "1.0"
            # The old release has its network again: the gateway hears of it, by itself.
            until(lambda: gateway.member() == "interrupted", seconds=30, what="its word of it")
            told = [parse_receipt(one.signed, node.receipt_key) for one in
                    Outbox(node.paths).of_plan(APP, before.to.plan)]  # fmt: skip
            assert told[-1].reason is Reason.NO_CONFIRM
            assert told[-1].boot.hex() == after.confirm_by.boot
        finally:
            gateway.end()
    verify_file(gateway.folder / "state" / "audit.jsonl", root=fleet.repository.root_id)


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("victim", ["gateway", "apply"])
def test_whoever_is_killed_before_the_word_came_it_comes_after_the_next_start(
    tmp_path: Path, victim: str
) -> None:
    fleet, web, port = SimFleet(tmp_path), free_port(), free_port()
    node = fleet.make("n1", port=web)
    settings(node, confirm_s=60, listen=f"127.0.0.1:{port}")
    gateway = RealGateway(fleet, node, f"127.0.0.1:{port}")
    gateway.approve(release("1.0"), soak_s=2)  # it is healthy, and not yet to be confirmed
    agent = Running(node)
    try:
        until(agent.is_ready, what="node run")
        fetch = agent.pid("node.agent")
        gateway.start()
        until(lambda: gateway.member() == "checking", seconds=40, what="a healthy release")
        os.kill(fetch, signal.SIGSTOP)  # the line hangs: nothing can be confirmed
        before = until(lambda: waits(node), what="a release that waits")
        assert '"act":"confirm"' not in gateway.journal()
        if victim == "gateway":
            gateway.kill()
            os.kill(fetch, signal.SIGCONT)
            gateway.start()
        else:
            os.kill(agent.pid("node.apply_main"), signal.SIGKILL)
            until(lambda: waits(node, but=before), what="the same release waiting again")
            # Its listener is older than this wait: it must be opened once more.
            os.kill(fetch, signal.SIGCONT)
        until(lambda: gateway.rollout() == "succeeded", seconds=40, what="the end")
        assert '"act":"confirm"' in gateway.journal()
        assert answers(web) == "1.0"
        record = record_of(node)
        assert record is not None and (record.ending, record.interruptions) == ("committed", 0)
        # Started once; once more by an apply that had to begin again.
        assert record.starts == (2 if victim == "gateway" else 1)
    finally:
        gateway.end()
        agent.end()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_pull_node_whose_release_wants_a_mirror_goes_back_without_one(tmp_path: Path) -> None:
    site = PullSite(tmp_path)
    settings(site.node, confirm_s=5)
    try:
        site.mirror.upload()
        site.box.upload()
        with running(site.node) as agent:
            site.release("1.0", change=by_mirror)
            until(lambda: rests(site.node), seconds=40, what="the first release")
            assert answers(site.web) == "1.0"
            # The mirror is gone just when the release must show that it can be reached.
            site.release("2.0", soak_s=2, change=by_mirror)
            until(lambda: answers(site.web) == "2.0", seconds=40, what="the second release")
            site.mirror.stop()
            first = until(lambda: waits(site.node), what="a release that waits")
            back = until(lambda: rests(site.node), what="the way back")
            assert (back.to.plan, back.reason) == (first.to.plan, "no-confirm")
            assert answers(site.web) == "1.0"
            # And once more; this time apply dies, and nobody is left whom it could have told.
            site.mirror.start()
            site.release("3.0", soak_s=2, change=by_mirror)
            until(lambda: answers(site.web) == "3.0", seconds=40, what="the third release")
            site.mirror.stop()
            before = until(lambda: waits(site.node), what="a release that waits")
            os.kill(agent.pid("node.apply_main"), signal.SIGKILL)
            site.mirror.start()
            after = until(lambda: rests(site.node, first.to.plan), what="its end")
            assert (after.to.plan, after.ending) == (before.to.plan, "committed")
            until(lambda: answers(site.web) == "3.0", what="the third release")
    finally:
        site.mirror.stop()
        site.box.stop()
