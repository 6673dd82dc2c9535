"""The gateway's side of a mirror or letterbox: a caller that sends whatever it is given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

from embrasure.net.credentials import channel
from embrasure.net.identity import Role
from embrasure.wire import mirror_pb2, mirror_pb2_grpc
from mirror.config import Config, create
from tests.simulate.authority import Authority, Leaf

TIMESTAMP = "metadata/timestamp.json"


class Uploader:
    """One identity that calls MirrorIngest and Letterbox of one listener."""

    def __init__(
        self,
        authority: Authority,
        port: int,
        *,
        leaf: Leaf | None = None,
        role: Role = "mirror",
        name: str = "m1",
    ) -> None:
        own = leaf or authority.leaf("gateway", "g1")
        self.channel = channel(
            f"127.0.0.1:{port}",
            role=role,
            name=name,
            domain=authority.domain,
            issuer_pems=authority.issuer_pem("mirror"),
            key=own.key_pem,
            chain_pem=own.chain_pem,
        )
        # The stubs' aio faces carry no types.
        self.ingest: Any = mirror_pb2_grpc.MirrorIngestStub(self.channel)
        self.box: Any = mirror_pb2_grpc.LetterboxStub(self.channel)

    async def __aenter__(self) -> Uploader:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.channel.close()

    async def missing(self, paths: Iterable[str]) -> dict[str, int]:
        """Return what the mirror lacks, with the bytes that it holds of each."""
        reply = await self.ingest.Missing(mirror_pb2.MissingRequest(paths=list(paths)))
        return {found.path: found.held for found in reply.lacking}

    async def put(
        self, path: str, body: bytes, *, offset: int = 0, piece: int = 1_000_000, last: bool = True
    ) -> int:
        """Return how many bytes the mirror holds after `body` was sent from `offset` on."""

        async def pieces() -> AsyncIterator[mirror_pb2.Piece]:
            end = max(len(body), offset + 1)
            for start in range(offset, end, piece):
                part = body[start : start + piece]
                whole = last and start + piece >= len(body)
                yield mirror_pb2.Piece(path=path, offset=start, body=part, last=whole)

        reply = await self.ingest.Put(pieces())
        return int(reply.held)

    async def publish(self, timestamp: bytes) -> int:
        """Return the timestamp version that the mirror shows after `timestamp` was published."""
        reply = await self.ingest.Publish(mirror_pb2.PublishRequest(timestamp=timestamp))
        return int(reply.timestamp_version)

    async def send_all(self, files: Mapping[str, bytes]) -> int:
        """Return the version shown after every lacking file of `files` was sent and published."""
        wanted = [path for path in files if path != TIMESTAMP]
        for path, held in (await self.missing(wanted)).items():
            await self.put(path, files[path], offset=held)
        return await self.publish(files[TIMESTAMP])


def make_service(
    folder: Path,
    authority: Authority,
    anchor: bytes,
    *,
    kind: str = "mirror",
    name: str = "m1",
    env: str = "dev",
) -> Config:
    """Return the configuration of a new mirror or letterbox in `folder`."""
    leaf = authority.leaf(kind, name)
    config = Config(
        kind="mirror" if kind == "mirror" else "letterbox",
        name=name,
        domain=authority.domain,
        env=env,
    )
    create(
        folder,
        config,
        anchor=anchor,
        key=leaf.key_pem,
        chain=leaf.chain_pem,
        issuer=authority.issuer_pem("gateway"),
    )
    return config
