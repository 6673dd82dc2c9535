"""Renewal over real TLS: hot, under a running transfer, and after a missed window."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from cryptography import x509

from embrasure.clock import now
from embrasure.errors import Refused
from embrasure.net.certificates import load_certificates
from embrasure.net.credentials import Pair, ServerKeys, channel
from embrasure.net.identity import Identity
from embrasure.net.renewal import TABLE, Renewal, renewal_service
from embrasure.net.server import bind, build_server
from embrasure.net.trustbundle import TrustHolder, trust_of
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.floors import FloorStore
from embrasure.trust.layout import blob_file
from embrasure.wire import node_pb2 as wire
from gateway import probe
from gateway.certificates import Certificates
from gateway.certifying import key_identifier
from gateway.listeners import all_listeners
from node.believed import keep_bundle
from node.identity import load_identity, load_tls_key
from node.material import Material
from pki.ca import Issuer
from tests.ablation import Ablation
from tests.integration.test_node_push import INSTALLED, MIB, Site
from tests.simulate.authority import Authority, Leaf, der_text
from tests.simulate.box import bundle_of
from tests.simulate.box import running as box_running
from tests.simulate.fleet import RealNode, SimFleet
from tests.simulate.installer import free_port
from tests.simulate.push import Said, pieces
from tests.simulate.renewing import SimRenewals, renewing
from tests.simulate.repository import SimRepository
from tests.simulate.running import answers, running, until

DAY = timedelta(days=1)


class AgedSite(Site):
    """A fleet of one push node that was enrolled some time ago."""

    def __init__(self, folder: Path, aged: timedelta) -> None:
        self.fleet = SimFleet(folder)
        self.web = free_port()
        self.node: RealNode = self.fleet.make("n1", port=self.web, aged=aged)


def looking(site: Site, folder: Path, *, holds: bool = True) -> Iterator[SimRenewals]:
    with renewing(folder, site.fleet.repository, site.fleet.authority, holds=holds) as found:
        found.address("node", site.node.id, site.node.port)
        yield found


def serial_at(port: int) -> str:
    leaf = probe.shown(f"127.0.0.1:{port}")
    return "" if leaf is None else f"{leaf.serial_number:x}"


def test_a_certificate_is_renewed_under_a_running_transfer_and_survives_a_restart(
    tmp_path: Path,
) -> None:
    site = AgedSite(tmp_path, 3 * DAY)
    extra = secrets.token_bytes(6 * MIB)
    blob, begun, said = blob_file(sha256_hex(extra)), threading.Event(), list[Said]()
    renewed = threading.Event()

    def slowly(want: wire.Want) -> Iterator[wire.FromGateway]:
        for piece in pieces(site.fleet.repository.files, want):
            if want.path == blob:
                begun.set()
                # The last piece goes out only after the certificate was swapped.
                if piece.WhichOneof("kind") == "end":
                    assert renewed.wait(30)
                time.sleep(0.1)
            yield piece

    with running(site.node):
        before = serial_at(site.node.port)
        site.ordered = site.fleet.publish(site.node, "1.0", extra=extra)
        worker = threading.Thread(target=lambda: said.append(site.order(serve=slowly)))
        worker.start()
        assert begun.wait(30)
        for renewals in looking(site, tmp_path / "gateway"):
            began = time.monotonic()
            asyncio.run(renewals.renewals.look())
            took = time.monotonic() - began
            held = renewals.held("node", site.node.id)
            assert held.problem == "" and held.serial != before
            assert serial_at(site.node.port) == held.serial
            renewed.set()
            worker.join(40)
            # The stream that was open all the time ended well.
            assert site.kinds(said[0]) == INSTALLED, said
            assert [want.path for want in said[0].wants].count(blob) == 1
            # The next order dials by the new certificate alone.
            assert site.kinds(site.deploy("2.0")) == INSTALLED
            assert len(renewals.notes("certificate")) == 2
            # Not due again.
            asyncio.run(renewals.renewals.look())
            assert renewals.held("node", site.node.id).serial == held.serial
    mode = site.node.paths.renewed.stat().st_mode
    assert mode & 0o777 == 0o600
    with running(site.node):
        assert serial_at(site.node.port) == held.serial
    print(f"figure: renewal_seconds = {took:.2f} s")


def test_a_young_certificate_is_only_written_down(tmp_path: Path) -> None:
    site = AgedSite(tmp_path, DAY)
    with running(site.node):
        before = serial_at(site.node.port)
        for renewals in looking(site, tmp_path / "gateway"):
            asyncio.run(renewals.renewals.look())
            held = renewals.held("node", site.node.id)
            assert (held.serial, held.problem) == (before, "")
            due = held.due()
            assert due is not None and held.not_before is not None and held.not_after is not None
            third = (held.not_after - held.not_before) / 3
            assert third * 0.9 <= due - held.not_before <= third * 1.1
            assert renewals.notes("certificate") == []


def test_a_gateway_without_the_issuer_tells_what_it_cannot_renew(tmp_path: Path) -> None:
    site = AgedSite(tmp_path, 3 * DAY)
    with running(site.node):
        before = serial_at(site.node.port)
        for renewals in looking(site, tmp_path / "gateway", holds=False):
            asyncio.run(renewals.renewals.look())
            held = renewals.held("node", site.node.id)
            assert "node issuer" in held.problem and held.failures == 1
            assert serial_at(site.node.port) == before


def test_a_node_that_slept_through_its_certificate_comes_back_by_its_boot_certificate(
    tmp_path: Path,
) -> None:
    site = AgedSite(tmp_path, 9 * DAY)
    env, node = site.fleet.repository.env, site.node.id
    with running(site.node):
        boot = load_certificates(load_identity(site.node.paths).boot_cert_pem, what="boot")[0]
        assert serial_at(site.node.port) == f"{boot.serial_number:x}"
        said = site.deploy("1.0")
        # Nobody dials it as the node while no operator has agreed.
        assert said.code is grpc.StatusCode.UNAVAILABLE
        for renewals in looking(site, tmp_path / "gateway"):
            asyncio.run(renewals.renewals.look())
            assert f"embrasure fleet recover {node}" in renewals.held("node", node).problem
            held = asyncio.run(renewals.renewals.recover(env, node, actor="operator/anna"))
            assert held.problem == "" and serial_at(site.node.port) == held.serial
            assert renewals.held("node", node) == held
            assert any("operator/anna" in line for line in renewals.notes("certificate"))
            # It is an ordinary node again, and shows its boot certificate to nobody.
            with pytest.raises(Refused) as told:
                asyncio.run(renewals.renewals.recover(env, node, actor="operator/anna"))
            assert told.value.reason == "boot-certificate"
        until(lambda: site.kinds(site.order()) == INSTALLED, what="an order obeyed")
        assert answers(site.web) == "1.0"


def test_a_leaf_of_an_issuer_that_signs_no_more_is_renewed_at_once(tmp_path: Path) -> None:
    site = AgedSite(tmp_path, DAY)
    fleet, node = site.fleet, site.node.id
    old = fleet.authority.issuers["node"]
    new = fleet.authority.issuers["node"] = fleet.authority.new_issuer("node")
    both = (der_text(old.certificate), der_text(new.certificate))
    bundle = fleet.bundle()
    issuers: Any = {**bundle.issuers, "node": both}
    fleet.repository.set_bundle(msgspec.structs.replace(bundle, issuers=issuers))
    fleet.repository.publish()
    with running(site.node):
        keep_bundle(site.node.paths, fleet.repository.bundles[fleet.repository.env])
        before = serial_at(site.node.port)
        for renewals in looking(site, tmp_path / "gateway"):
            # The first look writes it down, the next one brings a leaf of the new issuer.
            asyncio.run(renewals.renewals.look())
            assert renewals.held("node", node).serial == before
            time.sleep(2.5)  # until the node has read the bundle with both
            asyncio.run(renewals.renewals.look())
            held = renewals.held("node", node)
            assert held.problem == "" and serial_at(site.node.port) == held.serial != before
            assert held.issuer == key_identifier(new.certificate)
            asyncio.run(renewals.renewals.look())
            assert renewals.held("node", node) == held


def test_a_stream_outlives_the_renewal_of_the_gateways_own_certificate(tmp_path: Path) -> None:
    site = AgedSite(tmp_path, DAY)
    extra, begun = secrets.token_bytes(3 * MIB), threading.Event()
    blob, changed, said = blob_file(sha256_hex(extra)), threading.Event(), list[Said]()

    def slowly(want: wire.Want) -> Iterator[wire.FromGateway]:
        for piece in pieces(site.fleet.repository.files, want):
            if want.path == blob:
                begun.set()
                if piece.WhichOneof("kind") == "end":
                    assert changed.wait(30)
            yield piece

    at = [now()]
    authority = site.fleet.authority
    issuers = {name: authority.issuers[name] for name in ("gateway", "admin")}
    own = Certificates("g1", clock=lambda: at[0], **{
        name: Issuer(name, authority.domain, found.certificate, found.key)  # type: ignore[arg-type]  # names of ours
        for name, found in issuers.items()
    })  # fmt: skip
    key, chain = own.client()
    assert own.client() == (key, chain) and isinstance(key, bytes)
    first = Leaf(load_certificates(chain, what="x")[0], key, chain)
    with running(site.node):
        site.ordered = site.fleet.publish(site.node, "1.0", extra=extra)
        gateway = site.fleet.gateway(site.node)
        gateway.leaf = first
        envelope = site.fleet.order(site.node, *site.ordered)
        worker = threading.Thread(
            target=lambda: said.append(asyncio.run(gateway.order(envelope, serve=slowly)))
        )
        worker.start()
        assert begun.wait(30)
        # Half of its day has passed: whoever dials next does so by a new key.
        at[0] += timedelta(hours=13)
        assert own.client()[0] != key
        assert asyncio.run(site.fleet.gateway(site.node).status()).node == site.node.id
        changed.set()
        worker.join(40)
        assert site.kinds(said[0]) == INSTALLED


def test_a_node_that_slept_through_a_rotation_of_its_issuer_comes_back_the_same_way(
    tmp_path: Path,
) -> None:
    site = AgedSite(tmp_path, DAY)
    fleet, node = site.fleet, site.node.id
    with running(site.node):
        before = serial_at(site.node.port)
        fleet.authority.issuers["node"] = fleet.authority.new_issuer("node")
        fleet.repository.set_bundle(fleet.bundle())
        fleet.repository.publish()
        # What its apply process does with a newer tls.json that reached it.
        keep_bundle(site.node.paths, fleet.bundle())
        until(lambda: serial_at(site.node.port) != before, what="the boot certificate shown")
        for renewals in looking(site, tmp_path / "gateway"):
            asyncio.run(renewals.renewals.look())
            assert f"embrasure fleet recover {node}" in renewals.held("node", node).problem
            env = fleet.repository.env
            held = asyncio.run(renewals.renewals.recover(env, node, actor="operator/anna"))
            assert serial_at(site.node.port) == held.serial
        assert site.kinds(site.deploy("1.0")) == INSTALLED


@pytest.mark.misuse
def test_a_clock_set_back_makes_no_certificate_young_again(
    tmp_path: Path, ablation: Ablation
) -> None:
    site = AgedSite(tmp_path, DAY)
    paths, material = site.node.paths, Material(site.node.paths)
    trust = material.trust()
    assert material.pair(at=material.moment(), trust=trust) != material.boot()
    # Verified files have told of a time when this certificate has ended; the clock knows nothing.
    store = FloorStore(paths.floors)
    later = int((now() + 9 * DAY).timestamp())
    store.save(msgspec.structs.replace(store.load(), time=later))
    assert material.moment() > now() + 8 * DAY
    assert material.pair(at=material.moment(), trust=trust) == material.boot()
    with ablation("the time floor") as attack:
        attack.without("node.material.Material._told", lambda _: now())
        attack.succeeded(material.pair(at=material.moment(), trust=trust) != material.boot())


# --- who may not come back -----------------------------------------------------------------------


class Stranger:
    """A listener at the node's address that is not the node: right names, other boot key."""

    def __init__(self, site: Site, pair: Pair) -> None:
        self.pair = pair
        self.keys = ServerKeys(pair, TrustHolder(trust_of(site.fleet.bundle())), roles=["gateway"])
        self.renewal = Renewal(
            Identity("node", site.node.id), self.keys.holder, serving=lambda: self.keys.pair,
            keep=self.keys.swap,
        )  # fmt: skip

    async def recovered(self, renewals: SimRenewals, env: str, node: str) -> str:
        """Return the serial that the gateway gave to this listener; raises what it raised."""
        server = build_server([renewal_service(self.renewal)], TABLE, self.keys.holder)
        port = bind(server, "127.0.0.1:0", self.keys)
        await server.start()
        try:
            renewals.address("node", node, port)
            return (await renewals.renewals.recover(env, node, actor="operator/anna")).serial
        finally:
            await server.stop(0)


