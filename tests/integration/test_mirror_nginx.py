"""The folder is the interface: Debian's nginx serves `public`, and the same node code reads it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from embrasure.errors import NotFound
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.box import Running, running
from tests.simulate.repository import SimRepository
from tests.simulate.uploader import TIMESTAMP

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONF = Path(__file__).parents[2] / "deploy" / "nginx.conf"

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs the Debian package nginx-light")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def nginx(folder: Path, domain: str) -> Iterator[int]:
    """nginx with the shipped configuration, on a free port."""
    port = free_port()
    text = (
        CONF.read_text()
        .replace("FOLDER", str(folder))
        .replace("127.0.0.1:8443", f"127.0.0.1:{port}")
    )
    text = text.replace("NAME", "m1").replace("DOMAIN", domain)
    if os.geteuid() == 0:
        text = "user root;\n" + text  # the folder of this test is root's own
    conf = folder / "nginx.conf"
    conf.write_text(text)
    program = subprocess.Popen(
        [str(NGINX), "-c", str(conf), "-p", str(folder), "-g", "daemon off;"],
        stderr=subprocess.PIPE,
    )
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until and program.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.02)
        assert program.poll() is None, program.stderr and program.stderr.read().decode()
        yield port
    finally:
        program.terminate()
        program.wait(10)
        if program.stderr is not None:
            program.stderr.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, SimRepository]]:
    """A mirror that was published to and is stopped; nginx serves what it shows."""
    authority, repo = Authority(), SimRepository()
    node = repo.add_node(mode="pull")
    repo.add_app("shop")
    files = {"code/main": b"#!/bin/sh\n" * 100, "code/big": os.urandom(3_000_000)}
    repo.set_gate(repo.set_plan(repo.add_release("shop", files), canary=[node]), open_wave=0)
    repo.publish()
    folder = tmp_path_factory.mktemp("nginx") / "m"

    async def publish() -> Running:
        async with running(folder, authority, repo) as box, box.uploader() as gateway:
            await gateway.send_all(repo.files)
            return box

    box = asyncio.run(publish())
    with nginx(folder, authority.domain) as port:
        yield Running(folder, box.config, authority, {"read": port}), repo


def test_a_pull_node_verifies_and_fetches_from_nginx(
    served: tuple[Running, SimRepository], tmp_path: Path
) -> None:
    box, repo = served
    source = box.source()
    client = TrustClient(tmp_path, repo.anchor, clock=repo.clock)
    view = client.refresh(source, roles=None)
    assert view.roles[layout.TIMESTAMP].version == repo.versions[layout.TIMESTAMP]
    for role in view.roles.values():
        for path in role.targets:
            client.target(view, role.name, path, source, limit=10**7)
    for path, body in repo.files.items():
        if path.startswith("blobs/"):
            assert b"".join(source.fetch(path, offset=0, limit=10**7)) == body
            assert b"".join(source.fetch(path, offset=77, limit=10**7)) == body[77:]
    source.close()


def test_without_a_watch_the_node_is_told_to_poll(served: tuple[Running, SimRepository]) -> None:
    source = served[0].source()
    with pytest.raises(NotFound):
        source.watch(1)
    source.close()


KEYS = ["/../tls.key", "/metadata/..%2f..%2ftls.key", "/metadata/7.targets.json"]


@pytest.mark.misuse
@pytest.mark.parametrize("path", KEYS)
def test_strangers_find_no_key(
    served: tuple[Running, SimRepository], path: str, ablation: Ablation
) -> None:
    find_nothing(served, path)
    with ablation("the rules for paths and links") as attack:
        plain = served[0].public / unquote(path).removeprefix("/")
        attack.succeeded(b"PRIVATE" in plain.read_bytes())


@pytest.mark.parametrize("path", ["/", "/metadata/", "/tls.key", "/mirror.toml"])
def test_strangers_find_nothing_else(served: tuple[Running, SimRepository], path: str) -> None:
    find_nothing(served, path)


def find_nothing(served: tuple[Running, SimRepository], path: str) -> None:
    box, _ = served
    link = box.public / "metadata" / "7.targets.json"
    if not link.is_symlink():
        link.symlink_to(box.folder / "tls.key")
    status, _, body = box.ask("GET", path)
    assert status in (400, 403, 404)
    assert b"PRIVATE" not in body


def test_nothing_is_packed_and_only_hashed_names_are_immutable(
    served: tuple[Running, SimRepository],
) -> None:
    box, repo = served
    status, headers, body = box.ask("GET", f"/{TIMESTAMP}", Accept_Encoding="gzip")
    assert (status, body) == (200, repo.files[TIMESTAMP])
    assert "Content-Encoding" not in headers
    assert headers["Cache-Control"] == "no-cache"
    path = layout.metadata_file(layout.TARGETS, repo.versions[layout.TARGETS])
    assert "immutable" in box.ask("GET", f"/{path}")[1]["Cache-Control"]
    assert box.ask("POST", f"/{TIMESTAMP}", body=b"x")[0] in (403, 405)
