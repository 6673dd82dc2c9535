"""Dial a push node with the stolen TLS identity and the stolen gate key, as the gateway would."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509

from demo.fleet import DOMAIN, ENV, PASSPHRASE, DemoNode, Fleet
from demo.thief import Forgery
from embrasure import limits
from embrasure.clock import now, write_time
from embrasure.net.certificates import pem_of
from embrasure.net.credentials import channel
from embrasure.trust import dsse, layout
from embrasure.trust.documents import write
from embrasure.trust.folder import FolderSource
from embrasure.trust.order import Order
from embrasure.trust.receipt import Outcome, read_record
from embrasure.wire import node_pb2, node_pb2_grpc
from gateway.feed import Feed
from gateway.push import Ended, push
from pki.folder import TrustFolder
from pki.leaf import fresh_leaf
from pki.passphrase import PassphraseSource


class EveryFile(Feed):
    """Serves the forged repository on a node's stream: a thief keeps no table of what he shows."""

    def __init__(self, folder: Path) -> None:
        super().__init__(FolderSource(folder))

    def check(self, path: str) -> None:
        """Any repository path may be asked for."""
        layout.parse_file(path)


class Ear:
    """Hears what the node says; what its receipts report is kept, unverified."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    async def reached(self) -> None:
        """The order is on the stream."""

    async def progress(self, state: str, *, done: int, total: int) -> None:
        """A hint."""

    async def receipt(self, signed: bytes, body: bytes) -> None:
        """A receipt."""
        self.outcomes.append(read_record(signed[: limits.RECEIPT_RECORD_BYTES]).outcome)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a node answered an order: whether it obeyed, and its words."""

    obeyed: bool
    words: str


def order_node(fleet: Fleet, node: DemoNode, port: int, forgery: Forgery) -> Answer:
    """Return how the node answered an order for the forged plan, sealed with the real gate key.

    Whatever it said: a changed `current` is an order obeyed, and so is silence.
    """
    before, ear = node.current(fleet.app), Ear()
    ended = asyncio.run(_order(fleet, node, port, forgery, ear))
    told = Outcome.REFUSED in ear.outcomes
    refused = told or (ended.kind == "refusal" and ended.word in ("refuse", "hold", "wait"))
    obeyed = not refused or Outcome.OK in ear.outcomes or node.current(fleet.app) != before
    words = f"{ended.word} {ended.reason}" if ended.word else f"signed receipts {ear.outcomes}"
    return Answer(obeyed, words.strip())


async def _order(fleet: Fleet, node: DemoNode, port: int, forgery: Forgery, ear: Ear) -> Ended:
    trust = TrustFolder.open(fleet.trust)
    issuer = trust.issuer("gateway", PassphraseSource(lambda _: PASSPHRASE.encode(), tries=1))
    key, chain = fresh_leaf(issuer, "gateway/g1", now)
    node_ca = x509.load_pem_x509_certificate((fleet.trust / "ca" / "node.crt").read_bytes())
    line = channel(
        f"127.0.0.1:{port}", role="node", name=node.id, domain=DOMAIN,
        issuer_pems=pem_of(node_ca), key=key, chain_pem=chain,
    )  # fmt: skip
    try:
        stub = node_pb2_grpc.NodeStub(line)
        status = await stub.Status(node_pb2.StatusRequest(), timeout=limits.DIAL_SECONDS)
        envelope = _seal(fleet, trust.root_id, node, forgery, oseq=status.oseq + 1)
        return await push(
            line, envelope, feed=EveryFile(forgery.folder), listener=ear,
            handshakes=asyncio.Semaphore(1), dial_s=limits.DIAL_SECONDS, idle_s=20,
        )  # fmt: skip
    finally:
        await line.close()


def _seal(fleet: Fleet, root: str, node: DemoNode, forgery: Forgery, *, oseq: int) -> bytes:
    at = now()
    order = Order(
        v=1, type="order", root=root, env=ENV, node=node.id, node_epoch=1, app=fleet.app,
        plan=forgery.plan, gate=forgery.gate, action="apply", tx=None, node_nonce=None, oseq=oseq,
        nonce=secrets.token_hex(16), issued=write_time(at),
        expires=write_time(at + timedelta(seconds=limits.ORDER_SECONDS)),
    )  # fmt: skip
    return dsse.seal("order", write(order), forgery.signer)
