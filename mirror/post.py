"""What nodes may do with a letterbox: post into a slot of their own key; there is nothing else."""

from __future__ import annotations

import asyncio
import re
import threading

from securesystemslib.signer import Key
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from embrasure import limits
from embrasure.errors import EmbrasureError, Refused
from embrasure.net.post import (
    MAX_FRAME,
    check_post_body,
    parse_post_header,
    post_key,
    split_post,
)
from embrasure.trust.denied import DeniedSets
from embrasure.trust.directory import Entry, parse_shard
from embrasure.trust.layout import DIGEST
from mirror.slots import Slot, Slots

_RSEQ = re.compile(r"[1-9][0-9]{0,15}")
_SHARD = re.compile(r"fleet/[a-z0-9]+/dir/[0-9a-f]{2}\.json")
_STATUS = {"limit": 413, "bad-schema": 400, "bad-hash": 400, "filled": 409, "busy": 429}


class Directory:
    """The nodes that may post: active, undenied entries of the verified directory, by receipt key
    id.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._keys: dict[str, Key] = {}
        self._denied = DeniedSets(*[frozenset[str]()] * 4)

    def deny(self, denied: DeniedSets) -> None:
        """Nodes and receipt keys in `denied` post no more, from now on."""
        with self._mutex:
            self._denied = denied

    def take(self, documents: dict[str, bytes]) -> None:
        """The directory is what the shards in the verified `documents` say; raises Refused."""
        shards = [parse_shard(raw) for path, raw in documents.items() if _SHARD.fullmatch(path)]
        active = [e for shard in shards for e in shard.entries if e.state == "active"]
        with self._mutex:
            self._entries = {entry.receipt_id: entry for entry in active}
            self._keys = {entry.receipt_id: post_key(entry.receipt.key) for entry in active}

    def lookup(self, key: str) -> tuple[Entry, dict[str, Key]]:
        """Return the entry of `key` and its one key; raises Refused (`unknown-key`)."""
        with self._mutex:
            entry = self._entries.get(key)
            stopped = key in self._denied.keys or (entry and entry.id in self._denied.nodes)
            if entry is None or stopped:
                raise Refused(
                    "post", expected="a key of the directory", got=key, reason="unknown-key"
                )
            return entry, {key: self._keys[key]}


class Box:
    """Takes a post after everything that can be known of it was checked."""

    def __init__(self, directory: Directory, slots: Slots) -> None:
        self._directory = directory
        self._slots = slots

    def take(self, slot: Slot, frame: bytes) -> bool:
        """Return whether the post is new; raises Refused, Unavailable.

        Steps: 1 bounds, 2 a key of the directory, 3 its signature over the header, 4 that the
        header is for this node, epoch and slot, 5 the body it names, 6 quota and slot.
        """
        # 1.
        raw, body = split_post(frame)
        # 2.
        entry, keys = self._directory.lookup(slot.key)
        # 3.
        header, _ = parse_post_header(raw, keys)
        # 4.
        if (header.node, header.epoch, header.rseq) != (entry.id, entry.epoch, slot.rseq):
            raise Refused(
                "post header",
                expected=f"{entry.id}, epoch {entry.epoch}, number {slot.rseq}",
                got=f"{header.node}, epoch {header.epoch}, number {header.rseq}",
                reason="bad-signature",
            )
        # 5.
        check_post_body(header, body)
        # 6.
        return self._slots.put(slot, frame)


def post_app(box: Box, *, seconds: float = limits.HTTP_HEAD_SECONDS) -> Starlette:
    """Return the application that takes posts; it reads, lists and shows nothing."""

    async def post(request: Request) -> Response:
        key, rseq = str(request.path_params["key"]), str(request.path_params["rseq"])
        if not DIGEST.fullmatch(key) or not _RSEQ.fullmatch(rseq):
            return Response(status_code=404)
        try:
            async with asyncio.timeout(seconds):
                frame = await read_body(request)
            new = await asyncio.to_thread(box.take, Slot(key, int(rseq)), frame)
        except (TimeoutError, ClientDisconnect):
            return Response("slow", status_code=408)
        except EmbrasureError as problem:
            # The word alone: a stranger learns nothing of who may post.
            status = _STATUS.get(problem.reason, 403 if isinstance(problem, Refused) else 503)
            word = problem.reason if status != 403 else "post"
            return Response(word, status_code=status)
        return Response(status_code=201 if new else 200)

    return Starlette(routes=[Route("/v1/post/{key}/{rseq}", post, methods=["POST"])])


async def read_body(request: Request) -> bytes:
    """Return the body of `request`; raises Refused (`limit`) before more than a post is held."""
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > MAX_FRAME:
            raise Refused("post", expected=f"{MAX_FRAME} bytes", got="more", reason="limit")
    return bytes(found)
