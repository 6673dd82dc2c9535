"""Bring trust files to a metadata door: what is there, in as few calls as it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from embrasure import limits
from embrasure.errors import Unavailable
from embrasure.net.credentials import channel
from embrasure.net.door import Outcome
from embrasure.net.identity import Role
from embrasure.net.status import error_of
from embrasure.wire import door_pb2 as wire
from embrasure.wire import door_pb2_grpc


@dataclass(frozen=True, slots=True)
class Caller:
    """Who delivers: a client leaf with its issuer behind it, and the CA roots that he believes."""

    domain: str
    roots_pem: bytes
    key: bytes | ec.EllipticCurvePrivateKey
    chain_pem: bytes

    def __repr__(self) -> str:
        return f"Caller({self.domain})"


async def deliver(
    address: str, *, role: Role, name: str, caller: Caller, files: Mapping[str, bytes]
) -> Outcome:
    """Return what the door at `address` took of `files`; raises Refused, Unavailable.

    Documents that it lacks follow in further calls, as many as one delivery of all files needs.
    """
    where = f"door of {role}/{name} at {address}"
    open_channel = channel(
        address,
        role=role,
        name=name,
        domain=caller.domain,
        issuer_pems=caller.roots_pem,
        key=caller.key,
        chain_pem=caller.chain_pem,
    )
    taken: dict[str, int] = {}
    async with open_channel:
        stub: Any = door_pb2_grpc.DoorStub(open_channel)
        for batch in batches(files):
            reply = await _put(stub, batch, where)
            taken.update(reply.taken)
            if not reply.missing:
                break
    return Outcome(taken, tuple(reply.missing), dict(reply.refused))


async def _put(stub: Any, files: Mapping[str, bytes], where: str) -> wire.DoorReply:
    async def pieces() -> AsyncIterator[wire.DoorFile]:
        for path, raw in files.items():
            yield wire.DoorFile(path=path, body=raw)

    try:
        reply: wire.DoorReply = await stub.Put(pieces(), timeout=2 * limits.DOOR_SECONDS)
    except grpc.RpcError as problem:
        raise error_of(problem, thing=where) from None
    return reply


def batches(files: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    """Yield deliveries within `limits.DOOR_BYTES`: all metadata in each, documents in turn.

    Policies and bundles stand before the directory, of which a node needs one shard.
    """
    metadata = {path: raw for path, raw in files.items() if path.startswith("metadata/")}
    rest = sorted(files.keys() - metadata.keys(), key=lambda path: ("/dir/" in path, path))
    batch = dict(metadata)
    size = start = _size(metadata)
    if start > limits.DOOR_BYTES // 2:
        raise Unavailable("delivery", expected="less metadata", got=f"{start} bytes")
    for path in rest:
        more = len(path) + len(files[path])
        if size + more > limits.DOOR_BYTES or len(batch) >= limits.DOOR_FILES:
            yield batch
            batch, size = dict(metadata), start
        batch[path] = files[path]
        size += more
    yield batch


def _size(files: Mapping[str, bytes]) -> int:
    return sum(len(path) + len(raw) for path, raw in files.items())
