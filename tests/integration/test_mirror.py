"""A mirror over real sockets: the gateway brings, nodes verify, what broke goes on at its byte."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest

from embrasure.errors import NotFound, Refused, Unavailable
from embrasure.net.status import error_of
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from mirror.watch import Watchers
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.box import Running, away, bundle_of, published, running, shown
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