@pytest.mark.misuse
def test_a_stranger_at_the_nodes_address_is_not_recovered(
    tmp_path: Path, ablation: Ablation
) -> None:
    site = AgedSite(tmp_path, 9 * DAY)
    env, node = site.fleet.repository.env, site.node.id
    # Made in the node's name, by another who has the same names and no key of the node.
    (tmp_path / "elsewhere").mkdir()
    other = SimFleet(tmp_path / "elsewhere")
    others = other.make("n1", port=free_port()).paths
    false = load_identity(others)
    assert false.node == node
    stranger = Stranger(site, Pair(load_tls_key(others), false.boot_cert_pem))
    with renewing(tmp_path / "gateway", site.fleet.repository, site.fleet.authority) as renewals:
        with pytest.raises(Refused) as told:
            asyncio.run(stranger.recovered(renewals, env, node))
        assert told.value.reason == "boot-certificate"
        assert stranger.keys.pair is stranger.pair
        assert renewals.notes("certificate") == []
        with ablation("the digest of the boot certificate") as attack:
            attack.without("gateway.renewals.check_boot", lambda entry, leaf, address: leaf)
            serial = asyncio.run(stranger.recovered(renewals, env, node))
            attack.succeeded(serial and stranger.keys.pair is not stranger.pair)


