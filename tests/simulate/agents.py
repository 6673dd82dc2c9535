"""Push nodes that only pretend to install: real TLS, the real install rule, real receipts.

Many of them fit in one process. What an agent did survives a broken stream, as a disk would.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from nacl.bindings import sodium_pad
from nacl.public import SealedBox

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.net.authorize import Table
from embrasure.net.credentials import Pair, ServerKeys
from embrasure.net.server import Service, bind, build_server
from embrasure.net.trustbundle import TrustHolder
from embrasure.trust import canonical, dsse, layout
from embrasure.trust import order as orderly
from embrasure.trust.client import TrustClient
from embrasure.trust.decide import NodeState, Verdict, decide
from embrasure.trust.floors import AppFloor, Committed, Union
from embrasure.trust.generation import newest_file
from embrasure.trust.load import Docs, load, roles_for
from embrasure.trust.receipt import Kind, Outcome, Ran, Reason, chain_hash
from embrasure.wire import node_pb2 as wire
from embrasure.wire import node_pb2_grpc
from tests.simulate.authority import Authority
from tests.simulate.listener import trust_from
from tests.simulate.nodes import SimNode
from tests.simulate.repository import SimRepository

TABLE: Table = {
    "/embrasure.v1.Node/Order": frozenset({"gateway"}),
    "/embrasure.v1.Node/Status": frozenset({"gateway"}),
}
Posted = tuple[bytes, bytes]
# Agents wait for the gateway in threads; the gateway in the same process must keep its own.
POOL = ThreadPoolExecutor(64, thread_name_prefix="agent")


@dataclass
class Gauge:
    """How many nodes are out of service at once."""

    now: int = 0
    most: int = 0

    def add(self, change: int) -> None:
        self.now += change
        self.most = max(self.most, self.now)


@dataclass
class SimAgent:
    """One node. installs: plan digest -> how often its content was installed here.

    breaks: versions whose probes fail here; slow_s: how long an install takes; cut: streams broken
    after the fetch; silent: takes the order and says nothing; hands: the timestamp that it shows
    instead of its own.
    """

    sim: SimRepository
    node: SimNode
    breaks: set[str] = field(default_factory=set)
    slow_s: float = 0.0
    cut: int = 0
    silent: bool = False
    hands: bytes = b""
    installs: Counter[str] = field(default_factory=Counter)
    orders: list[int] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    told: dict[str, list[Posted]] = field(default_factory=dict)
    floor: AppFloor = field(default_factory=AppFloor)
    oseq: int = 0
    gauge: Gauge = field(default_factory=Gauge)
    last: bytes = bytes(32)
    _work: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _tuf: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)

    def close(self) -> None:
        """Forget the metadata folder."""
        self._tuf.cleanup()

    # --- the rule -----------------------------------------------------------------------------

    def open_order(self, envelope: bytes) -> orderly.Order:
        """Return the order when it is for this node and newer than every other; raises Refused."""
        signer = self.sim.signers[layout.gates_role(self.node.env)][0]
        keys = {signer.public_key.keyid: signer.public_key}
        payload, _ = dsse.unseal("order", envelope, keys, limit=limits.ORDER_BYTES)
        order = orderly.parse_order(payload)
        orderly.check_order(
            order, root=self.sim.root_id, env=self.node.env, node=self.node.id,
            epoch=self.node.epoch, floor=self.oseq, now=now(),
        )  # fmt: skip
        self.oseq = order.oseq
        self.orders.append(order.oseq)
        return order

    def judge(self, source: Any, app: str) -> tuple[Docs, Verdict]:
        """Return documents and verdict, by the product's own rule."""
        client = TrustClient(Path(self._tuf.name) / "tuf", self.sim.anchor)
        view = client.refresh(source, roles=roles_for(self.node.env, app))
        docs = load(client, view, source, env=self.node.env, app=app, node=self.node.id)
        state = NodeState(
            node=self.node.id, env=self.node.env, epoch=self.node.epoch,
            receipt_key=self.node.receipt_public.hex(), isolation=0, busy=False, held=False,
            time_floor=0, union=Union(), app=self.floor,
        )  # fmt: skip
        return docs, decide(docs, state, now=now())

    def receipt(self, docs: Docs, wave: int, **changes: Any) -> Posted:
        """Return a receipt with its sealed body, chained to the one before it."""
        assert docs.plan is not None and docs.gate is not None and docs.policy is not None
        told = {"v": 1, "state": "x", "reason": "got\x1b 503", "log": "probe said no\n\x1b[31mred"}
        padded = sodium_pad(canonical.canonical(told), 1024)
        body = SealedBox(self.sim.collect.public_key).encrypt(padded)
        signed = self.node.receipt(
            docs.plan, wave, at=now(), previous=self.last, body=sha256(body).digest(),
            attempt=docs.gate.attempt, gseq=docs.gate.gseq, **changes,
        )  # fmt: skip
        self.last = chain_hash(signed)
        self.told.setdefault(docs.plan_digest, []).append((signed, body))
        return signed, body

    async def install(self, docs: Docs, verdict: Verdict) -> None:
        """Install, whoever is still listening; receipts go into `told`."""
        assert docs.plan is not None and docs.manifest is not None
        plan, digest = docs.plan, docs.plan_digest
        self.installs[digest] += 1
        self.gauge.add(1)
        await asyncio.sleep(self.slow_s)
        self.gauge.add(-1)
        if docs.manifest.version in self.breaks:
            tries = dict(self.floor.tries)
            tries[digest] = tries.get(digest, 0) + 1
            self.floor = _with(self.floor, tries=tries)
            self.receipt(
                docs, verdict.wave, kind=Kind.STATUS, outcome=Outcome.ROLLED_BACK,
                ran=Ran.PREVIOUS, reason=Reason.PROBE,
            )  # fmt: skip
            return
        self.receipt(docs, verdict.wave, kind=Kind.HEALTHY, soaked_s=0)
        await asyncio.sleep(plan.waves[verdict.wave].soak_s)
        self.receipt(docs, verdict.wave)
        done = Committed(
            plan=digest, seq=plan.seq, ran="main", manifest=plan.manifest.sha256, wave=verdict.wave
        )
        self.floor = _with(self.floor, committed=done, seen_seq=plan.seq, seen_plan=digest)

    # --- the stream ---------------------------------------------------------------------------

    async def Order(
        self, requests: AsyncIterator[wire.FromGateway], context: Any
    ) -> AsyncIterator[wire.FromNode]:
        stream = _Stream(requests.__aiter__())
        offer = await stream.next()
        try:
            order = self.open_order(offer.offer.order)
        except Refused as problem:
            yield _refusal("refuse", problem.reason, self.oseq)
            return
        running = self._work.get(order.plan)
        if running is not None and not running.done():
            yield _refusal("wait", "busy", self.oseq)
            return
        if self.silent:
            await asyncio.sleep(3600)
        out: asyncio.Queue[wire.FromNode | None] = asyncio.Queue()
        job = asyncio.ensure_future(self._obey(order, stream, out))
        try:
            while (message := await out.get()) is not None:
                yield message
            await job
        finally:
            job.cancel()

    async def _obey(self, order: orderly.Order, stream: _Stream, out: asyncio.Queue[Any]) -> None:
        try:
            await self._obeyed(order, stream, out)
        finally:
            out.put_nowait(None)

    async def _obeyed(self, order: orderly.Order, stream: _Stream, out: asyncio.Queue[Any]) -> None:
        source = _StreamSource(stream, out, asyncio.get_running_loop(), self.fetched)
        try:
            loop = asyncio.get_running_loop()
            docs, verdict = await loop.run_in_executor(POOL, self.judge, source, order.app)
        except EmbrasureError as problem:
            out.put_nowait(_refusal("wait", problem.reason, self.oseq))
            return
        plan = docs.plan_digest
        if verdict.kind != "install":
            for signed, body in self.told.get(plan, []):
                out.put_nowait(_receipt(signed, body))
            if not (verdict.kind == "none" and verdict.reason == "done"):
                out.put_nowait(_refusal(verdict.kind, verdict.reason, self.oseq))
            return
        out.put_nowait(_progress("fetching"))
        assert docs.manifest is not None
        for blob, length in docs.manifest.blobs().items():
            data = await stream.fetch(out, layout.blob_file(blob), 0, length)
            assert sha256(data).hexdigest() == blob
            self.fetched.append(blob)
        if self.cut:
            self.cut -= 1
            raise ConnectionError("the line breaks here")
        out.put_nowait(_progress("activating"))
        told = len(self.told.get(plan, []))
        # What runs on the node goes on when the stream breaks.
        work = self._work[plan] = asyncio.ensure_future(self.install(docs, verdict))
        while not work.done() or told < len(self.told.get(plan, [])):
            for signed, body in self.told.get(plan, [])[told:]:
                out.put_nowait(_receipt(signed, body))
                told += 1
            await asyncio.sleep(0.01)
        await work

    async def Status(self, request: wire.StatusRequest, context: Any) -> wire.StatusReply:
        folder = Path(self._tuf.name) / "tuf"
        return wire.StatusReply(
            node=self.node.id,
            epoch=self.node.epoch,
            oseq=self.oseq,
            timestamp=self.hands or newest_file(folder, "timestamp", limit=limits.TIMESTAMP_BYTES),
            snapshot=newest_file(folder, "snapshot", limit=limits.SNAPSHOT_BYTES),
            approval=newest_file(folder, request.approval, limit=limits.DELEGATED_BYTES)
            if request.approval
            else b"",
        )


