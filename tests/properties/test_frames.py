"""What is read by hand off the wire is what protobuf reads there, to the byte, or is left to it."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import example, given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.errors import Refused
from embrasure.wire import node_pb2 as wire
from node.frames import Data, parse, read_data

WANTS, OFFSETS = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
BODIES = st.one_of(st.binary(max_size=300), st.integers(0, 40_000).map(bytes))


def frame(want: int, offset: int, body: bytes) -> wire.FromGateway:
    return wire.FromGateway(data=wire.Data(want=want, offset=offset, body=body))


MESSAGES = st.one_of(
    st.builds(frame, WANTS, OFFSETS, BODIES),
    st.builds(lambda n: wire.FromGateway(end=wire.End(want=n, status="ok", length=n)), WANTS),
    st.builds(
        lambda b: wire.FromGateway(
            offer=wire.Offer(order=b, ahead=[wire.Ahead(path="x", body=b, absent=not b)])
        ),
        st.binary(max_size=40),
    ),
    st.just(wire.FromGateway(ping=wire.Ping())),
)


def by_protobuf(raw: bytes) -> tuple[int, int, bytes] | None:
    """What protobuf reads in `raw`: a frame of data and nothing else, or None."""
    try:
        found = wire.FromGateway.FromString(raw)
    except DecodeError:
        return None
    odd = len(UnknownFieldSet(found)) or len(UnknownFieldSet(found.data))
    if found.WhichOneof("kind") != "data" or odd:
        return None
    return found.data.want, found.data.offset, found.data.body


def by_hand(raw: bytes) -> tuple[int, int, bytes] | None:
    found = read_data(raw)
    return None if found is None else (found.want, found.offset, bytes(found.body))


@given(WANTS, OFFSETS, BODIES)
@example(1, 0, b"x")
@example(1, 0, bytes(limits.FRAME_BODY_BYTES))
@example(2**32 - 1, 2**64 - 1, bytes(limits.FRAME_BODY_BYTES))
def test_every_frame_that_protobuf_writes_is_read_by_hand(
    want: int, offset: int, body: bytes
) -> None:
    raw = frame(want, offset, body).SerializeToString()
    expected = (want, offset, body) if want and body else None
    assert by_hand(raw) == expected
    found = parse(raw)
    assert isinstance(found, Data)
    assert (found.want, found.offset, bytes(found.body)) == (want, offset, body)


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A message with some bytes changed, added or lost, or two of them in a row."""
    raw = bytearray(draw(MESSAGES).SerializeToString())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, min(len(raw), 40)))
        raw[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(raw) + (draw(MESSAGES).SerializeToString() if draw(st.booleans()) else b"")


@given(st.one_of(bent(), st.binary(max_size=64), st.binary(max_size=30).map(b"\x12".__add__)))
@example(b"\x12\x88\x00\x0d\x01\x00\x00\x00\x1a\x01x")  # a length spelled longer than it must be
@example(b"\x12\x08\x0d\x01\x00\x00\x00\x1a\x01x" * 2)
@example(b"\x12\x11\x0d\x01\x00\x00\x00\x11\x00\x00\x00\x00\x00\x00\x00\x00\x1a\x01x")
def test_whatever_is_read_by_hand_is_what_protobuf_reads(raw: bytes) -> None:
    found = by_hand(raw)
    if found is not None:
        assert found == by_protobuf(raw)
    try:
        read = parse(raw)
    except Refused:
        assert by_protobuf(raw) is None
    else:
        expected = by_protobuf(raw)
        if isinstance(read, Data):
            assert (read.want, read.offset, bytes(read.body)) == expected
        else:
            assert expected is None


def test_a_message_above_its_limit_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(Refused, match="1048576"):
        parse(b"\x12" + bytes(limits.MESSAGE_BYTES))
