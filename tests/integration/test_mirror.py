"""A mirror over real sockets: the gateway brings, everybody reads, nobody does anything else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from embrasure.errors import NotFound, Refused, Unavailable
from embrasure.net.identity import Identity
from embrasure.net.status import error_of
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from mirror.listener import Crowd, HttpsListener, tls_context
from mirror.serve import read_app
from mirror.watch import Watchers
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.box import Running, away, bundle_of, running
from tests.simulate.repository import SimRepository
from tests.simulate.uploader import TIMESTAMP, make_service


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def repo(authority: Authority) -> SimRepository:
    found = SimRepository()
    node = found.add_node(mode="pull")
    found.add_app("shop")
    found.set_bundle(bundle_of(authority, found))
    files = {"code/main": b"#!/bin/sh\n" * 100, "code/big": os.urandom(2_500_000)}
    plan = found.set_plan(found.add_release("shop", files), canary=[node])
    found.set_gate(plan, open_wave=0)
    found.publish()
    return found


def shown(repo: SimRepository) -> dict[str, bytes]:
    """Return the files of `repo` that a mirror must show: all that metadata names now."""
    names = {layout.target_file(p, f.hashes["sha256"]) for r in repo.roles.values()
             for p, f in r.targets.items()}  # fmt: skip
    current = {layout.metadata_file(role, version) for role, version in repo.versions.items()}
    return {
        path: body
        for path, body in repo.files.items()
        if path in names or path in current or path.startswith("blobs/")
    }


def test_what_the_gateway_brings_a_pull_node_verifies(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    async def work() -> None:
        async with running(tmp_path / "m", authority, repo) as box:
            source = box.source()
            with pytest.raises(NotFound):
                await away(lambda: list(source.fetch(TIMESTAMP, offset=0, limit=1000)))
            async with box.uploader() as gateway:
                assert await gateway.send_all(repo.files) == repo.versions[layout.TIMESTAMP]
            (tmp_path / "tuf").mkdir(mode=0o700)
            client = TrustClient(tmp_path / "tuf", repo.anchor, clock=repo.clock)
            view = await away(lambda: client.refresh(source, roles=None))
            assert set(view.roles) == set(repo.versions)
            for path, body in shown(repo).items():
                got = await away(
                    lambda path=path: b"".join(source.fetch(path, offset=0, limit=10**7))
                )
                assert got == body
            source.close()

    run(work())


def test_a_broken_upload_and_a_broken_download_go_on_at_their_byte(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    path, body = next((p, b) for p, b in repo.files.items() if len(b) > 2_000_000)

    async def work() -> None:
        async with running(tmp_path / "m", authority, repo) as box, box.uploader() as gateway:
            assert await gateway.put(path, body[:1_500_000], last=False) == 1_500_000
            assert (await gateway.missing([path])) == {path: 1_500_000}
            await gateway.put(path, body, offset=1_500_000)
            assert await gateway.missing([path]) == {}
            await gateway.send_all(repo.files)
            source = box.source()
            tail = await away(lambda: b"".join(source.fetch(path, offset=1_000_001, limit=10**7)))
            assert tail == body[1_000_001:]
            source.close()

    run(work())


def test_who_waits_is_told_at_once(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    async def work() -> None:
        async with running(tmp_path / "m", authority, repo) as box, box.uploader() as gateway:
            source = box.source()
            waiting = asyncio.create_task(away(source.watch, 0))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            version = await gateway.send_all(repo.files)
            assert await asyncio.wait_for(waiting, 5) == version
            # One that already lags is answered without waiting.
            assert await away(source.watch, 0) == version
            source.close()

    run(work())


def test_a_restart_shows_the_same_and_wakes_those_who_lag(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    async def work() -> None:
        async with running(tmp_path / "m", authority, repo) as box, box.uploader() as gateway:
            version = await gateway.send_all(repo.files)
        async with running(tmp_path / "m", authority, repo) as box:
            source = box.source()
            assert await away(source.watch, version - 1) == version
            source.close()
            assert json.loads((box.folder / "ports.json").read_bytes()) == dict(box.ports)
        assert not (tmp_path / "m" / "ports.json").exists()

    run(work())


@pytest.mark.misuse
def test_a_refused_set_says_why_and_shows_nothing(
    tmp_path: Path, authority: Authority, repo: SimRepository, ablation: Ablation
) -> None:
    thief = SimRepository()

    async def work() -> None:
        async with running(tmp_path / "m", authority, repo) as box, box.uploader() as gateway:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gateway.send_all(thief.files)
            error = error_of(caught.value, thing="publish")
            assert isinstance(error, Refused | NotFound)
            assert not (box.public / TIMESTAMP).exists()
            # And an honest one goes through after it.
            await gateway.send_all(repo.files)

        with ablation("the anchor of the own fleet") as attack:
            thief.set_bundle(bundle_of(authority, thief))
            thief.publish()
            async with (
                running(tmp_path / "t", authority, thief) as box,
                box.uploader() as gateway,
            ):
                await gateway.send_all(thief.files)
                attack.succeeded((box.public / TIMESTAMP).exists())

    run(work())


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


ODD_PATHS = [
    "/",
    "/metadata/",
    "/mirror.toml",
    "/tls.key",
    "/../tls.key",
    "/metadata/../../tls.key",
    "/metadata/%2e%2e/%2e%2e/tls.key",
    "/metadata/..%2f..%2ftls.key",
    "//etc/passwd",
    "/blobs/aa/" + "a" * 64 + "/x",
    "/metadata/1.root.json%00",
    "/metadata/1.root.json/",
    "/inbox/metadata/1.root.json",
    "/v1/watch/-1",
    "/v1/watch/1e9",
    "/v1/watch/9999999999",
    "/v1/watch/",
]


@pytest.mark.misuse
def test_strangers_read_shown_files_and_find_nothing_else(
    tmp_path: Path, authority: Authority, repo: SimRepository, ablation: Ablation
) -> None:
    async def work() -> None:
        async with running(tmp_path / "m", authority, repo) as box, box.uploader() as gateway:
            await gateway.send_all(repo.files)
            for path in ODD_PATHS:
                status, headers, body = await away(box.ask, "GET", path)
                assert (status, body) == (404, b""), path
                assert "Server" not in headers
            for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
                status, _, _ = await away(box.ask, method, f"/{TIMESTAMP}")
                assert status in (400, 404, 405), method
            assert (box.public / TIMESTAMP).read_bytes() == repo.files[TIMESTAMP]

            with ablation("the grammar of paths") as attack:
                attack.succeeded(b"PRIVATE" in (box.public / "../tls.key").read_bytes())

    run(work())


@pytest.mark.misuse
def test_a_link_in_the_folder_is_not_followed(
    tmp_path: Path, authority: Authority, repo: SimRepository, ablation: Ablation
) -> None:
    async def work() -> None:
        async with running(tmp_path / "m", authority, repo) as box:
            (box.public / "metadata" / "7.targets.json").symlink_to(box.folder / "tls.key")
            (box.public / "blobs").symlink_to(box.folder)
            status, _, body = await away(box.ask, "GET", "/metadata/7.targets.json")
            assert (status, body) == (404, b"")

            with ablation("a file opened without following links") as attack:
                link = box.public / "metadata" / "7.targets.json"
                attack.succeeded(b"PRIVATE" in link.read_bytes())

    run(work())


RANGES = [
    ("bytes=0-0", 206, slice(0, 1)),
    ("bytes=5-", 206, slice(5, None)),
    ("bytes=5-9", 206, slice(5, 10)),
    ("bytes=5-99999999", 206, slice(5, None)),
    ("bytes=99999999-", 416, slice(0, 0)),
    ("bytes=9-5", 416, slice(0, 0)),
    # Everything else is answered as if nobody had asked for a range.
    ("bytes=-5", 200, slice(None)),
    ("bytes=0-1,3-4", 200, slice(None)),
    ("bytes=0-1" * 400, 200, slice(None)),
    ("lines=0-1", 200, slice(None)),
    ("bytes=x-", 200, slice(None)),
]


def test_single_ranges_are_exact_and_all_others_are_no_ranges(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    path = layout.metadata_file(layout.TARGETS, repo.versions[layout.TARGETS])
    whole = repo.files[path]

    async def work() -> None:
        async with running(tmp_path / "m", authority, repo) as box, box.uploader() as gateway:
            await gateway.send_all(repo.files)
            for asked, wanted, part in RANGES:
                status, headers, body = await away(
                    lambda asked=asked: box.ask("GET", f"/{path}", Range=asked)
                )
                assert (status, body) == (wanted, whole[part]), asked
                if status == 206:
                    start, stop, _ = part.indices(len(whole))
                    stated = f"bytes {start}-{stop - 1}/{len(whole)}"
                    assert headers["content-range"] == stated
            status, headers, body = await away(box.ask, "HEAD", f"/{path}")
            assert (status, headers["content-length"], body) == (200, str(len(whole)), b"")
            assert "immutable" in headers["cache-control"]
            _, headers, _ = await away(box.ask, "GET", f"/{TIMESTAMP}")
            assert headers["cache-control"] == "no-cache"

    run(work())


@contextlib.asynccontextmanager
async def bare(
    tmp_path: Path,
    authority: Authority,
    watchers: Watchers,
    *,
    oldest: ssl.TLSVersion | None = None,
    **limits: Any,
) -> Any:
    """Only the HTTPS half of a mirror, with limits of the test."""
    config = make_service(tmp_path / "m", authority, SimRepository().anchor)
    app = read_app(tmp_path / "m" / "public", watchers, seconds=0.2)
    context = tls_context(tmp_path / "m" / "tls.key", tmp_path / "m" / "tls.crt")
    if oldest is not None:
        context.minimum_version = oldest
    listener = HttpsListener(app, context, **limits)
    port = await listener.start("127.0.0.1", 0)
    try:
        yield Running(tmp_path / "m", config, authority, {"read": port})
    finally:
        await listener.stop()


def closed_by_the_server(sock: ssl.SSLSocket, *, drip: bytes, seconds: float = 5) -> bool:
    """Return whether the server ends a connection on which bytes only drip."""
    sock.settimeout(0.05)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            sock.sendall(drip)
            if not sock.recv(1):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@pytest.mark.misuse
@pytest.mark.parametrize("drip", [b"", b"x"])
def test_a_head_that_never_ends_is_dropped(
    tmp_path: Path, authority: Authority, drip: bytes, ablation: Ablation
) -> None:
    async def work() -> None:
        async with bare(tmp_path, authority, Watchers(), head_seconds=0.3) as box:
            assert await away(begun, box)
        with ablation("the time for a whole head") as attack:
            async with bare(tmp_path / "o", authority, Watchers(), head_seconds=1000) as box:
                attack.succeeded(not await away(begun, box))

    def begun(box: Running) -> bool:
        with box.connect() as sock:
            sock.sendall(b"GET /metadata/timestamp.json HTTP/1.1\r\nX: ")
            return closed_by_the_server(sock, drip=drip, seconds=1.5)

    run(work())


@pytest.mark.misuse
def test_a_reader_that_takes_nothing_is_dropped(
    tmp_path: Path, authority: Authority, ablation: Ablation
) -> None:
    name = "aa" + "0" * 62

    def held(box: Running) -> int:
        with box.connect() as sock:
            sock.settimeout(5)
            sock.sendall(f"GET /blobs/aa/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            time.sleep(1.0)
            got = 0
            with contextlib.suppress(OSError):
                while got < 40_000_000 and (piece := sock.recv(1 << 20)):
                    got += len(piece)
            return got

    async def got(folder: Path, seconds: float) -> int:
        async with bare(folder, authority, Watchers(), stall_seconds=seconds) as box:
            blobs = box.public / "blobs" / "aa"
            blobs.mkdir(parents=True)
            (blobs / name).write_bytes(bytes(40_000_000))
            return int(await away(held, box))

    assert asyncio.run(got(tmp_path, 0.3)) < 40_000_000
    with ablation("the time for a reader to take something") as attack:
        attack.succeeded(asyncio.run(got(tmp_path / "o", 1000)) >= 40_000_000)


@pytest.mark.misuse
def test_one_address_cannot_take_every_connection(
    tmp_path: Path, authority: Authority, ablation: Ablation
) -> None:
    async def work() -> None:
        crowd = Crowd(most=10, per_address=3)
        async with bare(tmp_path, authority, Watchers(), crowd=crowd) as box:

            def crowded() -> None:
                with contextlib.ExitStack() as stack:
                    held = [stack.enter_context(box.connect()) for _ in range(3)]
                    assert held
                    with pytest.raises(OSError), box.connect() as one_more:
                        one_more.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                        if not one_more.recv(100):
                            raise ConnectionResetError

            await away(crowded)
            for _ in range(100):
                if crowd.total == 0:
                    break
                await asyncio.sleep(0.02)
            assert (await away(box.ask, "GET", "/"))[0] == 404

        with ablation("the bound on one address") as attack:
            crowd = Crowd(most=10, per_address=10)
            async with bare(tmp_path / "o", authority, Watchers(), crowd=crowd) as box:

                def fill() -> bool:
                    with contextlib.ExitStack() as stack:
                        held = [stack.enter_context(box.connect()) for _ in range(9)]
                        for one in held:
                            one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                        return all(one.recv(12) == b"HTTP/1.1 404" for one in held)

                attack.succeeded(await away(fill))

    run(work())


@pytest.mark.misuse
def test_too_many_waiters_are_sent_away_and_told_when_to_come_back(
    tmp_path: Path, authority: Authority, ablation: Ablation
) -> None:
    async def work() -> None:
        watchers = Watchers(3, most=1)
        async with bare(tmp_path, authority, watchers) as box:
            first = asyncio.create_task(away(box.ask, "GET", "/v1/watch/3"))
            await asyncio.sleep(0.08)
            status, headers, _ = await away(box.ask, "GET", "/v1/watch/3")
            assert status == 503
            assert 60 <= int(headers["retry-after"]) <= 120
            assert (await first)[0] == 204
            source = box.source()
            assert await away(source.watch, 2) == 3
            source.close()

        with ablation("the bound on waiters") as attack:
            async with bare(tmp_path / "o", authority, Watchers(3, most=9)) as box:
                both = [away(box.ask, "GET", "/v1/watch/3") for _ in range(2)]
                attack.succeeded([one[0] for one in await asyncio.gather(*both)] == [204, 204])

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


def test_the_commands_make_run_and_verify_a_mirror(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    leaf, folder = authority.leaf("mirror", "m1"), tmp_path / "m"
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "tls.key").touch(mode=0o600)
    (tmp_path / "tls" / "tls.key").write_bytes(leaf.key_pem)
    (tmp_path / "tls" / "tls.crt").write_bytes(leaf.chain_pem)
    (tmp_path / "anchor.json").write_bytes(repo.anchor)
    (tmp_path / "gateway.crt").write_bytes(authority.issuer_pem("gateway"))
    program = [sys.executable, "-c", "import sys; from embrasure.cli import main; sys.exit(main())"]

    def embrasure(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *words], capture_output=True, text=True, check=False)

    init = (
        *("mirror", "init", str(folder), "--trust-anchor", str(tmp_path / "anchor.json")),
        *("--name", "m1", "--domain", authority.domain, "--env", "dev"),
        *("--tls", str(tmp_path / "tls"), "--gateway-issuer", str(tmp_path / "gateway.crt")),
    )
    made = embrasure(*init, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["schema"] == "embrasure.mirror.init/1"
    assert embrasure(*init).returncode == 4  # it is never made twice
    with subprocess.Popen([*program, "mirror", "run", str(folder)], stderr=subprocess.PIPE) as one:
        try:
            until = time.monotonic() + 30
            while not (folder / "ports.json").exists() and time.monotonic() < until:
                time.sleep(0.05)
            busy = embrasure("mirror", "run", str(folder))
            assert (busy.returncode, "busy" in busy.stderr.lower()) == (5, True)
            ports = json.loads((folder / "ports.json").read_bytes())
            box = Running(folder, None, authority, ports)  # type: ignore[arg-type]  # not needed here

            async def send() -> None:
                from tests.simulate.uploader import Uploader

                async with Uploader(authority, box.ports["ingest"]) as gateway:
                    await gateway.send_all(repo.files)

            asyncio.run(send())
        finally:
            one.send_signal(signal.SIGTERM)
        assert one.wait(20) == 0
    verified = embrasure("mirror", "verify", str(folder), "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["blobs"] == 2


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


def test_a_watcher_wakes_only_for_something_newer() -> None:
    async def work() -> None:
        watchers = Watchers(5)
        assert await watchers.wait(5, seconds=0.05) is None
        assert await watchers.wait(4, seconds=0.05) == 5
        waiting = asyncio.create_task(watchers.wait(5, seconds=5))
        await asyncio.sleep(0)
        watchers.show(4)
        watchers.show(5)
        await asyncio.sleep(0.02)
        assert not waiting.done()
        watchers.show(6)
        assert await waiting == 6
        full = Watchers(1, most=0)
        with pytest.raises(Unavailable):
            await full.wait(1)

    run(work())
