"""The gateway's stream as a Source: wants go out, data comes back in order, one want at a time.

One message is held at a time: the pipe to apply, and so its disk, sets the gateway's pace.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Protocol, TypeVar

from google.protobuf.message import Message as Proto
from google.protobuf.unknown_fields import UnknownFieldSet

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.trust.layout import parse_wanted
from embrasure.wire import node_pb2 as wire

if TYPE_CHECKING:
    from embrasure.net.authorize import Context

SILENCE_SECONDS = limits.BLOB_GRACE_SECONDS + limits.BLOB_WINDOW_SECONDS
T = TypeVar("T")


class Stream:
    """One call, as a thread outside of the event loop may use it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        requests: AsyncIterator[wire.FromGateway],
        context: Context,
    ) -> None:
        self._loop, self._requests, self._context = loop, requests, context
        self._hint: Future[None] | None = None
        self._is_over = False

    def end(self) -> None:
        """The call is over: nothing is read or written any more."""
        self._is_over = True

    def read(self, *, seconds: float) -> wire.FromGateway:
        """Return the next message of the gateway; raises Unavailable, Refused."""
        message = self._result(self._start(self._next), seconds)
        if message is None:
            raise closed("the end")
        check_known(message)
        return message

    async def _next(self) -> wire.FromGateway | None:
        return await anext(self._requests, None)

    def write(self, message: wire.FromNode) -> None:
        """The gateway will get `message`; raises Unavailable."""
        if self._hint is not None:  # gRPC takes one message at a time
            self._result(self._hint, SILENCE_SECONDS)
        self._result(self._start(lambda: self._put(message)), SILENCE_SECONDS)

    def offer(self, message: wire.FromNode) -> None:
        """The gateway may get `message`: a hint, dropped while it has not taken the last one.

        A gateway that is writing may not be reading; who waits for it then waits for ever.
        """
        if self._hint is None or self._hint.done():
            self._hint = self._start(lambda: self._put(message))

    async def _put(self, message: wire.FromNode) -> None:
        await self._context.write(message)

    def _start(self, make: Callable[[], Coroutine[None, None, T]]) -> Future[T]:
        if self._is_over:
            raise closed("a call that is over")
        job = make()
        try:
            return asyncio.run_coroutine_threadsafe(job, self._loop)
        except RuntimeError:  # the whole process ends
            job.close()
            raise closed("the end of this process") from None

    def _result(self, waiting: Future[T], seconds: float) -> T:
        try:
            return waiting.result(seconds)
        except TimeoutError:
            waiting.cancel()
            raise silent() from None
        except EmbrasureError:
            raise
        except (CancelledError, Exception) as problem:  # whatever gRPC says when a call is gone
            raise closed(type(problem).__name__) from None


def closed(got: str) -> Unavailable:
    """Return the error for a call that is gone."""
    return Unavailable("gateway", expected="an open stream", got=got, reason="stream-closed")


def silent() -> Unavailable:
    """Return the error for a gateway that says nothing for too long."""
    return Unavailable("gateway", expected="an answer", got="silence", reason="slow")


def check_known(message: wire.FromGateway) -> None:
    """Return only when `message` is of one kind and has no field that this node does not know."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise Refused("stream", expected="a known message", got="none", reason="bad-schema")
    parts: tuple[Proto, ...] = (message, getattr(message, kind))
    if any(len(UnknownFieldSet(part)) for part in parts):
        raise Refused("stream", expected="known fields", got="another", reason="bad-schema")


class Line(Protocol):
    """Where wants go and data comes from: one call of a gateway."""

    def read(self, *, seconds: float) -> wire.FromGateway:
        """Return the gateway's next message."""
        ...

    def write(self, message: wire.FromNode) -> None:
        """The gateway will get `message`."""
        ...


class StreamSource:
    """A gateway's published files, wanted over its own stream; untrusted, as every source."""

    def __init__(self, stream: Line) -> None:
        self._stream = stream
        self._id = 0
        self._rest = 0  # bytes that the want of that id may still bring
        self._is_open = False

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
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

    def _bodies(self, offset: int | None) -> Iterator[bytes]:
        """Yield the data of the open want up to its end. offset: None to take any."""
        until = time.monotonic() + SILENCE_SECONDS
        while True:
            message = self._stream.read(seconds=max(0.0, until - time.monotonic()))
            match message.WhichOneof("kind"):
                case "ping":
                    continue  # does not move `until`: pings are no data
                case "data":
                    body = message.data.body  # once: each look at it is a copy
                    self._check_data(message.data, offset, len(body))
                    offset = None if offset is None else offset + len(body)
                    del message
                    yield body
                    until = time.monotonic() + SILENCE_SECONDS
                case "end" if message.end.want == self._id:
                    self._is_open, self._end = False, message.end
                    return
                case kind:
                    raise Refused("stream", expected="data", got=kind, reason="bad-schema")

    def _check_data(self, data: wire.Data, offset: int | None, count: int) -> None:
        """Return only when `data` continues the open want and is not more than was wanted."""
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
