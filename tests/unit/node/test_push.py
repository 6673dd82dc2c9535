"""The push stream of a node over real TLS: what the gateway may say, and what becomes of it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import grpc
import pytest

from embrasure import limits
from embrasure.errors import Denied, EmbrasureError, Refused
from embrasure.net.credentials import Pair, ServerKeys
from embrasure.net.server import Service, bind, build_server
from embrasure.net.trustbundle import TrustHolder
from embrasure.trust.door import Taken
from embrasure.trust.layout import blob_file
from embrasure.trust.source import Source
from embrasure.wire import node_pb2, node_pb2_grpc
from embrasure.wire import node_pb2 as wire
from node import ipc
from node.deadline import uptime_ms
from node.desk import Desk
from node.ground import Report
from node.installer import Answer
from node.messages import AppState, PostNote, SeenNote, StateNote
from node.push import TABLE, NodeService, add_to_server
from tests.simulate.authority import Authority
from tests.simulate.hooks import NOWHERE
from tests.simulate.listener import trust_from
from tests.simulate.push import Cut, SimGateway, pieces
from tests.unit.node.test_wants import signed_receipt

BLOB = blob_file("ab" * 32)
MISSING = blob_file("cd" * 32)
TIMESTAMP = "metadata/timestamp.json"
AUTHORITY = Authority()


class FetchingDoor:
    """A door that wants some files and answers with one receipt: enough to see the stream."""

    def repair(self, app: str, source: Source, report: Report) -> Answer:
        return Answer("none", "whole", app)

    def trust(self, source: Source) -> Taken:
        return Taken({"root": 2})

    def __init__(self) -> None:
        self.paths = [BLOB]
        self.got: list[bytes] = []
        self.problem: EmbrasureError | None = None
        self.answer = Answer(kind="committed", reason="", app="shop", receipts=())
        self.sends = True
        self.pause = threading.Event()
        self.pause.set()
        self.started, self.finished = threading.Event(), threading.Event()

    def order(self, envelope: bytes, source: Source, report: Report) -> Answer:
        self.started.set()
        try:
            for path in self.paths:
                self.got.append(b"".join(source.fetch(path, offset=0, limit=1 << 26)))
            if self.sends:
                report.receipt(signed_receipt(rseq=1), b"sealed")
            self.pause.wait(10)
            if self.problem is not None:
                raise self.problem
            if self.sends:
                report.receipt(signed_receipt(rseq=2), b"sealed")
            return self.answer
        finally:
            self.finished.set()

    def poll(self, source: Source, report: Report) -> list[Answer]:
        return [self.order(b"", source, report)]


class ShownRecords:
    """A fixed state, and which receipts were taken."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def state(self) -> StateNote:
        app = AppState(
            app="shop",
            state="idle",
            seq=3,
            gseq=2,
            manifest="ab" * 32,
            detail="",
            hold="",
            until=0,
        )
        return StateNote(
            node="n1",
            env="dev",
            mode="push",
            epoch=1,
            oseq=7,
            rseq=2,
            timestamp=5,
            maintenance="",
            isolation=NOWHERE,
            trouble=(),
            network="",
            apps=(app,),
        )

    def seen(self, approval: str = "") -> SeenNote:
        return SeenNote(timestamp="", snapshot="")

    def posts(self, limit: int) -> list[PostNote]:
        return []

    def posted(self, *rseqs: int) -> None:
        self.taken += rseqs

    def network(self, until: int, trouble: str) -> None:
        self.said = until, trouble


class Always:
    """A listener that was opened when this was made, and stays so."""

    def __init__(self) -> None:
        self.opened_ms = uptime_ms()
        self.renewed = 0

    def renew(self) -> None:
        self.renewed += 1


