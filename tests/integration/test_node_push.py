"""A push node as it really runs: its own processes, real TLS and gRPC, a real app on loopback."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import msgspec
import pytest

from embrasure.trust.canonical import sha256_hex
from embrasure.trust.layout import blob_file
from embrasure.trust.order import parse_order
from embrasure.trust.receipt import Kind, Outcome, parse_receipt
from embrasure.wire import node_pb2 as wire
from tests.ablation import Ablation
from tests.simulate.fleet import APP, RealNode, SimFleet
from tests.simulate.installer import free_port
from tests.simulate.push import Cut, Said, Serve, pieces
from tests.simulate.running import (
    Running,
    answers,
    children,
    embrasure,
    libraries,
    peak_mib,
    running,
    status,
    until,
)

MIB = 1024 * 1024


class Site:
    """A fleet of one push node."""

    def __init__(self, folder: Path) -> None:
        self.fleet = SimFleet(folder)
        self.web = free_port()
        self.node: RealNode = self.fleet.make("n1", port=self.web)

    def deploy(self, version: str, *, cut: Cut | None = None, **release: object) -> Said:
        """Return what the node said to an order for a new release."""
        self.ordered = self.fleet.publish(self.node, version, **release)  # type: ignore[arg-type]  # passed through
        return self.order(cut=cut)

    def order(self, *, cut: Cut | None = None, serve: Serve | None = None) -> Said:
        """Return what the node said to one more order for the same release."""
        envelope = self.fleet.order(self.node, *self.ordered)
        gateway = self.fleet.gateway(self.node)
        return asyncio.run(gateway.order(envelope, cut=cut, serve=serve))

    def kinds(self, said: Said) -> list[tuple[Kind, Outcome]]:
        """Return the receipts, every signature checked."""
        found = [parse_receipt(signed, self.node.receipt_key) for signed in said.receipts]
        return [(receipt.kind, receipt.outcome) for receipt in found]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


INSTALLED = [(Kind.HEALTHY, Outcome.OK), (Kind.SOAKED, Outcome.OK)]


def test_an_order_installs_and_a_new_release_replaces_the_old(site: Site) -> None:
    with running(site.node):
        said = site.deploy("1.0")
        assert (said.code, said.refusals) == (grpc.StatusCode.OK, []), said
        assert site.kinds(said) == INSTALLED
        assert answers(site.web) == "1.0"
        assert site.kinds(site.deploy("2.0")) == INSTALLED
        assert answers(site.web) == "2.0"
        reply = asyncio.run(site.fleet.gateway(site.node).status())
        # A restored gateway verifies its own signatures: they come back as they went out.
        files = site.fleet.repository.files
        assert reply.timestamp == files["metadata/timestamp.json"]
        assert reply.snapshot in files.values()
        # So do operators', of the app that is asked for; nothing else goes by that name.
        role = f"dev-{APP}"
        newest = files[f"metadata/{site.fleet.repository.versions[role]}.{role}.json"]
        for name, body in ((role, newest), ("fleet-dev", b""), ("dev-none", b""), ("../x", b"")):
            assert asyncio.run(site.fleet.gateway(site.node).status(name)).approval == body
        # Two orders to install, and a confirmation of each.
        assert (reply.node, reply.oseq, reply.rseq) == (site.node.id, 4, 4)
        assert [app.app for app in reply.apps] == [APP]
        shown = status(site.node)
        assert (shown["agent"], shown["oseq"]) == ("running", 4)
    assert status(site.node)["agent"] == "not running"


def test_a_bad_release_is_rolled_back_and_the_old_one_serves(site: Site) -> None:
    with running(site.node):
        site.deploy("1.0")
        said = site.deploy("2.0", mode="bad")
        assert site.kinds(said)[-1] == (Kind.STATUS, Outcome.ROLLED_BACK)
        assert answers(site.web) == "1.0"


def test_a_line_broken_in_a_blob_goes_on_at_the_byte_with_the_next_order(site: Site) -> None:
    extra = secrets.token_bytes(8 * MIB)
    blob, held = blob_file(sha256_hex(extra)), partial(held_bytes, site, sha256_hex(extra))
    with running(site.node):
        cut = Cut(blob, 3 * MIB, ready=lambda: held() >= 2 * MIB)
        broken = site.deploy("1.0", extra=extra, cut=cut)
        assert broken.is_cut
        assert broken.offsets(blob) == [0]
        at_want: list[int] = []

        def serve(want: wire.Want) -> Iterator[wire.FromGateway]:
            at_want.extend([held()] if want.path == blob else [])
            return pieces(site.fleet.repository.files, want)

        done = until(lambda: free_again(site, serve), what="the node's hand free again")
        assert site.kinds(done) == INSTALLED
        assert done.offsets(blob) == at_want
        assert 2 * MIB <= at_want[0] < 8 * MIB
        assert answers(site.web) == "1.0"


def free_again(site: Site, serve: Serve) -> Said | None:
    """Return what the node says once it no longer works on the broken order."""
    said = site.order(serve=serve)
    return None if ("wait", "busy") in said.refusals else said


def held_bytes(site: Site, digest: str) -> int:
    """Return how much of a blob is on the node's disk."""
    partials = site.node.paths.blobs / ".partial"
    return sum(found.stat().st_size for found in partials.glob(f"{digest}*"))