@pytest.mark.parametrize(("aged", "ends"), [(9 * DAY, "refused"), (DAY, "accepted")])
def test_an_expired_certificate_is_refused_even_when_it_is_the_one_expected(
    aged: timedelta, ends: str, tmp_path: Path
) -> None:
    """The reason for the boot certificate; fails when gRPC begins to accept expired pins."""
    fleet = SimFleet(tmp_path)
    leaf = fleet.authority.leaf("node", "n1", starts=-aged)
    own = fleet.authority.leaf("gateway", "g1")
    holder = TrustHolder(trust_of(fleet.bundle()))
    keys = ServerKeys(Pair(leaf.key_pem, leaf.chain_pem), holder, roles=["gateway"])
    renewal = Renewal(Identity("node", "n1"), holder, serving=lambda: keys.pair, keep=keys.swap)

    async def work() -> str:
        server = build_server([renewal_service(renewal)], TABLE, holder)
        port = bind(server, "127.0.0.1:0", keys)
        await server.start()
        try:
            async with channel(
                f"127.0.0.1:{port}", role="node", name="n1", domain=fleet.authority.domain,
                issuer_pems=leaf.pem, key=own.key_pem, chain_pem=own.chain_pem,
            ) as line:  # fmt: skip
                try:
                    await asyncio.wait_for(line.channel_ready(), 2)
                except TimeoutError:
                    return "refused"
                return "accepted"
        finally:
            await server.stop(0)

    assert asyncio.run(work()) == ends


