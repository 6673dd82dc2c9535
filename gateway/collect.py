"""The letterbox's posts: collected, verified before they are parsed, kept, then acknowledged.

The gateway dials; nothing ever comes back over this way. Silence here opens no wave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc
from nacl.public import PrivateKey
from securesystemslib.signer import Key

from embrasure import limits
from embrasure.errors import Refused
from embrasure.net.post import check_post_body, parse_post_header, post_key
from embrasure.net.status import error_of
from embrasure.trust.directory import Entry
from embrasure.wire import mirror_pb2, mirror_pb2_grpc
from gateway.receipts import Told, check_receipt, unseal

CALL_SECONDS = 60


def open_post(post: mirror_pb2.Post, entries: Mapping[str, Entry], collect: PrivateKey) -> Told:
    """Return the receipt in `post`.

    entries: the verified directory by receipt key id. Raises Refused.
    Steps: 1 a known key, 2 its signature over the header, 3 the header is about this slot and this
    body, 4 the seal, 5 the receipt by the same key.
    """
    # 1. The slot's name is the letterbox's word; the key that signs is the directory's.
    entry = entries.get(post.key)
    if entry is None or entry.state != "active":
        raise Refused("post", expected="a node of the directory", got=post.key, reason="not-mine")
    # 2.
    keys: Mapping[str, Key] = {post.key: post_key(entry.receipt.key)}
    header, _ = parse_post_header(post.header, keys)
    # 3.
    if (header.node, header.epoch, header.rseq) != (entry.id, entry.epoch, post.rseq):
        raise Refused(
            "post", expected=f"{entry.id} number {post.rseq}",
            got=f"{header.node} number {header.rseq}", reason="not-mine",
        )  # fmt: skip
    check_post_body(header, post.body)
    # 4. Its first 320 bytes are the receipt, the rest is what a push stream carries as its body.
    plain = unseal(post.body, collect)
    signed, body = plain[: limits.RECEIPT_BYTES], plain[limits.RECEIPT_BYTES :]
    # 5.
    told = check_receipt(signed, body, entry)
    if told.receipt.rseq != header.rseq:
        raise Refused("post", expected=f"receipt {header.rseq}", got=told.receipt.rseq,
                      reason="not-mine")  # fmt: skip
    return told


async def collect(channel: grpc.aio.Channel) -> list[mirror_pb2.Post]:
    """Return the oldest posts, at most `limits.COLLECT_POSTS`; raises Unavailable, Refused."""
    stub = mirror_pb2_grpc.LetterboxStub(channel)
    request = mirror_pb2.CollectRequest(limit=limits.COLLECT_POSTS)
    found: list[mirror_pb2.Post] = []
    try:
        async for post in stub.Collect(request, timeout=CALL_SECONDS):
            if len(post.header) > limits.POST_HEADER_BYTES or len(post.body) > limits.POST_BYTES:
                raise Refused("post", expected="a post of 4 KiB", got="more", reason="limit")
            found.append(post)
            if len(found) >= limits.COLLECT_POSTS:
                break
    except grpc.aio.AioRpcError as problem:
        raise error_of(problem, thing="letterbox") from None
    return found


async def acknowledge(channel: grpc.aio.Channel, posts: Sequence[mirror_pb2.Post]) -> None:
    """The slots of `posts` are free again. Called after our own commit, never before."""
    stub = mirror_pb2_grpc.LetterboxStub(channel)
    slots = [mirror_pb2.Slot(key=post.key, rseq=post.rseq) for post in posts]
    try:
        await stub.Acknowledge(mirror_pb2.AcknowledgeRequest(slots=slots), timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as problem:
        raise error_of(problem, thing="letterbox") from None