class Bench:
    """One node whose door is `door`, listening for gateways."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.door, self.records = FetchingDoor(), ShownRecords()
        self.me = frozenset({os.geteuid()})
        self.port = 0

    def gateway(self, files: dict[str, bytes]) -> SimGateway:
        return SimGateway(AUTHORITY, files, port=self.port, node="n1")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        leaf = AUTHORITY.leaf("node", "n1")
        holder = TrustHolder(trust_from(AUTHORITY))
        keys = ServerKeys(Pair(leaf.key_pem, leaf.chain_pem), holder, roles=["gateway"])
        connect = partial(ipc.connect, self.folder, ipc.SOCKET, self.me)
        service = NodeService(connect, lambda: "abc", lambda: "d" * 64, Always())
        descriptor = node_pb2.DESCRIPTOR.services_by_name["Node"]
        served = Service(descriptor, add_to_server, service)
        server = build_server([served], TABLE, holder)
        self.port = bind(server, "127.0.0.1:0", keys)
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    tmp_path.chmod(0o700)
    found, stop = Bench(tmp_path), threading.Event()
    desk = Desk(found.door, found.records, allowed=found.me)
    with closing(ipc.Listener(tmp_path, ipc.SOCKET)) as listener:
        thread = threading.Thread(target=desk.serve, args=(listener, stop))
        thread.start()
        yield found
        stop.set()
        thread.join()


def test_an_order_fetches_over_its_stream_and_answers_with_receipts(bench: Bench) -> None:
    big = os.urandom(3 * limits.FRAME_BODY_BYTES + 17)
    bench.door.paths = [TIMESTAMP, BLOB]

    async def main() -> None:
        async with bench.listening():
            said = await bench.gateway({BLOB: big, TIMESTAMP: b"{}"}).order(b"envelope")
            assert said.code is grpc.StatusCode.OK
            assert [want.path for want in said.wants] == [TIMESTAMP, BLOB]
            assert said.receipts == said.receipts[:2]
            assert said.bodies == [b"sealed", b"sealed"]
            assert said.refusals == []

    asyncio.run(main())
    assert bench.door.got == [b"{}", big]
    assert bench.records.taken == [1, 2]


def test_status_tells_the_numbers_of_the_node(bench: Bench) -> None:
    async def main() -> None:
        async with bench.listening():
            reply = await bench.gateway({}).status()
            assert (reply.node, reply.oseq, reply.rseq, reply.serial) == ("n1", 7, 2, "abc")
            assert [(app.app, app.seq, app.gseq) for app in reply.apps] == [("shop", 3, 2)]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("problem", "kind", "reason"),
    [
        (Refused("order", expected="a", got="b", reason="replay"), "refuse", "replay"),
        (Denied("order", expected="a", got="b", reason="not-declared"), "hold", "not-declared"),
    ],
)
def test_an_order_that_does_not_hold_is_one_refusal_with_its_reason(
    bench: Bench, problem: EmbrasureError, kind: str, reason: str
) -> None:
    bench.door.paths, bench.door.sends, bench.door.problem = [], False, problem

    async def main() -> None:
        async with bench.listening():
            said = await bench.gateway({}).order(b"envelope")
            assert (said.code, said.refusals) == (grpc.StatusCode.OK, [(kind, reason)])

    asyncio.run(main())


def test_a_verdict_without_receipts_is_one_refusal(bench: Bench) -> None:
    bench.door.paths, bench.door.sends = [], False
    bench.door.answer = Answer(kind="wait", reason="turn", app="shop", receipts=())

    async def main() -> None:
        async with bench.listening():
            said = await bench.gateway({}).order(b"envelope")
            assert said.refusals == [("wait", "turn")]

    asyncio.run(main())


def test_a_file_the_gateway_lacks_is_told_to_apply(bench: Bench) -> None:
    bench.door.paths = [MISSING]

    async def main() -> None:
        async with bench.listening():
            said = await bench.gateway({}).order(b"envelope")
            assert said.refusals == [("wait", "not-found")]

    asyncio.run(main())


def test_a_second_order_meanwhile_is_answered_busy(bench: Bench) -> None:
    bench.door.paths = []
    bench.door.pause.clear()

    async def main() -> None:
        async with bench.listening():
            gateway = bench.gateway({})
            first = asyncio.create_task(gateway.order(b"envelope"))
            await asyncio.to_thread(bench.door.started.wait, 5)
            busy = await gateway.order(b"envelope")
            assert busy.refusals == [("wait", "busy")]
            bench.door.pause.set()
            assert len((await first).receipts) == 2

    asyncio.run(main())


def test_a_gateway_that_hangs_up_does_not_stop_the_install(bench: Bench) -> None:
    bench.door.paths = []
    bench.door.pause.clear()

    async def main() -> None:
        async with bench.listening():
            said = await bench.gateway({}).order(b"envelope", until=lambda s: bool(s.receipts))
            assert said.is_cut
            bench.door.pause.set()

    asyncio.run(main())
    assert bench.door.finished.wait(5)
    assert bench.door.problem is None


def test_a_broken_line_is_unavailable_to_apply_and_the_next_order_works(bench: Bench) -> None:
    data = os.urandom(4 * limits.FRAME_BODY_BYTES)

    async def main() -> None:
        async with bench.listening():
            gateway = bench.gateway({BLOB: data})
            said = await gateway.order(b"envelope", cut=Cut(BLOB, limits.FRAME_BODY_BYTES))
            assert said.is_cut
            await asyncio.to_thread(bench.door.finished.wait, 5)
            again = await gateway.order(b"envelope")
            while again.refusals == [("wait", "busy")]:
                again = await gateway.order(b"envelope")
            assert len(again.receipts) == 2

    asyncio.run(main())
    assert bench.door.got == [data]


def test_no_apply_is_unavailable_and_says_nothing_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    bench = Bench(tmp_path)

    async def main() -> None:
        async with bench.listening():
            said = await bench.gateway({}).order(b"envelope")
            assert said.code is grpc.StatusCode.UNAVAILABLE
            assert "agent-not-running" in said.details

    asyncio.run(main())


def other_want(want: wire.Want) -> Iterable[wire.FromGateway]:
    return [wire.FromGateway(data=wire.Data(want=want.id + 1, offset=0, body=b"x"))]


def later_offset(want: wire.Want) -> Iterable[wire.FromGateway]:
    return [wire.FromGateway(data=wire.Data(want=want.id, offset=1, body=b"x"))]


def again(want: wire.Want) -> Iterable[wire.FromGateway]:
    data = wire.FromGateway(data=wire.Data(want=want.id, offset=0, body=b"x"))
    return [data, data]


def empty(want: wire.Want) -> Iterable[wire.FromGateway]:
    return [wire.FromGateway(data=wire.Data(want=want.id, offset=0, body=b""))]


def unknown_field(want: wire.Want) -> Iterable[wire.FromGateway]:
    odd = wire.FromGateway()
    odd.MergeFromString(b"\x7a\x01x")  # field 15
    return [odd, *pieces({BLOB: b"x"}, want)]


def unknown_inside(want: wire.Want) -> Iterable[wire.FromGateway]:
    data = wire.Data(want=want.id, offset=0, body=b"x")
    data.MergeFromString(b"\x7a\x01x")
    return [wire.FromGateway(data=data)]


def second_offer(want: wire.Want) -> Iterable[wire.FromGateway]:
    return [wire.FromGateway(offer=wire.Offer(order=b"another"))]


def other_end(want: wire.Want) -> Iterable[wire.FromGateway]:
    return [wire.FromGateway(end=wire.End(want=want.id + 1, status="ok", length=0))]


@pytest.mark.parametrize(
    "serve",
    [
        other_want,
        later_offset,
        again,
        empty,
        unknown_field,
        unknown_inside,
        second_offer,
        other_end,
    ],
)
def test_a_gateway_out_of_turn_is_refused_and_nothing_of_it_reaches_apply(
    bench: Bench, serve: object
) -> None:
    async def main() -> None:
        async with bench.listening():
            said = await bench.gateway({}).order(b"envelope", serve=serve)  # type: ignore[arg-type]  # parametrized
            assert said.receipts == []
            assert [kind for kind, _ in said.refusals] in (["refuse"], [])

    asyncio.run(main())
    assert bench.door.got == []


def test_lengths_that_do_not_agree_are_not_the_file(bench: Bench) -> None:
    def short(want: wire.Want) -> Iterable[wire.FromGateway]:
        yield wire.FromGateway(data=wire.Data(want=want.id, offset=0, body=b"x"))
        yield wire.FromGateway(end=wire.End(want=want.id, status="ok", length=2))

    async def main() -> None:
        async with bench.listening():
            said = await bench.gateway({}).order(b"envelope", serve=short)
            assert [kind for kind, _ in said.refusals] == ["wait"]

    asyncio.run(main())
    assert bench.door.got == []


def test_a_first_message_that_is_no_offer_is_refused(bench: Bench) -> None:
    async def main() -> None:
        async with bench.listening(), bench.gateway({}).channel() as channel:
            call = node_pb2_grpc.NodeStub(channel).Order(timeout=10)
            await call.write(wire.FromGateway(ping=wire.Ping()))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
                await call.read()
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION

    asyncio.run(main())
    assert bench.door.got == []
