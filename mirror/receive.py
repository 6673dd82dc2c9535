"""The ingest service: the gateway, and nobody else, brings files and asks to publish them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from embrasure import limits
from embrasure.errors import Refused
from embrasure.net.authorize import Table
from embrasure.net.server import Service
from embrasure.net.threads import entered, unbroken
from embrasure.trust import layout
from embrasure.trust.generation import newest_file
from embrasure.wire import mirror_pb2, mirror_pb2_grpc
from mirror.inbox import Inbox, Upload
from mirror.publish import Publisher

if TYPE_CHECKING:
    from embrasure.net.authorize import Context

INGEST_TABLE: Table = {
    "/embrasure.v1.MirrorIngest/Missing": frozenset({"gateway"}),
    "/embrasure.v1.MirrorIngest/Put": frozenset({"gateway"}),
    "/embrasure.v1.MirrorIngest/Publish": frozenset({"gateway"}),
    "/embrasure.v1.MirrorIngest/Shown": frozenset({"gateway"}),
}


class Ingest:
    """MirrorIngest (`proto/mirror.proto`). Errors travel typed (`embrasure.net.status`)."""

    def __init__(self, inbox: Inbox, publisher: Publisher) -> None:
        self._inbox = inbox
        self._publisher = publisher

    async def Missing(
        self, request: mirror_pb2.MissingRequest, context: Context
    ) -> mirror_pb2.MissingReply:
        """The paths that are not here whole, each with the offset to go on from."""

        def look() -> list[mirror_pb2.Lacking]:
            found = ((path, self._inbox.held(path)) for path in request.paths)
            return [mirror_pb2.Lacking(path=p, held=held) for p, held in found if held is not None]

        return mirror_pb2.MissingReply(lacking=await asyncio.to_thread(look))

    async def Put(
        self, request_iterator: AsyncIterator[mirror_pb2.Piece], context: Context
    ) -> mirror_pb2.PutReply:
        """One file is in the inbox, or as much of it as came."""
        first = await anext(aiter(request_iterator), None)
        if first is None:
            raise Refused("upload", expected="a first piece", got="none", reason="bad-schema")
        upload = self._inbox.upload(first.path, offset=first.offset)
        async with entered(upload) as opened:
            await unbroken(take, opened, first)
            while not opened.whole:
                piece = await anext(aiter(request_iterator), None)
                if piece is None:
                    break
                check_continues(opened, piece)
                await unbroken(take, opened, piece)
        return mirror_pb2.PutReply(held=opened.offset)

    async def Publish(
        self, request: mirror_pb2.PublishRequest, context: Context
    ) -> mirror_pb2.PublishReply:
        """The whole set that the timestamp names is verified and visible."""
        version = await asyncio.to_thread(self._publisher.publish, request.timestamp)
        return mirror_pb2.PublishReply(timestamp_version=version)

    async def Shown(
        self, request: mirror_pb2.ShownRequest, context: Context
    ) -> mirror_pb2.ShownReply:
        """What a restored or a new gateway needs to find its numbers."""
        folder = self._publisher.client.workflow.folder

        def look() -> mirror_pb2.ShownReply:
            role = request.approval
            known = layout.is_approval_role(role)
            return mirror_pb2.ShownReply(
                timestamp=newest_file(folder, layout.TIMESTAMP, limit=limits.TIMESTAMP_BYTES),
                snapshot=newest_file(folder, layout.SNAPSHOT, limit=limits.SNAPSHOT_BYTES),
                approval=newest_file(folder, role, limit=limits.DELEGATED_BYTES) if known else b"",
            )

        return await asyncio.to_thread(look)


def take(upload: Upload, piece: mirror_pb2.Piece) -> None:
    """`piece` is behind what was held, and the file is whole after its last one."""
    if len(piece.body) > limits.MESSAGE_BYTES:
        raise Refused("piece", expected=f"{limits.MESSAGE_BYTES} bytes", got="more", reason="limit")
    upload.append(piece.body)
    if piece.last:
        upload.finish()


def check_continues(upload: Upload, piece: mirror_pb2.Piece) -> None:
    """Return only when `piece` follows what came; raises Refused (`bad-offset`)."""
    if piece.offset != upload.offset or piece.path not in ("", upload.path):
        raise Refused(
            upload.path,
            expected=f"the piece at {upload.offset}",
            got=f"one at {piece.offset}",
            reason="bad-offset",
        )


def ingest_service(ingest: Ingest) -> Service:
    """Return the service for a listener."""
    descriptor = mirror_pb2.DESCRIPTOR.services_by_name["MirrorIngest"]
    add: Any = mirror_pb2_grpc.add_MirrorIngestServicer_to_server
    return Service(descriptor, add, ingest)