def test_the_process_that_installs_holds_no_grpc(site: Site) -> None:
    with running(site.node) as node:
        site.deploy("1.0")
        apply, fetch = libraries(node.pid("node.apply_main")), libraries(node.pid("node.agent"))
        assert "cygrpc" in fetch
        for library in ("cygrpc", "google/_upb"):
            assert library not in apply, library


def test_importing_apply_loads_no_grpc() -> None:
    # What is mapped shows compiled code only; this shows the rest.
    code = (
        "import sys, node.apply_main, node.stick\n"
        "print(sorted({'grpc', 'google.protobuf', 'node.push'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_memory_does_not_grow_with_the_bundle(site: Site) -> None:
    with running(site.node) as node:
        pids = [node.pid("node.apply_main"), node.pid("node.agent")]
        site.deploy("1.0", extra=secrets.token_bytes(24 * MIB))
        small = [peak_mib(pid) for pid in pids]
        said = site.deploy("2.0", extra=secrets.token_bytes(96 * MIB))
        assert site.kinds(said) == INSTALLED
        large = [peak_mib(pid) for pid in pids]
    print(f"figure: node_peak_mib = apply {large[0]:.0f} fetch {large[1]:.0f}")
    assert max(large) < 128
    assert all(after - before < 12 for before, after in zip(small, large, strict=True))


def test_a_second_agent_of_one_node_does_not_start(site: Site) -> None:
    with running(site.node):
        second = embrasure("node", "run", "--root", site.node.paths.prefix)
        assert second.returncode == 31
        assert "[E_BUSY]" in second.stderr
        assert site.kinds(site.deploy("1.0")) == INSTALLED


def test_two_agents_started_at_once_leave_one(site: Site) -> None:
    both = [Running(site.node), Running(site.node)]
    try:
        ends = until(
            lambda: [one for one in both if one.process.poll() is not None], what="one end"
        )
        assert [one.process.returncode for one in ends] == [31]
        (left,) = [one for one in both if one not in ends]
        until(left.is_ready, what="the other")
        assert site.kinds(site.deploy("1.0")) == INSTALLED
    finally:
        for one in both:
            one.end()


@pytest.mark.parametrize("module", ["node.apply_main", "node.agent"])
def test_a_killed_process_comes_back_and_the_app_serves(site: Site, module: str) -> None:
    with running(site.node) as node:
        site.deploy("1.0")
        before = node.pid(module)
        os.kill(before, signal.SIGKILL)
        until(lambda: node.pid(module) != before, what="a new process")
        until(lambda: answers(site.web) == "1.0", what="the app")
        done = until(lambda: up_again(site), what="an answer to an order")
        # One order, one switch: what was told before is told again.
        assert done.refusals or site.kinds(done) == INSTALLED


def up_again(site: Site) -> Said | None:
    """Return the node's answer once both of its processes answer."""
    try:
        said = site.order()
    except (OSError, KeyError, ValueError):
        return None
    is_up = said.code is grpc.StatusCode.OK and ("wait", "busy") not in said.refusals
    return said if is_up else None


def test_the_end_of_the_agent_is_the_end_of_everything_it_started(site: Site) -> None:
    with running(site.node) as node:
        site.deploy("1.0")
        family = [node.pid("node.apply_main"), node.pid("node.agent")]
        family += [pid for one in family for pid in children(one)]
        assert len(family) > 2
        node.process.kill()
        node.process.wait()
        until(lambda: not any(is_alive(pid) for pid in family), what="the end of all")
        assert answers(site.web) == ""
    with running(site.node):
        until(lambda: answers(site.web) == "1.0", what="the app after a new start")


def is_alive(pid: int) -> bool:
    """Return whether the process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_sigterm_ends_the_node_soon_and_well(site: Site) -> None:
    with running(site.node) as node:
        site.deploy("1.0")
        assert node.stop() == 0
        assert answers(site.web) == ""


def test_sigterm_in_the_middle_of_a_soak_ends_soon_and_blames_nobody(site: Site) -> None:
    site.ordered = site.fleet.publish(site.node, "1.0", soak_s=60)

    async def main(node: Running) -> tuple[int, Said]:
        envelope = site.fleet.order(site.node, *site.ordered)
        order = asyncio.create_task(site.fleet.gateway(site.node).order(envelope))
        await asyncio.to_thread(until, lambda: status(site.node)["rseq"] == 1)  # healthy, soaking
        code = await asyncio.wait_for(asyncio.to_thread(node.stop), 12)
        return code, await order

    with running(site.node) as node:
        code, said = asyncio.run(main(node))
    assert (code, site.kinds(said)) == (0, INSTALLED[:1])
    assert status(site.node)["rseq"] == 1  # no failure was signed
    with running(site.node) as node:
        # The same release goes on soaking: its try is not burnt. And again it can be stopped.
        until(lambda: answers(site.web) == "1.0", what="the app")
        assert node.stop() == 0
        assert "killed" not in node.log.read_text()


def test_a_node_that_is_not_enrolled_says_so_and_listens_once_it_is(site: Site) -> None:
    enrolled = site.node.paths.enrolled
    answer = enrolled.rename(site.fleet.folder / "answer.json")
    node = Running(site.node)
    try:
        until(lambda: "[E_NOT_ENROLLED]" in node.log.read_text(), what="a word about it")
        assert "embrasure pki enrol" in node.log.read_text()
        assert not node.is_ready()
        assert embrasure("node", "enrol", "--root", site.node.paths.prefix, answer).returncode == 0
        until(node.is_ready, what="the listener")
        assert site.kinds(site.deploy("1.0")) == INSTALLED
    finally:
        node.end()


def test_what_runs_does_not_need_the_listener(site: Site) -> None:
    with running(site.node):
        site.deploy("1.0")
    site.node.paths.tls_chain.write_bytes(b"half a certificate")
    node = Running(site.node)
    try:
        until(lambda: "[E_PEM]" in node.log.read_text(), what="a refusal")
        until(lambda: answers(site.web) == "1.0", what="the app")
        assert node.process.poll() is None
    finally:
        node.end()


@pytest.mark.parametrize("lost", ["floors", "tuf"])
def test_lost_trust_installs_nothing_and_stops_nothing(site: Site, lost: str) -> None:
    with running(site.node):
        site.deploy("1.0")
    shutil.rmtree(getattr(site.node.paths, lost))
    with running(site.node):
        until(lambda: answers(site.web) == "1.0", what="the app")
        assert site.deploy("2.0").refusals == [("refuse", "no-trust")]
        assert answers(site.web) == "1.0"


@pytest.mark.misuse
def test_a_gateway_that_the_new_bundle_no_longer_lists_is_shut_out(
    site: Site, ablation: Ablation
) -> None:
    with running(site.node):
        with ablation("the bundle that leaves it out") as attack:
            attack.succeeded(site.kinds(site.deploy("1.0")) == INSTALLED)
        site.fleet.repository.set_bundle(
            msgspec.structs.replace(site.fleet.bundle(), gateways=("g2",))
        )
        # The order that brings the news is the old gateway's last one: it cannot even confirm it.
        site.ordered = site.fleet.publish(site.node, "2.0")
        gateway = site.fleet.gateway(site.node)
        gateway.confirms_as = site.fleet.authority.leaf("gateway", "g2")
        said = asyncio.run(gateway.order(site.fleet.order(site.node, *site.ordered)))
        assert site.kinds(said) == INSTALLED
        until(lambda: site.order().code is grpc.StatusCode.PERMISSION_DENIED, what="a refusal")
        gateway = site.fleet.gateway(site.node)
        gateway.leaf = site.fleet.authority.leaf("gateway", "g2")
        said = asyncio.run(gateway.order(site.fleet.order(site.node, *site.ordered)))
        assert site.kinds(said) == INSTALLED


def is_heard(said: Said) -> Said | None:
    """Return what the node said unless it turned the caller away, with no word of its own.

    A caller who still writes to a refused call sees INTERNAL from his own side.
    """
    return said if said.receipts or said.refusals else None


@pytest.mark.misuse
def test_only_the_gateway_is_let_in(site: Site, ablation: Ablation) -> None:
    with running(site.node):
        for role, name in (("operator", "anna"), ("node", site.node.id), ("mirror", "m1")):
            gateway = site.fleet.gateway(site.node)
            gateway.leaf = site.fleet.authority.leaf(role, name)
            said = asyncio.run(gateway.order(b"envelope"))
            assert said.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE)
        # A gateway that tls.json does not list.
        gateway = site.fleet.gateway(site.node)
        gateway.leaf = site.fleet.authority.leaf("gateway", "g2")
        said = asyncio.run(gateway.order(b"envelope"))
        assert said.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INTERNAL)
        assert is_heard(said) is None
        # And the same node obeys the listed one.
        assert site.kinds(site.deploy("1.0")) == INSTALLED
        with ablation("the list of gateways") as attack:
            both = msgspec.structs.replace(site.fleet.bundle(), gateways=("g1", "g2"))
            site.fleet.repository.set_bundle(both)
            site.deploy("2.0")
            envelope = site.fleet.order(site.node, *site.ordered)
            said = until(
                lambda: is_heard(asyncio.run(gateway.order(envelope))), what="the second gateway"
            )
            attack.succeeded(site.kinds(said) == INSTALLED)


@pytest.mark.misuse
def test_an_order_counts_once_and_only_for_its_node(site: Site, ablation: Ablation) -> None:
    with running(site.node):
        said = site.deploy("1.0")
        envelope = site.fleet.order(site.node, *site.ordered, oseq=3)
        first = asyncio.run(site.fleet.gateway(site.node).order(envelope))
        again = asyncio.run(site.fleet.gateway(site.node).order(envelope))
        assert first.receipts == again.receipts == said.receipts
        old = site.fleet.order(site.node, *site.ordered, oseq=1)
        replayed = asyncio.run(site.fleet.gateway(site.node).order(old))
        assert replayed.refusals == [("refuse", "replay")]
        forged = json.loads(envelope)
        forged["signatures"][0]["sig"] = "A" * 86 + "=="
        raw = json.dumps(forged, sort_keys=True, separators=(",", ":")).encode()
        refused = asyncio.run(site.fleet.gateway(site.node).order(raw))
        assert refused.refusals == [("refuse", "bad-signature")]
        with ablation("the signature of the order") as attack:
            # Who takes the payload out of it takes it for an order.
            attack.succeeded(parse_order(base64.b64decode(forged["payload"])).oseq == 3)