@pytest.mark.misuse
def test_a_node_that_is_not_in_the_directory_gets_no_certificate(
    tmp_path: Path, ablation: Ablation
) -> None:
    site = AgedSite(tmp_path, 3 * DAY)
    site.node.listed.state = "retired"
    site.fleet.repository.add_node(site.node.listed)
    site.fleet.repository.publish()
    with running(site.node):
        before = serial_at(site.node.port)
        for renewals in looking(site, tmp_path / "gateway"):
            asyncio.run(renewals.renewals.look())
            assert serial_at(site.node.port) == before
            with pytest.raises(Refused) as told:
                asyncio.run(
                    renewals.renewals.recover(
                        site.fleet.repository.env, site.node.id, actor="operator/anna"
                    )
                )
            assert told.value.reason == "not-enrolled"
            with ablation("the entry in the directory") as attack:
                attack.without(
                    "gateway.listeners.check_entry", lambda ground, name: ground.entries[name]
                )
                asyncio.run(renewals.renewals.look())
                attack.succeeded(serial_at(site.node.port) != before)


def test_who_does_not_answer_is_left_alone_longer_each_time_and_told_once_after_two_days(
    tmp_path: Path,
) -> None:
    site = AgedSite(tmp_path, DAY)
    at = [site.fleet.repository.clock()]
    site.fleet.repository.clock = lambda: at[0]
    with renewing(tmp_path / "gateway", site.fleet.repository, site.fleet.authority) as renewals:
        renewals.address("node", site.node.id, free_port())
        tries = []
        for _ in range(3 * 48):
            asyncio.run(renewals.renewals.look())
            tries.append(renewals.held("node", site.node.id).failures)
            at[0] += timedelta(minutes=30)
        held = renewals.held("node", site.node.id)
        assert held.failing is not None and tries[:2] == [1, 2]
        assert 60 < held.failures < 90  # once an hour, in the end
        assert len([note for note in renewals.notes("certificate") if "alarm" in note]) == 1


