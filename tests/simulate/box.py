"""A mirror or letterbox that runs in this process, over real sockets, with its whole authority."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from embrasure.net.https import LetterboxClient, MirrorSource
from embrasure.net.identity import dns_name
from embrasure.trust import layout
from embrasure.trust.directory import TlsBundle
from mirror.config import Config, Paths, load_config
from mirror.letterbox import letterbox
from mirror.listener import HttpsListener, tls_context
from mirror.run import mirror
from mirror.serve import read_app
from mirror.watch import Watchers
from tests.simulate.authority import Authority, Leaf, der_text
from tests.simulate.listener import trust_from
from tests.simulate.repository import SimRepository
from tests.simulate.uploader import Uploader, make_service

T = TypeVar("T")


def bundle_of(
    authority: Authority, repo: SimRepository, *, gateways: tuple[str, ...] = ("g1",)
) -> TlsBundle:
    """Return a `tls.json` with the issuers of `authority`."""
    members = authority.tls_members()
    return TlsBundle(
        v=1,
        type="tls",
        root=repo.root_id,
        env=repo.env,
        domain=authority.domain,
        ca_root=(der_text(authority.root.certificate),),
        issuers=members["issuers"],  # type: ignore[arg-type]  # names are ISSUERS
        gateways=gateways,
    )


@dataclass(frozen=True, slots=True)
class Running:
    """A service that runs: how to reach it from every side."""

    folder: Path
    config: Config
    authority: Authority
    ports: Mapping[str, int]

    @property
    def public(self) -> Path:
        """What it shows."""
        return Paths(self.folder).public

    def uploader(self, leaf: Leaf | None = None) -> Uploader:
        """Return a caller of its gRPC port: gateway g1, or whoever `leaf` is."""
        return Uploader(
            self.authority,
            self.ports["ingest"],
            leaf=leaf,
            role=self.config.kind,
            name=self.config.name,
        )

    def source(self) -> MirrorSource:
        """Return a pull node's view of this mirror."""
        trust = trust_from(self.authority)
        return MirrorSource(f"127.0.0.1:{self.ports['read']}", name=self.config.name, trust=trust)

    def client(self) -> LetterboxClient:
        """Return a pull node's view of this letterbox."""
        trust = trust_from(self.authority)
        address = f"127.0.0.1:{self.ports['post']}"
        return LetterboxClient(address, name=self.config.name, trust=trust)

    def connect(self) -> ssl.SSLSocket:
        """Return a bare TLS connection to the HTTPS port, as any stranger can make one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=self.authority.issuer_pem("mirror").decode("ascii"))
        port = self.ports.get("read") or self.ports["post"]
        plain = socket.create_connection(("127.0.0.1", port), timeout=5)
        host = dns_name(self.config.kind, self.config.name, self.config.domain)
        return context.wrap_socket(plain, server_hostname=host)

    def ask(
        self, method: str, path: str, *, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of one request, its path sent exactly as given."""
        connection = http.client.HTTPSConnection("127.0.0.1")
        connection.sock = self.connect()
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


@asynccontextmanager
async def running(
    folder: Path, authority: Authority, repo: SimRepository, *, kind: str = "mirror", name: str = ""
) -> AsyncIterator[Running]:
    """A mirror or letterbox in `folder`, made there if it is new."""
    if not folder.exists():
        make_service(
            folder,
            authority,
            repo.anchor,
            kind=kind,
            name=name or ("m1" if kind == "mirror" else "l1"),
            env=repo.env,
        )
    config = load_config(folder, "mirror" if kind == "mirror" else "letterbox")
    serve = mirror if kind == "mirror" else letterbox
    async with serve(folder, config, clock=repo.clock) as ports:
        yield Running(folder, config, authority, ports)


async def away(function: Callable[..., T], *arguments: object) -> T:
    """Return what `function` returns in a thread: what a node does must not block the service."""
    return await asyncio.to_thread(function, *arguments)


def published(authority: Authority) -> SimRepository:
    """Return a repository of one pull node and one app, with all that a mirror shows."""
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


@asynccontextmanager
async def bare(
    tmp_path: Path,
    authority: Authority,
    watchers: Watchers,
    *,
    oldest: ssl.TLSVersion | None = None,
    **limits: Any,
) -> AsyncIterator[Running]:
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
