"""One dial, whatever the node does: typed outcomes, bounded memory, no file beyond the table."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from embrasure import limits
from embrasure.errors import Refused
from embrasure.net.credentials import channel
from embrasure.trust import layout
from embrasure.trust.folder import FolderSource
from embrasure.wire import node_pb2 as wire
from gateway.feed import Feed
from gateway.published import Contents
from gateway.push import RECEIPTS, Ended, push
from tests.ablation import Ablation
from tests.simulate.authority import Authority, Leaf
from tests.simulate.liars import Requests, Script, lying
from tests.simulate.listener import listening

NODE = "n-" + "a" * 26
BLOB = layout.blob_file("ab" * 32)
SECRET = layout.blob_file("cd" * 32)
AUTHORITY = Authority()


@dataclass
class Heard:
    """What the listener was told, in order."""

    words: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    since: float = 0.0  # when the node was reached

    async def reached(self) -> None:
        self.since = time.monotonic()
        self.words.append("reached")

    async def progress(self, state: str, *, done: int, total: int) -> None:
        self.words.append(state)

    async def receipt(self, signed: bytes, body: bytes) -> None:
        self.words.append("receipt")
        self.bodies.append(body)


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    for path, data in ((BLOB, b"x" * 3_000_000), (SECRET, b"secret")):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    found = Feed(FolderSource(tmp_path))
    found.show(Contents(1, frozenset({BLOB}), frozenset()))
    return found


async def dial(
    feed: Feed, script: Script, heard: Heard, *, leaf: Leaf | None = None, idle_s: float = 5.0
) -> Ended:
    own = AUTHORITY.leaf("gateway", "g1")
    async with (
        lying(AUTHORITY, NODE, script, leaf=leaf) as port,
        channel(
            f"127.0.0.1:{port}", role="node", name=NODE, domain=AUTHORITY.domain,
            issuer_pems=AUTHORITY.issuer_pem("node"), key=own.key_pem,
            chain_pem=own.chain_pem,
        ) as line,
    ):  # fmt: skip
        return await push(
            line, b"order", feed=feed, listener=heard, dial_s=3.0, idle_s=idle_s,
            handshakes=asyncio.Semaphore(1),
        )  # fmt: skip


def ask(path: str, *, offset: int = 0, limit: int = 10**7, id: int = 1) -> wire.FromNode:
    return wire.FromNode(want=wire.Want(id=id, path=path, offset=offset, limit=limit))


async def file_of(requests: Requests) -> tuple[bytes, str]:
    """Return the bytes and the last word of one want."""
    data = b""
    async for message in requests:
        if message.WhichOneof("kind") == "end":
            assert message.end.length == len(data)
            return data, message.end.status
        assert 0 < len(message.data.body) <= limits.FRAME_BODY_BYTES
        data += message.data.body
    return data, "cut"


def test_a_file_comes_whole_or_from_the_byte_where_it_broke(feed: Feed) -> None:
    got: list[tuple[bytes, str]] = []

    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        assert (await anext(requests)).offer.order == b"order"
        for offset in (0, 2_999_990):
            yield ask(BLOB, offset=offset)
            got.append(await file_of(requests))

    heard = Heard()
    assert asyncio.run(dial(feed, script, heard)) == Ended("ended")
    assert got == [(b"x" * 3_000_000, "ok"), (b"x" * 10, "ok")]
    assert heard.words == ["reached"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (SECRET, "not_found"), ("../state/gateway.sqlite", "refused"), ("/etc/passwd", "refused"),
        ("metadata/2.root.json", "not_found"), ("", "refused"), ("\x00" * 300, "refused"),
    ],
)  # fmt: skip
def test_a_want_beyond_the_table_is_answered_and_gives_nothing(
    feed: Feed, path: str, status: str
) -> None:
    got: list[tuple[bytes, str]] = []

    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        await anext(requests)
        yield ask(path)
        got.append(await file_of(requests))
        yield ask(BLOB, offset=2_999_999)
        got.append(await file_of(requests))

    assert asyncio.run(dial(feed, script, Heard())).kind == "ended"
    # The stream goes on: a question is no crime, an answer would be.
    assert got == [(b"", status), (b"x", "ok")]


@pytest.mark.misuse
def test_without_the_table_the_same_want_gives_the_file(feed: Feed, ablation: Ablation) -> None:
    got: list[tuple[bytes, str]] = []

    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        await anext(requests)
        yield ask(SECRET)
        got.append(await file_of(requests))

    asyncio.run(dial(feed, script, Heard()))
    assert got.pop() == (b"", "not_found")
    with ablation("the table of what a node may want") as attack:
        attack.without("gateway.feed.Feed.check", lambda *a, **k: None)
        asyncio.run(dial(feed, script, Heard()))
        attack.succeeded(got == [(b"secret", "ok")])


@pytest.mark.parametrize("limit", [0, 10, 2**63])
def test_a_want_for_no_or_too_few_bytes_is_refused(feed: Feed, limit: int) -> None:
    got: list[str] = []

    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        await anext(requests)
        yield ask(BLOB, limit=limit)
        async for message in requests:
            if message.WhichOneof("kind") == "end":
                got.append(message.end.status)
                return

    asyncio.run(dial(feed, script, Heard()))
    assert got == ["refused"]


def test_more_open_wants_than_allowed_end_the_stream(feed: Feed) -> None:
    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        await anext(requests)
        for number in range(1, 5000):
            yield ask(BLOB, id=number)
        await asyncio.sleep(5)

    ended = asyncio.run(dial(feed, script, Heard()))
    assert ended.kind == "broken" and "open wants" in ended.reason


@pytest.mark.parametrize("receipt", [(b"x" * 319, b""), (b"x" * 320, b"x" * 4097), (b"", b"")])
def test_a_receipt_of_another_size_is_never_passed_on(
    feed: Feed, receipt: tuple[bytes, bytes]
) -> None:
    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        await anext(requests)
        yield wire.FromNode(receipt=wire.Receipt(signed=receipt[0], body=receipt[1]))

    heard = Heard()
    assert asyncio.run(dial(feed, script, heard)).kind == "broken"
    assert heard.words == ["reached"]


def test_a_nodes_words_are_escaped_and_cut(feed: Feed) -> None:
    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        await anext(requests)
        yield wire.FromNode(progress=wire.Progress(state="\x1b[2J" + "x" * 9000))
        yield wire.FromNode(refusal=wire.Refusal(kind="hold\x07", reason="y" * 9000, floor=7))

    heard = Heard()
    ended = asyncio.run(dial(feed, script, heard))
    assert (ended.kind, ended.floor) == ("refusal", 7)
    assert "\x07" not in ended.word and len(ended.reason) < 200
    assert "\x1b" not in heard.words[1] and len(heard.words[1]) < 100


def test_a_node_that_falls_silent_is_broken_not_failed(feed: Feed) -> None:
    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        await anext(requests)
        yield ask(BLOB)
        await asyncio.sleep(30)

    ended = asyncio.run(dial(feed, script, Heard(), idle_s=0.3))
    assert (ended.kind, ended.reason) == ("broken", "stream: timed out")


def test_a_stream_that_ends_badly_is_broken(feed: Feed) -> None:
    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        await anext(requests)
        yield ask(BLOB)
        raise RuntimeError("crash")

    assert asyncio.run(dial(feed, script, Heard())).kind == "broken"


@pytest.mark.parametrize("role", ["mirror", "letterbox", "gateway-admin"])
def test_a_certificate_of_another_role_is_unreachable_and_sees_no_order(
    feed: Feed, role: str
) -> None:
    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        async for _ in requests:
            raise AssertionError("the order was sent")
        yield wire.FromNode()

    heard = Heard()
    leaf = AUTHORITY.leaf(role, NODE)
    ended = asyncio.run(dial(feed, script, heard, leaf=leaf))
    assert (ended.kind, heard.words) == ("unreachable", [])


def test_another_node_at_this_address_is_unreachable(feed: Feed) -> None:
    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        async for _ in requests:
            raise AssertionError("the order was sent")
        yield wire.FromNode()

    heard = Heard()
    leaf = AUTHORITY.leaf("node", "n-" + "b" * 26)
    assert asyncio.run(dial(feed, script, heard, leaf=leaf)).kind == "unreachable"
    assert heard.words == []


def test_a_closed_port_is_unreachable(feed: Feed) -> None:
    async def course() -> Ended:
        own = AUTHORITY.leaf("gateway", "g1")
        async with channel(
            "127.0.0.1:9", role="node", name=NODE, domain=AUTHORITY.domain,
            issuer_pems=AUTHORITY.issuer_pem("node"), key=own.key_pem,
            chain_pem=own.chain_pem,
        ) as line:  # fmt: skip
            return await push(
                line, b"order", feed=feed, listener=Heard(), dial_s=2.0, idle_s=2.0,
                handshakes=asyncio.Semaphore(1),
            )  # fmt: skip

    ended = asyncio.run(course())
    assert ended.kind == "unreachable" and ended.reason.startswith("dial: ")


def test_a_push_that_failed_lets_go_of_its_connection(feed: Feed) -> None:
    """A node takes few at once, and must not wait until this end collects its garbage."""
    own = AUTHORITY.leaf("gateway", "g1")

    async def course() -> bool:
        async with listening(AUTHORITY, connections=4) as listener:
            listener.handlers.fail = lambda: Refused("order", expected="another", got="this")
            for _ in range(12):
                async with listener.channel(own) as line:
                    ended = await push(
                        line, b"order", feed=feed, listener=Heard(), dial_s=3.0, idle_s=5.0,
                        handshakes=asyncio.Semaphore(1),
                    )  # fmt: skip
                assert ended.kind in ("broken", "unreachable")
            listener.handlers.fail = None
            end = time.monotonic() + 10
            while time.monotonic() < end:
                with suppress(grpc.aio.AioRpcError):
                    return bool(await listener.call("unary_unary", own))
                await asyncio.sleep(0.1)
            return False

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(course())
    finally:
        gc.enable()


# --- floods ------------------------------------------------------------------------------------


@pytest.mark.misuse
@pytest.mark.parametrize("kind", ["receipts", "words", "drops"])
def test_a_node_that_never_ends_holds_its_stream_for_a_bounded_time(
    feed: Feed, kind: str, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    receipt = wire.FromNode(receipt=wire.Receipt(signed=b"x" * 320))
    # A drop every 50 ms: longer than a stream lasts, and each within a silence that is let be, on
    # a busy machine too. The others are far more than the bounds let through.
    idle_s, count = (0.5, 52) if kind == "drops" else (0.2, 5_000)

    async def script(requests: Requests) -> AsyncIterator[wire.FromNode]:
        await anext(requests)
        for number in range(count):
            if kind == "drops":
                await asyncio.sleep(0.05)
            word = wire.FromNode(progress=wire.Progress(state=f"s{number}"))
            yield receipt if kind == "receipts" else word

    monkeypatch.setattr("gateway.push.MESSAGES_A_SECOND", 200)
    heard = Heard()
    ended = asyncio.run(dial(feed, script, heard, idle_s=idle_s))
    assert ended.kind == "broken"
    assert time.monotonic() - heard.since < 3
    # reached, then what one stream may make us do
    most = {"receipts": RECEIPTS, "words": 400, "drops": 40}[kind]
    assert 0 < len(heard.words) <= most + 1
    with ablation("the bounds of one stream") as attack:
        attack.without("gateway.push.Bounds.count", uncounted)
        attack.without("gateway.push.STREAM_FACTOR", 100)
        more = Heard()
        asyncio.run(dial(feed, script, more, idle_s=idle_s))
        attack.succeeded(len(more.words) > len(heard.words))


async def uncounted(*_: object) -> None:
    """No bound."""
