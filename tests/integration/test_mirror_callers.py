"""Who may bring a mirror anything, and which certificates it believes and shows."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from embrasure.net.identity import Identity
from mirror.watch import Watchers
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.box import Running, away, bare, bundle_of, published, running
from tests.simulate.repository import SimRepository
from tests.simulate.uploader import TIMESTAMP


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def repo(authority: Authority) -> SimRepository:
    return published(authority)


def every_issuer(authority: Authority) -> Callable[..., bytes]:
    """Return what stands for the trust set of a listener that believes every issuer."""
    return lambda *_: b"".join(authority.issuer_pem(name) for name in authority.issuers)


@pytest.mark.misuse
def test_only_a_gateway_brings_anything(
    tmp_path: Path, authority: Authority, repo: SimRepository, ablation: Ablation
) -> None:
    async def work() -> None:
        async with running(tmp_path / "m", authority, repo) as box:
            for leaf in (
                authority.leaf("node", "n1"),
                authority.leaf("mirror", "m2"),
                authority.leaf("operator", "anna"),
                Authority().leaf("gateway", "g1"),
            ):
                async with box.uploader(leaf) as caller:
                    for call in (
                        caller.missing([TIMESTAMP]),
                        caller.put("metadata/9.targets.json", b"x"),
                        caller.publish(repo.files[TIMESTAMP]),
                    ):
                        with pytest.raises(grpc.aio.AioRpcError):
                            await call
            assert not list((box.folder / "inbox").rglob("*.json"))

            with ablation("one trust set a listener, and the table of roles") as attack:
                attack.without(
                    "embrasure.net.trustbundle.Trust.listener_pem", every_issuer(authority)
                )
                attack.without(
                    "embrasure.net.authorize.Authorize.allowed",
                    lambda *_: Identity("gateway", "g1"),
                )
                async with box.uploader(authority.leaf("operator", "anna")) as caller:
                    await caller.put("metadata/9.targets.json", b"x")
                attack.succeeded(list((box.folder / "inbox").rglob("*.json")))

    run(work())


@pytest.mark.misuse
def test_the_gateway_list_of_a_verified_tls_json_counts_from_then_on(
    tmp_path: Path, authority: Authority, repo: SimRepository, ablation: Ablation
) -> None:
    second = authority.leaf("gateway", "g2")

    async def work() -> None:
        async with (
            running(tmp_path / "m", authority, repo) as box,
            box.uploader(second) as other,
            box.uploader() as gateway,
        ):
            # Before the first tls.json the issuer's word is enough.
            await other.missing([])
            await gateway.send_all(repo.files)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await other.missing([])
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
            with ablation("the list of gateways") as attack:
                attack.without("embrasure.net.trustbundle.Trust.check_admitted")
                attack.succeeded(await other.missing([]) is not None)
            repo.set_bundle(bundle_of(authority, repo, gateways=("g2",)))
            repo.publish()
            await gateway.send_all(repo.files)
            await other.missing([])
            with pytest.raises(grpc.aio.AioRpcError):
                await gateway.missing([])
        async with (
            running(tmp_path / "m", authority, repo) as box,
            box.uploader(second) as other,
        ):
            await other.missing([])

    run(work())


def test_a_tls_json_that_cannot_be_used_leaves_the_old_trust(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    async def work() -> None:
        async with running(tmp_path / "m", authority, repo) as box, box.uploader() as gateway:
            await gateway.send_all(repo.files)
            for domain in ("other.example", authority.domain):
                repo.set_bundle(domain=domain)  # dummy certificates
                repo.publish()
                await gateway.send_all(repo.files)
            await gateway.missing([])

    run(work())


@pytest.mark.misuse
def test_a_stranger_with_old_tls_is_not_served(
    tmp_path: Path, authority: Authority, ablation: Ablation
) -> None:
    async def work() -> None:
        async with bare(tmp_path, authority, Watchers()) as box:
            with pytest.raises(ssl.SSLError):
                await away(shake, box)
        with ablation("TLS 1.3 at least") as attack:
            old = ssl.TLSVersion.TLSv1_2
            async with bare(tmp_path / "o", authority, Watchers(), oldest=old) as box:
                attack.succeeded(await away(shake, box) == "TLSv1.2")

    def shake(box: Running) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", box.ports["read"])) as plain,
            context.wrap_socket(plain) as sock,
        ):
            return sock.version()

    run(work())


def serials(box: Running) -> set[int]:
    """Return the serial numbers that both listeners show."""
    found = set()
    for port in box.ports.values():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain) as sock,
        ):
            der = sock.getpeercert(binary_form=True)
        assert der is not None
        found.add(x509.load_der_x509_certificate(der).serial_number)
    return found


def test_a_renewed_certificate_is_served_without_a_restart_and_a_wrong_one_never(
    tmp_path: Path, authority: Authority, repo: SimRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.running._RELOAD_SECONDS", 0.05)
    old, new = authority.leaf("mirror", "m1"), authority.leaf("mirror", "m1")

    async def work() -> None:
        async with running(tmp_path / "m", authority, repo) as box:
            first = await away(serials, box)
            (box.folder / "tls.crt").write_bytes(old.chain_pem)  # of another key
            await asyncio.sleep(0.2)
            assert await away(serials, box) == first
            (box.folder / "tls.key").write_bytes(new.key_pem)
            (box.folder / "tls.crt").write_bytes(new.chain_pem)
            for _ in range(100):
                if await away(serials, box) == {new.certificate.serial_number}:
                    break
                await asyncio.sleep(0.05)
            assert await away(serials, box) == {new.certificate.serial_number}

    run(work())
