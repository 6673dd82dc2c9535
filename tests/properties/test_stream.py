"""Whatever a gateway says, a want yields bytes of its file in their place, or a typed error."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from embrasure.errors import EmbrasureError, Refused, Unavailable
from embrasure.trust.layout import blob_file
from embrasure.wire import node_pb2 as wire
from node.frames import FromGateway, parse
from node.stream import StreamSource

BLOB = blob_file("ab" * 32)
FILE = bytes(range(64))


class Script:
    """A line on which the gateway says `messages`, whatever was wanted."""

    def __init__(self, messages: Sequence[wire.FromGateway]) -> None:
        self.messages = list(messages)
        self.wants: list[wire.Want] = []

    def read(self, *, seconds: float) -> FromGateway:
        if not self.messages:
            raise Unavailable("gateway", expected="more", got="the end")
        return parse(self.messages.pop(0).SerializeToString())

    def write(self, message: wire.FromNode) -> None:
        self.wants.append(message.want)


def data(want: int, offset: int, body: bytes) -> wire.FromGateway:
    return wire.FromGateway(data=wire.Data(want=want, offset=offset, body=body))


def end(want: int, status: str, length: int) -> wire.FromGateway:
    return wire.FromGateway(end=wire.End(want=want, status=status, length=length))


SMALL = st.integers(0, 4)
MESSAGE = st.one_of(
    st.builds(data, SMALL, st.integers(0, 70), st.binary(max_size=20)),
    st.builds(end, SMALL, st.sampled_from(["ok", "not_found", "refused", "?"]), st.integers(0, 70)),
    st.just(wire.FromGateway(ping=wire.Ping())),
    st.just(wire.FromGateway(offer=wire.Offer(order=b"x"))),
    st.just(wire.FromGateway()),
)


def honest(want: int, offset: int, sizes: Sequence[int]) -> list[wire.FromGateway]:
    """What an honest gateway says to one want, in pieces of these sizes."""
    found, at = [], offset
    for size in sizes:
        body = FILE[at : at + size]
        if body:
            found.append(data(want, at, body))
        at += len(body)
    if at < len(FILE):
        found.append(data(want, at, FILE[at:]))
    return [*found, end(want, "ok", len(FILE) - offset)]


SIZES = st.lists(st.integers(1, 30), max_size=6)


@given(st.lists(MESSAGE, max_size=8), st.integers(0, 64), st.integers(0, 64))
def test_no_gateway_gives_more_than_was_wanted_or_raises_anything_else(
    messages: list[wire.FromGateway], offset: int, limit: int
) -> None:
    source, got = StreamSource(Script(messages)), b""
    try:
        for piece in source.fetch(BLOB, offset=offset, limit=limit):
            assert piece
            got += piece
    except EmbrasureError:
        pass
    assert len(got) <= limit


@given(SIZES, st.integers(0, 64))
def test_an_honest_file_arrives_from_any_offset_in_any_pieces(
    sizes: list[int], offset: int
) -> None:
    source = StreamSource(Script(honest(1, offset, sizes)))
    assert b"".join(source.fetch(BLOB, offset=offset, limit=64)) == FILE[offset:]


@given(SIZES, SIZES, st.integers(1, 5))
def test_a_want_given_up_early_does_not_leak_into_the_next_one(
    first: list[int], second: list[int], taken: int
) -> None:
    script = Script([*honest(1, 0, first), *honest(2, 0, second)])
    source = StreamSource(script)
    pieces = source.fetch(BLOB, offset=0, limit=64)
    for _ in range(taken):
        next(pieces, b"")
    pieces.close()  # type: ignore[attr-defined]  # a generator
    assert b"".join(source.fetch(BLOB, offset=0, limit=64)) == FILE
    assert [want.id for want in script.wants] == [1, 2]


@given(st.data(), SIZES)
def test_one_message_lost_repeated_or_swapped_is_never_taken_for_the_file(
    draw: st.DataObject, sizes: list[int]
) -> None:
    messages = honest(1, 0, [1, *sizes])
    at = draw.draw(st.integers(0, len(messages) - 1))
    match draw.draw(st.sampled_from(["lost", "repeated", "swapped"])):
        case "lost":
            changed = messages[:at] + messages[at + 1 :]
        case "repeated":
            changed = [*messages[: at + 1], *messages[at:]]
        case _:
            changed = [*messages[:at], *reversed(messages[at:])]
    got = b""
    try:
        for piece in StreamSource(Script(changed)).fetch(BLOB, offset=0, limit=64):
            got += piece
    except (Refused, Unavailable):
        assert FILE.startswith(got)
        return
    # A second end, or a swap of one message with itself, changes nothing.
    assert got == FILE
