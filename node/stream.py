"""The gateway's stream as a Source: wants go out, data comes back in order, one want at a time.

Few messages are held at a time: the pipe to apply, and so its disk, sets the gateway's pace. They
come in by themselves, so that a thread that takes one seldom has to wake the event loop for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

from embrasure import limits
from embrasure.errors import NotFound, Refused, Unavailable
from embrasure.trust.layout import parse_wanted
from embrasure.wire import node_pb2 as wire
from node.frames import Data, FromGateway, parse

if TYPE_CHECKING:
    from embrasure.net.authorize import Context

SILENCE_SECONDS = limits.BLOB_GRACE_SECONDS + limits.BLOB_WINDOW_SECONDS


class Stream:
    """One call, as a thread outside of the event loop may use it. Made in that loop."""

    def __init__(self, requests: AsyncIterator[bytes], context: Context) -> None:
        self._loop = asyncio.get_running_loop()
        self._requests, self._context = requests, context
        self._inbox: SimpleQueue[bytes | None] = SimpleQueue()  # None: the end
        self._end = "the end"
        self._came = self._taken = 0  # messages
        self._is_full, self._room = False, asyncio.Event()
        self._last: Future[None] | None = None  # what was written last, until gRPC has taken it
        self._is_over = False
        self._reading = asyncio.ensure_future(self._take_in())
        self._writing: asyncio.Task[None] | None = None  # held: else nobody does

    def end(self) -> None:
        """The call is over: nothing is read or written any more. In the event loop."""
        self._is_over = True
        self._reading.cancel()
        self._inbox.put(None)

    def read(self, *, seconds: float) -> FromGateway:
        """Return the next message of the gateway; raises Unavailable, Refused."""
        try:
            raw = self._inbox.get(timeout=seconds)
        except Empty:
            raise silent() from None
        if raw is None or self._is_over:
            self._inbox.put(None)  # for whoever reads again
            raise closed(self._end)
        self._taken += 1
        # Once for all that there is room for: each time wakes the event loop.
        if self._is_full and self._came == self._taken:
            self._is_full = False
            with suppress(RuntimeError):  # the whole process ends
                self._loop.call_soon_threadsafe(self._room.set)
        return parse(raw)

    async def _take_in(self) -> None:
        """Messages come in, while there is room for them; the last one is the end."""
        try:
            async for raw in self._requests:
                self._came += 1
                self._inbox.put(raw)
                if self._has_no_room():
                    # Said before the second look: who takes the last one in between sees it.
                    self._is_full = True
                    while self._came > self._taken:
                        await self._room.wait()
                        self._room.clear()
                    self._is_full = False
        except Exception as problem:  # whatever gRPC says when a call is gone
            self._end = type(problem).__name__
        finally:
            self._inbox.put(None)

    def _has_no_room(self) -> bool:
        return self._came - self._taken >= limits.HELD_MESSAGES

    def write(self, message: wire.FromNode) -> None:
        """The gateway will get `message`, or no answer to it; raises Unavailable.

        gRPC takes one message at a time: so the one before is taken by now.
        """
        self._settle()
        self._last = self._start(message)

    def deliver(self, message: wire.FromNode) -> None:
        """The gateway will get `message`: gRPC has taken it. Raises Unavailable."""
        self.write(message)
        self._settle()

    def offer(self, message: wire.FromNode) -> None:
        """The gateway may get `message`: a hint, dropped while it has not taken the last one.

        A gateway that is writing may not be reading; who waits for it then waits for ever.
        """
        if self._last is None or self._last.done():
            self._last = self._start(message)

    def _start(self, message: wire.FromNode) -> Future[None]:
        if self._is_over:
            raise closed("a call that is over")
        taken: Future[None] = Future()
        try:
            self._loop.call_soon_threadsafe(self._begin, message, taken)
        except RuntimeError:  # the whole process ends
            raise closed("the end of this process") from None
        return taken

    def _begin(self, message: wire.FromNode, taken: Future[None]) -> None:
        self._writing = self._loop.create_task(self._put(message, taken))

    async def _put(self, message: wire.FromNode, taken: Future[None]) -> None:
        try:
            await self._context.write(message)
        except BaseException as problem:
            taken.set_exception(closed(type(problem).__name__))
            if not isinstance(problem, Exception):  # cancelled
                raise
        else:
            taken.set_result(None)

    def _settle(self) -> None:
        if self._last is None:
            return
        try:
            self._last.result(SILENCE_SECONDS)
        except TimeoutError:
            raise silent() from None


def closed(got: str) -> Unavailable:
    """Return the error for a call that is gone."""
    return Unavailable("gateway", expected="an open stream", got=got, reason="stream-closed")


def silent() -> Unavailable:
    """Return the error for a gateway that says nothing for too long."""
    return Unavailable("gateway", expected="an answer", got="silence", reason="slow")


class Line(Protocol):
    """Where wants go and data comes from: one call of a gateway."""

    def read(self, *, seconds: float) -> FromGateway:
        """Return the gateway's next message."""
        ...

    def write(self, message: wire.FromNode) -> None:
        """The gateway will get `message`, or no answer to it."""
        ...


