"""Publication to one mirror or letterbox: what it lacks, piece by piece, then the timestamp.

One-way: the gateway dials. The mirror verifies everything itself before it shows a byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

import grpc

from embrasure import limits
from embrasure.errors import EmbrasureError
from embrasure.net.status import error_of
from embrasure.trust import layout
from embrasure.trust.source import Source
from embrasure.wire import mirror_pb2, mirror_pb2_grpc
from gateway.feed import framed
from gateway.published import TIMESTAMP_FILE, Contents

ASK_PATHS = 2_000  # paths in one question: about 300 KiB
CALL_SECONDS = 60
PUBLISH_SECONDS = 600  # the mirror hashes every new blob
PUTS_AT_ONCE = 4


async def publish(
    channel: grpc.aio.Channel,
    source: Source,
    contents: Contents,
    *,
    letterbox_of: str | None = None,
) -> int:
    """Return the timestamp version that the other side shows once it has and verified everything.

    letterbox_of: the environment of a letterbox, which verifies who may post and holds nothing
        else; None: it is a mirror, which shows everything
    Raises the error that the other side said, or Unavailable.
    """
    stub = mirror_pb2_grpc.MirrorIngestStub(channel)
    shown = contents.paths if letterbox_of is None else contents.trust_of(letterbox_of)
    wanted = sorted(shown - {TIMESTAMP_FILE})
    timestamp = b"".join(source.fetch(TIMESTAMP_FILE, offset=0, limit=limits.TIMESTAMP_BYTES))
    try:
        lacking = await _lacking(stub, wanted)
        news = [item for item in lacking if _is_top(item.path)]
        if news:
            # By new keys the other side may lack more than it thinks: what it shows under our
            # names may be signed by keys that count no more.
            await _put_all(stub, source, news)
            lacking = await _lacking(stub, wanted)
        await _put_all(stub, source, lacking)
        reply = await stub.Publish(
            mirror_pb2.PublishRequest(timestamp=timestamp), timeout=PUBLISH_SECONDS
        )
    except grpc.aio.AioRpcError as problem:
        raise error_of(problem, thing="mirror") from None
    return int(reply.timestamp_version)


async def seen_by(channel: grpc.aio.Channel) -> tuple[bytes, bytes]:
    """Return the timestamp and snapshot that are verified there; raises what the call raised."""
    found = await _shown(channel, "")
    return found.timestamp, found.snapshot


async def approval_by(channel: grpc.aio.Channel, role: str) -> bytes:
    """Return the file of an approval role that was verified there, empty for none."""
    return bytes((await _shown(channel, role)).approval)


async def _shown(channel: grpc.aio.Channel, role: str) -> mirror_pb2.ShownReply:
    stub = mirror_pb2_grpc.MirrorIngestStub(channel)
    request = mirror_pb2.ShownRequest(approval=role)
    try:
        found: mirror_pb2.ShownReply = await stub.Shown(request, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as problem:
        raise error_of(problem, thing="mirror") from None
    return found


async def _lacking(
    stub: mirror_pb2_grpc.MirrorIngestStub, paths: Sequence[str]
) -> list[mirror_pb2.Lacking]:
    found: list[mirror_pb2.Lacking] = []
    asked = set(paths)
    for part in _parts(paths, ASK_PATHS):
        reply = await stub.Missing(mirror_pb2.MissingRequest(paths=part), timeout=CALL_SECONDS)
        # It may only ask for what it was asked about: the answer names no file of ours.
        found += [item for item in reply.lacking if item.path in asked]
    return found


def _is_top(path: str) -> bool:
    role = path.removesuffix(".json").partition(".")[2]
    return path.startswith("metadata/") and role in (layout.ROOT, layout.TARGETS)


async def _put_all(
    stub: mirror_pb2_grpc.MirrorIngestStub,
    source: Source,
    lacking: Iterable[mirror_pb2.Lacking],
) -> None:
    limit = asyncio.Semaphore(PUTS_AT_ONCE)

    async def one(item: mirror_pb2.Lacking) -> None:
        async with limit:
            await stub.Put(_pieces(source, item.path, item.held))

    tasks = [asyncio.ensure_future(one(item)) for item in lacking]
    try:
        for task in tasks:
            await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pieces(source: Source, path: str, held: int) -> AsyncIterator[mirror_pb2.Piece]:
    """Yield the file from the byte on that the other side lacks."""
    frames = framed(source.fetch(path, offset=held, limit=limits.FILE_BYTES))
    offset = held
    while body := await asyncio.to_thread(next, frames, b""):
        yield mirror_pb2.Piece(path=path, offset=offset, body=body)
        offset += len(body)
    yield mirror_pb2.Piece(path=path, offset=offset, last=True)


def _parts(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def is_refusal(problem: EmbrasureError) -> bool:
    """Return whether asking again without a change is of no use: a person must look."""
    return problem.exit_code not in (1, 5)
