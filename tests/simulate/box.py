"""A mirror or letterbox that runs in this process, over real sockets, with its whole authority."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from embrasure.net.https import LetterboxClient, MirrorSource
from embrasure.net.identity import dns_name
from embrasure.trust.directory import TlsBundle
from mirror.config import Config, Paths, load_config
from mirror.letterbox import letterbox
from mirror.run import mirror
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
