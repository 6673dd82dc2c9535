"""A call as a thread uses it: few messages are held, however many come, and its end is an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from embrasure import limits
from embrasure.errors import Refused, Unavailable
from embrasure.trust.layout import blob_file
from embrasure.wire import node_pb2 as wire
from node.frames import Data
from node.stream import Stream, StreamSource
from tests.ablation import Ablation

BLOB = blob_file("ab" * 32)
MANY = 500


class Gateway:
    """The other side of a call that sends one byte a message; `taken`: messages that the node took,
    `said`: what it wrote.
    """

    def __init__(self, count: int = MANY) -> None:
        self._count = count
        self.taken = 0
        self.said: list[wire.FromNode] = []

    async def sends(self) -> AsyncIterator[bytes]:
        for at in range(self._count):
            self.taken += 1
            data = wire.Data(want=1, offset=at, body=b"x")
            yield wire.FromGateway(data=data).SerializeToString()

    async def write(self, message: wire.FromNode) -> None:
        self.said.append(message)

    def stream(self) -> Stream:
        return Stream(self.sends(), cast("Any", self))


async def taken_unread() -> int:
    """How many messages a node takes off the wire of which it reads none."""
    gateway = Gateway()
    stream = gateway.stream()
    for _ in range(2 * MANY):
        await asyncio.sleep(0)
    stream.end()
    return gateway.taken


@pytest.mark.misuse
def test_what_nobody_reads_yet_stays_with_the_gateway(ablation: Ablation) -> None:
    assert asyncio.run(taken_unread()) == limits.HELD_MESSAGES
    with ablation("the room for messages") as attack:
        attack.without("node.stream.Stream._has_no_room", lambda _: False)
        attack.succeeded(asyncio.run(taken_unread()) == MANY)


def test_a_thread_gets_all_that_comes_in_its_order_and_then_the_end() -> None:
    async def main() -> None:
        gateway = Gateway()
        stream = gateway.stream()

        def read() -> list[int]:
            found = []
            for _ in range(MANY):
                message = stream.read(seconds=5)
                assert isinstance(message, Data)
                found.append(message.offset)
            for _ in range(2):
                with pytest.raises(Unavailable, match="the end"):
                    stream.read(seconds=5)
            return found

        assert await asyncio.to_thread(read) == list(range(MANY))

    asyncio.run(main())


def test_a_want_is_written_and_its_bytes_come() -> None:
    async def main() -> None:
        gateway = Gateway()
        stream = gateway.stream()

        def fetch() -> bytes:
            got = b""
            with pytest.raises(Refused, match="expected 1-0 bytes"):
                for piece in StreamSource(stream).fetch(BLOB, offset=0, limit=7):
                    got += piece
            return got

        assert await asyncio.to_thread(fetch) == b"x" * 7
        assert [(said.want.path, said.want.limit) for said in gateway.said] == [(BLOB, 7)]

    asyncio.run(main())


def test_a_silent_gateway_is_slow_and_an_ended_call_is_closed() -> None:
    async def main() -> None:
        gateway = Gateway(count=0)
        never = asyncio.Event()

        async def waits() -> AsyncIterator[bytes]:
            await never.wait()
            yield b""

        stream = Stream(waits(), cast("Any", gateway))
        with pytest.raises(Unavailable, match="silence"):
            await asyncio.to_thread(stream.read, seconds=0.01)
        waiting = asyncio.ensure_future(asyncio.to_thread(stream.read, seconds=30))
        await asyncio.sleep(0.01)
        stream.end()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(waiting, 5)
        with pytest.raises(Unavailable, match="over"):
            await asyncio.to_thread(stream.write, wire.FromNode())

    asyncio.run(main())


def hint(state: str) -> wire.FromNode:
    return wire.FromNode(progress=wire.Progress(state=state))


def test_hints_and_wants_are_written_one_at_a_time() -> None:
    class Slow(Gateway):
        at_once = most = 0

        async def write(self, message: wire.FromNode) -> None:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            await asyncio.sleep(0.02)
            self.at_once -= 1
            await super().write(message)

    async def main() -> None:
        gateway = Slow(count=0)
        stream = gateway.stream()

        def tell() -> None:
            for number in range(20):
                stream.offer(hint(f"state{number}"))
                stream.write(wire.FromNode(want=wire.Want(id=number + 1)))
            stream.deliver(wire.FromNode())

        await asyncio.to_thread(tell)
        assert gateway.most == 1
        assert [m.want.id for m in gateway.said if m.HasField("want")] == list(range(1, 21))

    asyncio.run(main())
