"""A peer that hangs up in the middle of an upload: no file is closed under the thread that writes,
and nothing stays locked.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from embrasure.bundle.incoming import BlobWriter
from embrasure.bundle.store import BlobStore
from embrasure.errors import Failed
from embrasure.fs import Space
from embrasure.trust.canonical import sha256_hex
from embrasure.wire import admin_pb2, mirror_pb2
from gateway import uploads
from mirror.inbox import Inbox, Upload
from mirror.receive import Ingest, take
from tests.ablation import Ablation

if TYPE_CHECKING:
    from embrasure.net.authorize import Context
    from mirror.publish import Publisher

DATA = b"0123456789"
NAME = sha256_hex(DATA)


class Slow:
    """A blocking function that waits inside its thread until it is let go."""

    def __init__(self) -> None:
        self.inside, self.go, self.done = threading.Event(), threading.Event(), threading.Event()

    def wait(self) -> None:
        self.inside.set()
        assert self.go.wait(5)


async def hang_up(work: asyncio.Future[Any], slow: Slow) -> None:
    """The peer of `work` is gone while a thread works for it; then the thread goes on."""
    await asyncio.to_thread(slow.inside.wait, 5)
    work.cancel()
    await asyncio.sleep(0.05)
    work.cancel()  # gRPC may do it twice
    await asyncio.sleep(0.05)
    slow.go.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    await asyncio.to_thread(slow.done.wait, 5)


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[BlobStore]:
    store = BlobStore(tmp_path / "blobs")
    yield store
    store.close()


def cut_blob(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return whether the blob's file was still open when its thread came to write."""
    slow, write = Slow(), BlobWriter.write
    found: list[bool] = []

    def waiting(self: BlobWriter, piece: bytes) -> None:
        slow.wait()
        try:
            found.append(is_open(self._fd))
            write(self, piece)
        finally:
            slow.done.set()

    async def pieces() -> AsyncIterator[admin_pb2.Upload]:
        yield admin_pb2.Upload(sha256=NAME, length=len(DATA), offset=0, body=DATA[:4])

    async def main() -> None:
        await hang_up(asyncio.ensure_future(uploads.receive(blobs, pieces())), slow)

    with monkeypatch.context() as patch:
        patch.setattr(BlobWriter, "write", waiting)
        asyncio.run(main())
    return found


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.misuse
def test_a_blob_is_not_closed_under_the_thread_that_writes_it(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    assert cut_blob(blobs, monkeypatch) == [True]
    assert blobs.held_bytes(NAME) == 4
    with blobs.writer(NAME, length=len(DATA)) as writer:
        assert writer.offset == 4
    with ablation("the wait for the thread") as attack:
        # Its number would be free for another file.
        blobs.forget(NAME)
        attack.without("gateway.uploads.unbroken", asyncio.to_thread)
        attack.succeeded(cut_blob(blobs, monkeypatch) == [False])


@pytest.mark.misuse
def test_one_upload_does_not_take_the_last_of_the_disk(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    def send(length: int) -> None:
        async def pieces() -> AsyncIterator[admin_pb2.Upload]:
            yield admin_pb2.Upload(sha256=NAME, length=length, offset=0, body=DATA)

        asyncio.run(uploads.receive(blobs, pieces()))

    monkeypatch.setattr("gateway.uploads.free", lambda _: Space(uploads.KEPT_BYTES + 9, 1000))
    with pytest.raises(Failed) as caught:
        send(len(DATA))
    assert caught.value.reason == "no-space"
    assert blobs.held_bytes(NAME) == 0
    with ablation("the room that is kept") as attack:
        attack.without("gateway.uploads.check_room", lambda *_: None)
        send(len(DATA))
        attack.succeeded(blobs.held_bytes(NAME) == len(DATA))


@pytest.mark.parametrize("when", ["opening", "writing"])
def test_a_path_is_free_again_after_its_sender_hung_up(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = tmp_path / "public"
    public.mkdir()
    inbox, slow = Inbox(tmp_path / "inbox", public), Slow()
    ingest = Ingest(inbox, cast("Publisher", None))
    path = f"blobs/{NAME[:2]}/{NAME}"
    enter = Upload.__enter__

    def waiting(self: Upload) -> Upload:
        slow.wait()
        slow.done.set()
        return enter(self)

    def taking(upload: Upload, piece: mirror_pb2.Piece) -> None:
        slow.wait()
        take(upload, piece)
        slow.done.set()

    async def pieces(last: bool) -> AsyncIterator[mirror_pb2.Piece]:
        yield mirror_pb2.Piece(path=path, offset=0, body=DATA, last=last)

    def put(*, last: bool) -> Awaitable[mirror_pb2.PutReply]:
        return ingest.Put(pieces(last), cast("Context", None))

    async def main() -> None:
        with monkeypatch.context() as patch:
            if when == "opening":
                patch.setattr(Upload, "__enter__", waiting)
            else:
                patch.setattr("mirror.receive.take", taking)
            await hang_up(asyncio.ensure_future(put(last=False)), slow)
        assert inbox.held(path) == (0 if when == "opening" else len(DATA))
        await put(last=True)

    asyncio.run(main())
    assert inbox.held(path) is None
