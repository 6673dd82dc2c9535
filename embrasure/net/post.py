"""A letterbox post: u16 header length, header (signed by a receipt key), sealed body.

The box checks the header and reads nothing else; only the gateway opens the body.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust import dsse
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import Digest, Document, NodeId, Positive, read, write
from embrasure.trust.receipt import key_id

_LENGTH = struct.Struct(">H")
MAX_FRAME = _LENGTH.size + limits.POST_HEADER_BYTES + limits.POST_BYTES


class PostHeader(Document, frozen=True, kw_only=True):
    """What the box may know of a post: who, which number, and which bytes."""

    v: Literal[1]
    type: Literal["post"]
    node: NodeId
    epoch: Positive
    rseq: Positive
    length: Positive
    sha256: Digest


def post_path(key: str, rseq: int) -> str:
    """Return where a node posts: one slot of its own receipt key."""
    return f"v1/post/{key}/{rseq}"


def post_key(public: str) -> SSlibKey:
    """Return the receipt key `public` (64 hex digits) as envelopes name it: by its own id."""
    return SSlibKey(key_id(bytes.fromhex(public)), "ed25519", "ed25519", {"public": public})


def post_signer(key: SigningKey) -> Signer:
    """Return the signer of a node's headers: its receipt key."""
    private = Ed25519PrivateKey.from_private_bytes(bytes(key))
    return CryptoSigner(private, post_key(bytes(key.verify_key).hex()))


def seal_post(body: bytes, *, node: str, epoch: int, rseq: int, signer: Signer) -> bytes:
    """Return the signed header of the sealed `body`."""
    header = PostHeader(
        v=1,
        type="post",
        node=node,
        epoch=epoch,
        rseq=rseq,
        length=len(body),
        sha256=sha256_hex(body),
    )
    return dsse.seal("post", write(header), signer)


def frame_post(header: bytes, body: bytes) -> bytes:
    """Return header and body as they travel; raises Refused (`limit`)."""
    _check_lengths(len(header), len(body))
    return _LENGTH.pack(len(header)) + header + body


def split_post(frame: bytes) -> tuple[bytes, bytes]:
    """Return header and body of `frame`; raises Refused (`limit`, `bad-schema`)."""
    if len(frame) > MAX_FRAME:
        raise Refused("post", expected=f"at most {MAX_FRAME} bytes", got=len(frame), reason="limit")
    if len(frame) < _LENGTH.size:
        raise Refused("post", expected="a header length", got=len(frame), reason="bad-schema")
    (length,) = _LENGTH.unpack_from(frame)
    header, body = frame[_LENGTH.size :][:length], frame[_LENGTH.size + length :]
    _check_lengths(length, len(body))
    return header, body


def parse_post_header(raw: bytes, keys: Mapping[str, Key]) -> tuple[PostHeader, str]:
    """Return the header and the id of the key that signed it, which is one of `keys`.

    keys: receipt keys of the verified directory, by id. Raises Refused.
    """
    payload, key = dsse.unseal("post", raw, keys, limit=limits.POST_HEADER_BYTES)
    return read(payload, PostHeader, limit=limits.POST_HEADER_BYTES, document="post header"), key


def check_post_body(header: PostHeader, body: bytes) -> None:
    """Return only when `body` is the one that the header names; raises Refused (`bad-hash`)."""
    if len(body) != header.length or sha256_hex(body) != header.sha256:
        raise Refused(
            "post", expected="the body its header names", got="another", reason="bad-hash"
        )


def _check_lengths(header: int, body: int) -> None:
    if not 0 < header <= limits.POST_HEADER_BYTES or not 0 < body <= limits.POST_BYTES:
        raise Refused(
            "post",
            expected=f"1-{limits.POST_HEADER_BYTES} + 1-{limits.POST_BYTES} bytes",
            got=f"{header} + {body}",
            reason="limit",
        )