# --- mirrors and letterboxes ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mirror", "letterbox"])
def test_a_mirror_and_a_letterbox_are_renewed_on_both_of_their_listeners(
    kind: str, tmp_path: Path
) -> None:
    repo, authority = SimRepository(), Authority()
    repo.add_node(mode="pull")
    repo.add_app("shop")
    repo.set_bundle(bundle_of(authority, repo))
    repo.publish()

    async def work() -> None:
        async with box_running(tmp_path / "box", authority, repo, kind=kind) as box:
            # Who holds the issuer's word for it: until `tls.json` came, only gateways are known.
            async with box.uploader() as gateway:
                files = {p: b for p, b in repo.files.items() if kind == "mirror" or trusted(p)}
                await gateway.send_all(files)
            with renewing(tmp_path / "gateway", repo, authority) as renewals:
                renewals.address(kind, box.config.name, box.ports["ingest"])
                parts, library = renewals.renewals.parts, renewals.renewals.library
                listeners, wrong = await asyncio.to_thread(all_listeners, parts, library)
                assert not wrong
                (one,) = listeners.values()
                old = await asyncio.to_thread(box.connect)
                held = await renewals.renewals.renew(one, issuers=authority.issuer_pem("mirror"))
                new = await asyncio.to_thread(box.connect)
                assert serial(new.getpeercert(binary_form=True)) == held.serial
                assert serial(old.getpeercert(binary_form=True)) != held.serial
                # The connection that was open before is served still.
                status = await asyncio.to_thread(request, old)
                assert status.startswith(b"HTTP/1.1 ")
                new.close()
                old.close()
        async with box_running(tmp_path / "box", authority, repo, kind=kind) as box:
            again = await asyncio.to_thread(box.connect)
            assert serial(again.getpeercert(binary_form=True)) == held.serial
            again.close()

    asyncio.run(work())


def trusted(path: str) -> bool:
    return not any(word in path for word in ("gates-", "dev-shop", "blobs/", "targets/dev"))


def serial(der: bytes | None) -> str:
    return f"{x509.load_der_x509_certificate(der or b'').serial_number:x}"


def request(line: socket.socket) -> bytes:
    line.sendall(b"GET /metadata/1.root.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return line.recv(64)
