"""What operators bring: blobs, where a broken upload goes on at its byte, and trust files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from embrasure import limits
from embrasure.bundle.store import BlobStore
from embrasure.errors import Failed, Refused
from embrasure.fs import free
from embrasure.net.threads import entered, unbroken
from embrasure.trust import layout
from embrasure.wire import admin_pb2 as wire

KEPT_BYTES = 64 * limits.MIB  # of the disk, for journal, database and metadata
TRUST_FILES = 4_096  # of one submission: 256 shards, and every role of many environments


def missing(blobs: BlobStore, wanted: wire.BlobList) -> wire.BlobList:
    """Return the blobs of `wanted` that are not here whole, with the bytes of each that are."""
    lacking = []
    for blob in wanted.blobs:
        if not blobs.has(blob.sha256, length=blob.length):
            held = blobs.held_bytes(blob.sha256)
            lacking.append(wire.Blob(sha256=blob.sha256, length=blob.length, held=held))
    return wire.BlobList(blobs=lacking)


async def receive_trust(files: AsyncIterator[wire.TrustFile]) -> tuple[dict[str, bytes], bool]:
    """Return path -> bytes of trust files, and whether they are forced; raises Refused (`limit`).

    Each name is a repository path before it is kept anywhere, the journal included.
    """
    found: dict[str, bytes] = {}
    force, room = False, limits.TRUST_SUBMIT_BYTES
    async for file in files:
        layout.parse_file(file.path)
        room += len(found.get(file.path, b"")) - len(file.body)
        found[file.path] = file.body
        force = force or file.force
        if room < 0 or len(found) > TRUST_FILES:
            raise Refused(
                "trust files", expected=f"{TRUST_FILES} files of "
                f"{limits.TRUST_SUBMIT_BYTES} bytes", got="more", reason="limit",
            )  # fmt: skip
    return found, force


async def receive(blobs: BlobStore, pieces: AsyncIterator[wire.Upload]) -> int:
    """Return the length of the blob that `pieces` make, verified; raises Refused, Failed.

    A cut upload leaves what came; `missing` names where the next one continues.
    """
    first = await anext(pieces, None)
    if first is None:
        raise Refused("upload", expected="a first piece", got="nothing", reason="bad-schema")
    if first.length > limits.FILE_BYTES:
        raise Refused(
            "upload", expected=f"{limits.FILE_BYTES} bytes", got=first.length, reason="limit"
        )
    if await asyncio.to_thread(blobs.has, first.sha256, length=first.length):
        return first.length
    check_room(blobs, first)
    async with entered(blobs.writer(first.sha256, length=first.length)) as writer:
        if first.offset != writer.offset:
            raise Refused(
                f"upload {first.sha256[:16]}", expected=f"byte {writer.offset}",
                got=first.offset, reason="bad-offset",
            )  # fmt: skip
        await unbroken(writer.write, first.body)
        async for piece in pieces:
            await unbroken(writer.write, piece.body)
        await unbroken(writer.commit)
    return first.length


def check_room(blobs: BlobStore, first: wire.Upload) -> None:
    """Return only when the blob leaves room for journal and database; raises Failed.

    Its whole length is reserved at its first piece: one large number must not fill the disk.
    """
    left = free(blobs.folder).bytes - (first.length - blobs.held_bytes(first.sha256))
    if left < KEPT_BYTES:
        raise Failed(
            "upload", expected=f"{KEPT_BYTES} bytes of disk left after it", got=left,
            untouched="what came is kept", reason="no-space",
        )  # fmt: skip
