"""The letterbox's other side: the gateway, and nobody else, takes posts out and frees slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from embrasure import limits
from embrasure.net.authorize import Table
from embrasure.net.post import split_post
from embrasure.net.server import Service
from embrasure.wire import mirror_pb2, mirror_pb2_grpc
from mirror.slots import Slot, Slots

if TYPE_CHECKING:
    from embrasure.net.authorize import Context

COLLECT_TABLE: Table = {
    "/embrasure.v1.Letterbox/Collect": frozenset({"gateway"}),
    "/embrasure.v1.Letterbox/Acknowledge": frozenset({"gateway"}),
}


class Collect:
    """Letterbox (`proto/mirror.proto`)."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    async def Collect(
        self, request: mirror_pb2.CollectRequest, context: Context
    ) -> AsyncIterator[mirror_pb2.Post]:
        """Posts, oldest first; they stay until they are acknowledged."""
        count = min(request.limit or limits.COLLECT_POSTS, limits.COLLECT_POSTS)
        for slot, frame in await asyncio.to_thread(self._slots.oldest, count):
            header, body = split_post(frame)
            yield mirror_pb2.Post(key=slot.key, rseq=slot.rseq, header=header, body=body)

    async def Acknowledge(
        self, request: mirror_pb2.AcknowledgeRequest, context: Context
    ) -> mirror_pb2.AcknowledgeReply:
        """The slots that the gateway has committed are free."""
        slots = [Slot(slot.key, slot.rseq) for slot in request.slots]
        return mirror_pb2.AcknowledgeReply(freed=await asyncio.to_thread(self._slots.free, slots))


def collect_service(collect: Collect) -> Service:
    """Return the service for a listener."""
    descriptor = mirror_pb2.DESCRIPTOR.services_by_name["Letterbox"]
    add: Any = mirror_pb2_grpc.add_LetterboxServicer_to_server
    return Service(descriptor, add, collect)