def _with(floor: AppFloor, **changes: Any) -> AppFloor:
    return msgspec.structs.replace(floor, **changes)


def _refusal(kind: str, reason: str, floor: int) -> wire.FromNode:
    return wire.FromNode(refusal=wire.Refusal(kind=kind, reason=reason, floor=floor))


def _receipt(signed: bytes, body: bytes) -> wire.FromNode:
    return wire.FromNode(receipt=wire.Receipt(signed=signed, body=body))


def _progress(state: str) -> wire.FromNode:
    return wire.FromNode(progress=wire.Progress(state=state))


class _Stream:
    """The gateway's side of a stream, as this node reads it: one want at a time."""

    def __init__(self, requests: AsyncIterator[wire.FromGateway]) -> None:
        self._requests, self._id = requests, 0
        self._lock = asyncio.Lock()

    async def next(self) -> wire.FromGateway:
        return await anext(self._requests)

    async def fetch(self, out: asyncio.Queue[Any], path: str, offset: int, limit: int) -> bytes:
        """Return the bytes of one want; raises NotFound, Unavailable."""
        async with self._lock:
            self._id += 1
            want = wire.Want(id=self._id, path=path, offset=offset, limit=limit)
            out.put_nowait(wire.FromNode(want=want))
            data = b""
            while True:
                message = await self.next()
                if message.WhichOneof("kind") == "data":
                    assert message.data.want == self._id
                    assert message.data.offset == offset + len(data)
                    data += message.data.body
                    continue
                if message.end.status == "not_found":
                    raise NotFound(path, expected="a file", got="none")
                if message.end.status != "ok" or message.end.length != len(data):
                    raise Unavailable(path, expected="a file", got=message.end.status)
                return data


@dataclass
class _StreamSource:
    stream: _Stream
    out: asyncio.Queue[Any]
    loop: asyncio.AbstractEventLoop
    fetched: list[str]

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        self.fetched.append(path)

        async def one() -> bytes:
            return await self.stream.fetch(self.out, path, offset, limit)

        data = asyncio.run_coroutine_threadsafe(one(), self.loop).result(20)
        for start in range(0, len(data), limits.BUFFER_BYTES):
            yield data[start : start + limits.BUFFER_BYTES]


@asynccontextmanager
async def serving(authority: Authority, agent: SimAgent) -> AsyncIterator[int]:
    """The agent listens; yields its port."""
    leaf = authority.leaf("node", agent.node.id)
    holder = TrustHolder(trust_from(authority))
    keys = ServerKeys(Pair(leaf.key_pem, leaf.chain_pem), holder, roles=["gateway"])
    service = wire.DESCRIPTOR.services_by_name["Node"]
    server = build_server(
        [Service(service, node_pb2_grpc.add_NodeServicer_to_server, agent)], TABLE, holder
    )
    port = bind(server, "127.0.0.1:0", keys)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)
