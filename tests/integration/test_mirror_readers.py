"""A mirror's readers: anybody, for what is shown and nothing else, and none takes all of it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from embrasure.trust import layout
from mirror.listener import Crowd
from mirror.watch import Watchers
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.box import Running, away, bare, published, running
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
