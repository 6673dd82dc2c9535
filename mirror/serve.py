"""What a mirror shows to anybody: GET and HEAD of verified files, single ranges, the long poll."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from embrasure import limits
from embrasure.bundle.packing import PackedSource
from embrasure.errors import EmbrasureError, Unavailable
from embrasure.fs import Folder
from embrasure.trust import layout
from embrasure.trust.folder import FolderSource
from mirror.inbox import TIMESTAMP
from mirror.watch import Watchers

_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")
_VERSION = re.compile(r"0|[1-9][0-9]{0,8}")
_IMMUTABLE = "public, max-age=31536000, immutable"
_RETRY_SECONDS = (60, 120)


def read_app(
    public: Path, watchers: Watchers, *, seconds: float = limits.WATCH_SECONDS
) -> Starlette:
    """Return the application that shows `public`; it knows no other verb, path or folder."""
    packs, steps = Packs(public), RootSteps(public)

    async def watch(request: Request) -> Response:
        known = str(request.path_params["known"])
        if not _VERSION.fullmatch(known):
            return _plain(404)
        try:
            found = await watchers.wait(int(known), seconds=seconds)
        except Unavailable:
            later = random.randint(*_RETRY_SECONDS)  # noqa: S311  # spreads load, hides nothing
            return _plain(503, {"Retry-After": str(later)})
        if found is None:
            return _plain(204)
        return Response(str(found), headers={"Cache-Control": "no-store"})

    async def file(request: Request) -> Response:
        path = str(request.path_params["path"])
        try:
            if (pack := layout.parse_pack(path)) is not None:
                return await packs.answer(path, pack, request)
            # The one gate in front of the disk.
            layout.parse_file(path)
            fd, newest = await asyncio.to_thread(open_shown, public, path, steps)
        except EmbrasureError:
            return _plain(404)
        answer = send_file(fd, request, immutable=path not in (TIMESTAMP, layout.TRUST_LISTING))
        if newest:
            answer.headers[layout.ROOT_HEADER] = str(newest)
        return answer

    return Starlette(
        routes=[
            Route("/v1/watch/{known}", watch, methods=["GET"]),
            Route("/{path:path}", file, methods=["GET"]),
        ]
    )


def open_public(public: Path, path: str) -> int:
    """Return a descriptor of the shown file `path`; no link is followed on the way."""
    with Folder.open(public) as held:
        return held.open_file(path)


class RootSteps:
    """How far the root steps go that are shown, from the first one on without a gap."""

    def __init__(self, public: Path) -> None:
        self._public, self._newest = public, 0

    def newest(self) -> int:
        """Return the version of the last one now, 0 for none; a shown file stays. Any thread."""
        found = self._newest
        while self._has(found + 1):
            found += 1
        self._newest = found
        return found

    def _has(self, version: int) -> bool:
        try:
            os.close(open_public(self._public, layout.metadata_file(layout.ROOT, version)))
        except EmbrasureError:
            return False
        return True


def open_shown(public: Path, path: str, steps: RootSteps) -> tuple[int, int]:
    """Return a descriptor of the file `path`, and beside a timestamp the newest root step, else 0.

    In this order: a root step is shown before the timestamp that needs it.
    """
    fd = open_public(public, path)
    return fd, steps.newest() if path == TIMESTAMP else 0


class Packs:
    """Answers with packs of the manifests that are shown."""

    def __init__(self, public: Path) -> None:
        self._source = PackedSource(FolderSource(public))
        self._turn = asyncio.Lock()

    async def answer(self, path: str, pack: layout.Pack, request: Request) -> Response:
        """Return the pack or one range of it; raises NotFound."""
        size = self._source.known_size(pack)
        if size is None:
            # A manifest is parsed for it: one at a time, or strangers would take every thread.
            async with self._turn:
                size = await asyncio.to_thread(self._source.size, pack)
        extent = extent_of(request, size, immutable=True)
        if isinstance(extent, Response):
            return extent
        found = self._source.fetch(path, offset=extent.start, limit=extent.end - extent.start)
        return StreamingResponse(
            in_threads(found), status_code=extent.status, headers=extent.headers
        )


async def in_threads(found: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what `found` yields; each piece is got in a thread."""
    while piece := await asyncio.to_thread(next, found, b""):
        yield piece


@dataclass(frozen=True, slots=True)
class Extent:
    """Which bytes are asked for, and the head of the answer that brings them."""

    start: int
    end: int
    status: int
    headers: dict[str, str]


def extent_of(request: Request, size: int, *, immutable: bool) -> Extent | Response:
    """Return what to send of `size` bytes; an answer without a body where none is to be sent."""
    headers = {
        "Cache-Control": _IMMUTABLE if immutable else "no-cache",
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "X-Content-Type-Options": "nosniff",
    }
    start, end, status = 0, size, 200
    wanted = _RANGE.fullmatch(request.headers.get("range", ""))
    if wanted is not None:
        start, end = int(wanted[1]), min(size, int(wanted[2] or size) + 1)
        if start >= end:
            return _plain(416, {"Content-Range": f"bytes */{size}"})
        status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return Extent(start, end, status, headers)


def send_file(fd: int, request: Request, *, immutable: bool) -> Response:
    """Return the answer with the file or one range of it; the descriptor is closed after it."""
    extent = extent_of(request, os.fstat(fd).st_size, immutable=immutable)
    if isinstance(extent, Response):
        os.close(fd)
        return extent
    return FileAnswer(
        fd, extent.start, extent.end, status_code=extent.status, headers=extent.headers
    )


class FileAnswer(StreamingResponse):
    """The bytes of `fd` from `start` to `end`; it closes `fd`, also when nobody reads it."""

    def __init__(
        self, fd: int, start: int, end: int, *, status_code: int, headers: dict[str, str]
    ) -> None:
        self._fd = fd
        super().__init__(pieces(fd, start, end), status_code=status_code, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer is sent, or its reader is gone."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._fd)


async def pieces(fd: int, start: int, end: int) -> AsyncIterator[bytes]:
    """Yield the bytes of `fd` from `start` to `end`."""
    while start < end:
        count = min(limits.BUFFER_BYTES, end - start)
        piece = await asyncio.to_thread(os.pread, fd, count, start)
        if not piece:
            return
        start += len(piece)
        yield piece


def _plain(status: int, headers: dict[str, str] | None = None) -> Response:
    """Return an answer without a body: a stranger learns the number and nothing else."""
    return Response(status_code=status, headers=headers)
