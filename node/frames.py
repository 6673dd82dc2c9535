"""The gateway's messages as they came off the wire, and the one of them that is large.

A frame of data is read by hand, in place: protobuf would copy its bytes twice more, and they are
nearly all that a node ever receives. Only the one form that protobuf itself writes is read so; any
other is protobuf's, and comes to the same.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Proto
from google.protobuf.unknown_fields import UnknownFieldSet

from embrasure import limits
from embrasure.errors import Refused
from embrasure.wire import node_pb2 as wire

_DATA, _WANT, _OFFSET, _BODY = 0x12, 0x0D, 0x11, 0x1A  # a field's number and kind, as one byte
_WANTED = struct.Struct("<BI")  # fixed32 behind its tag
_PLACED = struct.Struct("<BQ")  # fixed64 behind its tag
_HEAD_BYTES = 32  # of a frame before its body: two lengths, want, offset, and their tags are 23


class Data(NamedTuple):
    """A piece of the file of one want. body: good for as long as somebody holds it."""

    want: int
    offset: int
    body: memoryview


FromGateway: TypeAlias = Data | wire.FromGateway


def parse(raw: bytes) -> FromGateway:
    """Return the one message in `raw`; raises Refused (`bad-schema`, `limit`)."""
    if len(raw) > limits.MESSAGE_BYTES:
        raise Refused("stream", expected=f"{limits.MESSAGE_BYTES} bytes", got="more",
                      reason="limit")  # fmt: skip
    return read_data(raw) or _parsed(raw)


def read_data(raw: bytes) -> Data | None:
    """Return the frame of data in `raw`, None for whatever is not one as protobuf writes it."""
    head = raw[:_HEAD_BYTES]
    if not head or head[0] != _DATA:
        return None
    at, length = _length(head, 1)
    if at + length != len(raw) or len(head) < at + _WANTED.size + 2:
        return None
    tag, want = _WANTED.unpack_from(head, at)
    if tag != _WANT or not want:
        return None
    at, offset = at + _WANTED.size, 0
    if head[at] == _OFFSET and len(head) > at + _PLACED.size:
        _, offset = _PLACED.unpack_from(head, at)
        at += _PLACED.size
        if not offset:
            return None
    if head[at] != _BODY:
        return None
    at, length = _length(head, at + 1)
    if not length or at + length != len(raw):
        return None
    return Data(want, offset, memoryview(raw)[at:])


def _length(head: bytes, at: int) -> tuple[int, int]:
    """Return where the length at `at` ends, and it; (0, 0) for none, or one spelled longer."""
    value = 0
    for place, byte in enumerate(head[at : at + 4]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return (at + place + 1, value) if byte or not place else (0, 0)
    return 0, 0


def _parsed(raw: bytes) -> FromGateway:
    try:
        message = wire.FromGateway.FromString(raw)
    except DecodeError:
        raise Refused("stream", expected="a message", got="else", reason="bad-schema") from None
    check_known(message)
    if not message.HasField("data"):
        return message
    found = message.data
    return Data(found.want, found.offset, memoryview(found.body))


def check_known(message: wire.FromGateway) -> None:
    """Return only when `message` is of one kind and has no field that this node does not know."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise Refused("stream", expected="a known message", got="none", reason="bad-schema")
    parts: tuple[Proto, ...] = (message, getattr(message, kind))
    if any(len(UnknownFieldSet(part)) for part in parts):
        raise Refused("stream", expected="known fields", got="another", reason="bad-schema")
