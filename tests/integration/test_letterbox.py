"""A letterbox over real sockets: nodes put in, the gateway takes out, nobody else does anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest

from embrasure import limits
from embrasure.errors import Refused, Unavailable
from embrasure.net.identity import Identity
from embrasure.net.post import MAX_FRAME, frame_post, post_path, post_signer, seal_post
from embrasure.net.status import error_of
from embrasure.trust import layout
from embrasure.trust.receipt import key_id
from embrasure.wire import mirror_pb2
from mirror.inbox import accept_all
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.box import Running, away, bundle_of, running
from tests.simulate.nodes import SimNode
from tests.simulate.repository import SimRepository
from tests.simulate.uploader import TIMESTAMP, Uploader, make_service


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def repo(authority: Authority) -> SimRepository:
    found = SimRepository()
    found.add_node(mode="pull")
    found.add_app("shop")
    found.set_bundle(bundle_of(authority, found))
    found.add_release("shop", {"code/main": b"x"})
    found.publish()
    return found


def trust_files(repo: SimRepository) -> dict[str, bytes]:
    """Return what a gateway sends to a letterbox."""
    return {
        path: body
        for path, body in repo.files.items()
        if not path.startswith("blobs/") and "shop" not in path and "gates" not in path
    }


def path_of(node: SimNode, rseq: int) -> str:
    return post_path(key_id(node.receipt_public), rseq)


def frame_of(node: SimNode, rseq: int, body: bytes = b"sealed") -> bytes:
    header = seal_post(
        body, node=node.id, epoch=node.epoch, rseq=rseq, signer=post_signer(node.signing)
    )
    return frame_post(header, body)


async def collect(gateway: Uploader, limit: int = 0) -> list[mirror_pb2.Post]:
    call = gateway.box.Collect(mirror_pb2.CollectRequest(limit=limit))
    return [post async for post in call]


async def acknowledge(gateway: Uploader, posts: list[mirror_pb2.Post]) -> int:
    slots = [mirror_pb2.Slot(key=post.key, rseq=post.rseq) for post in posts]
    reply = await gateway.box.Acknowledge(mirror_pb2.AcknowledgeRequest(slots=slots))
    return int(reply.freed)


def test_a_post_reaches_the_gateway_and_leaves_when_it_is_acknowledged(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    (node,) = repo.nodes.values()

    async def work() -> None:
        async with (
            running(tmp_path / "l", authority, repo, kind="letterbox") as box,
            box.uploader() as gateway,
        ):
            await gateway.send_all(trust_files(repo))
            client = box.client()
            for rseq in (1, 2):
                await away(client.post, path_of(node, rseq), frame_of(node, rseq))
            await away(client.post, path_of(node, 2), frame_of(node, 2))
            client.close()
            posts = await collect(gateway)
            assert [post.rseq for post in posts] == [1, 2]
            assert {post.key for post in posts} == {key_id(node.receipt_public)}
            assert frame_post(posts[0].header, posts[0].body) == frame_of(node, 1)
            assert len(await collect(gateway, limit=1)) == 1
            assert await acknowledge(gateway, posts[:1]) == 1
            assert [post.rseq for post in await collect(gateway)] == [2]

    run(work())


def test_a_restart_keeps_posts_and_directory(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    (node,) = repo.nodes.values()

    async def work() -> None:
        async with (
            running(tmp_path / "l", authority, repo, kind="letterbox") as box,
            box.uploader() as gateway,
        ):
            await gateway.send_all(trust_files(repo))
            client = box.client()
            await away(client.post, path_of(node, 1), frame_of(node, 1))
            client.close()
        async with (
            running(tmp_path / "l", authority, repo, kind="letterbox") as box,
            box.uploader() as gateway,
        ):
            client = box.client()
            await away(client.post, path_of(node, 2), frame_of(node, 2))
            client.close()
            assert [post.rseq for post in await collect(gateway)] == [1, 2]

    run(work())


def test_a_full_or_filled_box_tells_the_node_what_to_do(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    (node,) = repo.nodes.values()
    stranger = SimNode(id=node.id, mode="pull")

    async def work() -> None:
        async with (
            running(tmp_path / "l", authority, repo, kind="letterbox") as box,
            box.uploader() as gateway,
        ):
            client = box.client()
            # Not in the directory yet: later it will be.
            with pytest.raises(Refused) as refused:
                await away(client.post, path_of(node, 1), frame_of(node, 1))
            assert refused.value.reason == "post"
            await gateway.send_all(trust_files(repo))
            await away(client.post, path_of(node, 1), frame_of(node, 1))
            with pytest.raises(Refused) as refused:
                await away(client.post, path_of(node, 1), frame_of(node, 1, b"other"))
            assert refused.value.reason == "filled"
            with pytest.raises(Refused) as refused:
                await away(client.post, path_of(node, 2), frame_of(stranger, 2))
            assert refused.value.reason == "post"
            with pytest.raises(Unavailable) as busy:
                for rseq in range(2, limits.LETTERBOX_BURST + 5):
                    await away(client.post, path_of(node, rseq), frame_of(node, rseq))
            assert busy.value.reason == "busy"
            client.close()

    run(work())


def test_nobody_reads_or_lists_anything_from_the_post_side(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    (node,) = repo.nodes.values()
    path = f"/{path_of(node, 1)}"

    async def work() -> None:
        async with (
            running(tmp_path / "l", authority, repo, kind="letterbox") as box,
            box.uploader() as gateway,
        ):
            await gateway.send_all(trust_files(repo))
            status, _, body = await away(lambda: box.ask("POST", path, body=frame_of(node, 1)))
            assert (status, body) == (201, b"")
            for method in ("GET", "HEAD", "DELETE", "PUT", "OPTIONS"):
                status, _, body = await away(box.ask, method, path)
                assert status in (404, 405), method
                assert b"sealed" not in body
            for odd in ("/", "/v1/post/", f"/v1/post/{'a' * 64}", f"/{TIMESTAMP}", "/tls.key"):
                assert (await away(box.ask, "GET", odd))[0] in (404, 405), odd
            for odd in (
                f"/v1/post/{'a' * 64}/0",
                f"/v1/post/{'A' * 64}/1",
                f"/v1/post/{'a' * 64}/-1",
                f"/v1/post/{'a' * 64}/99999999999999999",
                "/v1/post/..%2f..%2ftls/1",
            ):
                status, _, _ = await away(lambda odd=odd: box.ask("POST", odd, body=b"x"))
                assert status == 404, odd
            assert len(await collect(gateway)) == 1

    run(work())


@pytest.mark.misuse
def test_a_body_without_end_is_cut_off(
    tmp_path: Path, authority: Authority, repo: SimRepository, ablation: Ablation
) -> None:
    (node,) = repo.nodes.values()

    async def work() -> None:
        async with running(tmp_path / "l", authority, repo, kind="letterbox") as box:

            def flood() -> int:
                with box.connect() as sock:
                    head = f"POST /{path_of(node, 1)} HTTP/1.1\r\nHost: x\r\n"
                    sock.sendall(f"{head}Content-Length: 100000000\r\n\r\n".encode())
                    sent = 0
                    with contextlib.suppress(OSError, ssl.SSLError):
                        while sent < 100_000_000:
                            sock.sendall(bytes(65536))
                            sent += 65536
                    return sent

            assert await away(flood) < 50_000_000
            assert MAX_FRAME < 6000
            status, _, _ = await away(
                lambda: box.ask("POST", f"/{path_of(node, 1)}", body=bytes(MAX_FRAME + 1))
            )
            assert status == 413

            with ablation("the bound of a body, while it comes and when it is whole") as attack:
                attack.without("mirror.post.MAX_FRAME", 10**9)
                attack.succeeded(await away(flood) >= 100_000_000)

    run(work())


@pytest.mark.misuse
def test_only_a_gateway_collects_and_brings(
    tmp_path: Path, authority: Authority, repo: SimRepository, ablation: Ablation
) -> None:
    (node,) = repo.nodes.values()

    async def work() -> None:
        async with running(tmp_path / "l", authority, repo, kind="letterbox") as box:
            async with box.uploader() as gateway:
                await gateway.send_all(trust_files(repo))
                client = box.client()
                await away(client.post, path_of(node, 1), frame_of(node, 1))
                client.close()
            for leaf in (
                authority.leaf("letterbox", "l1"),
                authority.leaf("node", "n1"),
                authority.leaf("operator", "anna"),
                authority.leaf("gateway", "g2"),
                Authority().leaf("gateway", "g1"),
            ):
                async with box.uploader(leaf) as thief:
                    for call in (
                        collect(thief),
                        thief.box.Acknowledge(mirror_pb2.AcknowledgeRequest()),
                        thief.publish(repo.files[TIMESTAMP]),
                    ):
                        with pytest.raises(grpc.aio.AioRpcError):
                            await call
            async with box.uploader() as gateway:
                assert len(await collect(gateway)) == 1

            with ablation("the guard of the listener") as attack:
                attack.without(
                    "embrasure.net.authorize.Authorize.allowed",
                    lambda *_: Identity("gateway", "g1"),
                )
                async with box.uploader(authority.leaf("gateway", "g2")) as thief:
                    attack.succeeded(len(await collect(thief)) == 1)

    run(work())


@pytest.mark.misuse
def test_a_letterbox_takes_no_plan_gate_or_blob(
    tmp_path: Path, authority: Authority, repo: SimRepository, ablation: Ablation
) -> None:
    async def work() -> None:
        async with (
            running(tmp_path / "l", authority, repo, kind="letterbox") as box,
            box.uploader() as gateway,
        ):
            await gateway.send_all(trust_files(repo))
            for path in set(repo.files) - set(trust_files(repo)):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await gateway.put(path, repo.files[path])
                error = error_of(caught.value, thing=path)
                assert (type(error), error.reason) == (Refused, "bad-path")
            names = {path.name for path in box.public.rglob("*") if path.is_file()}
            assert not [name for name in names if "shop" in name or "plan" in name]

        with ablation("the list of what a letterbox takes") as attack:
            attack.without("mirror.letterbox.accept_trust", lambda _: accept_all)
            async with (
                running(tmp_path / "m", authority, repo, kind="letterbox") as box,
                box.uploader() as gateway,
            ):
                for path in set(repo.files) - set(trust_files(repo)):
                    await gateway.put(path, repo.files[path])
            names = {found.name for found in (tmp_path / "m").rglob("*") if found.is_file()}
            attack.succeeded([name for name in names if "shop" in name])

    run(work())


@pytest.mark.misuse
def test_a_retired_node_is_shut_out_when_the_directory_says_so(
    tmp_path: Path, authority: Authority, repo: SimRepository, ablation: Ablation
) -> None:
    (node,) = repo.nodes.values()

    async def work() -> None:
        async with (
            running(tmp_path / "l", authority, repo, kind="letterbox") as box,
            box.uploader() as gateway,
        ):
            await gateway.send_all(trust_files(repo))
            client = box.client()
            await away(client.post, path_of(node, 1), frame_of(node, 1))
            node.state = "retired"
            repo.refresh_directory()
            repo.publish()
            assert await gateway.send_all(trust_files(repo)) == repo.versions[layout.TIMESTAMP]
            with pytest.raises(Refused):
                await away(client.post, path_of(node, 2), frame_of(node, 2))
            client.close()

            with ablation("the look at the directory") as attack:
                attack.without(
                    "mirror.post.Box.take", lambda self, slot, frame: self._slots.put(slot, frame)
                )
                client = box.client()
                await away(client.post, path_of(node, 2), frame_of(node, 2))
                client.close()
                attack.succeeded(len(await collect(gateway)) == 2)

    run(work())


def test_the_commands_make_and_run_a_letterbox(
    tmp_path: Path, authority: Authority, repo: SimRepository
) -> None:
    folder = tmp_path / "l"
    config = make_service(folder, authority, repo.anchor, kind="letterbox", name="l1")
    program = [
        sys.executable,
        "-c",
        "import sys; from embrasure.cli import main; sys.exit(main())",
        *("letterbox", "run", str(folder)),
    ]
    with subprocess.Popen(program, stderr=subprocess.PIPE) as one:
        try:
            until = time.monotonic() + 30
            while not (folder / "ports.json").exists() and time.monotonic() < until:
                time.sleep(0.05)
            ports = json.loads((folder / "ports.json").read_bytes())

            async def send() -> None:
                async with Running(folder, config, authority, ports).uploader() as gateway:
                    await gateway.send_all(trust_files(repo))
                    assert await collect(gateway) == []

            asyncio.run(send())
        finally:
            one.send_signal(signal.SIGTERM)
        assert one.wait(20) == 0