class StreamSource:
    """A gateway's published files, wanted over its own stream; untrusted, as every source."""

    def __init__(self, stream: Line) -> None:
        self._stream = stream
        self._id = 0
        self._rest = 0  # bytes that the want of that id may still bring
        self._is_open = False

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[memoryview]:
        """Yield the bytes of `path` from `offset` on.

        Raises NotFound, Unavailable; Refused for data that was not wanted, or not in this place.
        """
        parse_wanted(path)
        self._drain()
        self._id, self._rest, self._is_open = self._id + 1, limit, True
        want = wire.Want(id=self._id, path=path, offset=offset, limit=limit)
        self._stream.write(wire.FromNode(want=want))
        count = 0
        for body in self._bodies(offset):
            count += len(body)
            yield body
        self._check_end(path, count)

    def _drain(self) -> None:
        # A want that apply gave up: what was on its way is bounded by the want, and thrown away.
        if self._is_open:
            for _ in self._bodies(None):
                pass

    def _bodies(self, offset: int | None) -> Iterator[memoryview]:
        """Yield the data of the open want up to its end. offset: None to take any."""
        until = time.monotonic() + SILENCE_SECONDS
        while True:
            message = self._stream.read(seconds=max(0.0, until - time.monotonic()))
            if isinstance(message, Data):
                body = message.body
                self._check_data(message, offset)
                offset = None if offset is None else offset + len(body)
                del message
                yield body
                del body  # not held while the next one comes
                until = time.monotonic() + SILENCE_SECONDS
                continue
            match message.WhichOneof("kind"):
                case "ping":
                    continue  # does not move `until`: pings are no data
                case "end" if message.end.want == self._id:
                    self._is_open, self._end = False, message.end
                    return
                case kind:
                    raise Refused("stream", expected="data", got=kind, reason="bad-schema")

    def _check_data(self, data: Data, offset: int | None) -> None:
        """Return only when `data` continues the open want and is not more than was wanted."""
        count = len(data.body)
        if data.want != self._id:
            raise Refused("stream", expected=f"want {self._id}", got=data.want, reason="bad-want")
        if offset is not None and data.offset != offset:
            raise Refused("stream", expected=f"{offset}", got=data.offset, reason="bad-offset")
        # An empty one could come for ever.
        if not 0 < count <= self._rest:
            raise Refused("stream", expected=f"1-{self._rest} bytes", got=count, reason="limit")
        self._rest -= count

    def _check_end(self, path: str, count: int) -> None:
        status = self._end.status
        if status == "not_found":
            raise NotFound(path, expected="a published file", got="none")
        if status == "refused":
            raise Refused(path, expected="to be given it", got="refused", reason="source")
        if status != "ok" or self._end.length != count:
            raise Unavailable(path, expected="all its bytes", got=f"{count} bytes, {status}")
