"""Posts and receipts: who may say what, in which order, and what a database writer cannot forge."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import sodium_pad
from nacl.public import PrivateKey, SealedBox
from sqlalchemy import select

from embrasure.errors import Refused
from embrasure.net.post import PostHeader, post_signer, seal_post
from embrasure.trust import canonical
from embrasure.trust.receipt import chain_hash, parse_receipt, read_record, sign_receipt
from embrasure.wire.mirror_pb2 import Post
from gateway import tables
from gateway.carriers import Carriers, Place
from gateway.collect import open_post
from gateway.database import Database
from gateway.receipts import check_receipt, keep, last_number, read_log
from tests.ablation import Ablation
from tests.simulate.nodes import SimNode
from tests.simulate.rollouts import make_nodes, plan_for

if TYPE_CHECKING:
    from gateway.parts import EngineParts
    from gateway.steering import Steering

AT = datetime(2030, 1, 1, 12, tzinfo=UTC)
COLLECT = PrivateKey(bytes(range(32)))
NODES = make_nodes(3, pull=(0, 1, 2))
PLAN = plan_for(NODES)
ENTRIES = {node.receipt_id: node.entry() for node in NODES}
BODY = SealedBox(COLLECT.public_key).encrypt(
    sodium_pad(canonical.canonical({"v": 1, "state": "x", "reason": "r", "log": "l"}), 1024)
)


def signed_by(node: SimNode, /, body: bytes = BODY, **changes: Any) -> bytes:
    return node.receipt(PLAN, 0, at=AT, body=sha256(body).digest(), **changes)


def post_of(
    node: SimNode,
    /,
    *,
    signed: bytes | None = None,
    header_by: SimNode | None = None,
    to: PrivateKey = COLLECT,
    **changes: Any,
) -> Post:
    """An honest post of `node`, unless told otherwise."""
    signed = signed or signed_by(node)
    sealed = SealedBox(to.public_key).encrypt(signed + BODY)
    rseq = read_record(signed[:256]).rseq
    fields: dict[str, Any] = {"node": node.id, "epoch": node.epoch, "rseq": rseq, **changes}
    header = seal_post(sealed, **fields, signer=post_signer((header_by or node).signing))
    return Post(key=node.receipt_id, rseq=rseq, header=header, body=sealed)


def test_an_honest_post_gives_its_receipt() -> None:
    told = open_post(post_of(NODES[0]), ENTRIES, COLLECT)
    assert (told.receipt.node, told.key, told.body) == (NODES[0].id, NODES[0].receipt_id, BODY)
    assert read_log(told.body, [COLLECT]) == {"state": "x", "reason": "r", "log": "l"}


def test_a_post_of_nobody_and_of_a_retired_node_is_refused() -> None:
    stranger = make_nodes(4)[3]
    retired = msgspec.structs.replace(NODES[0].entry(), state="retired")
    for node, entries in ((stranger, ENTRIES), (NODES[0], {NODES[0].receipt_id: retired})):
        with pytest.raises(Refused) as found:
            open_post(post_of(node), entries, COLLECT)
        assert found.value.reason == "not-mine"


@pytest.mark.parametrize(
    "post",
    [
        post_of(NODES[0], header_by=NODES[1]),
        post_of(NODES[0], rseq=99),
        post_of(NODES[0], epoch=2),
        post_of(NODES[0], node=NODES[1].id),
        post_of(NODES[0], to=PrivateKey.generate()),
        post_of(NODES[0], signed=signed_by(NODES[1])),
        post_of(NODES[0], signed=signed_by(NODES[0], epoch=2)),
        post_of(NODES[0], signed=signed_by(NODES[0], node=NODES[1].id)),
        post_of(NODES[0], signed=signed_by(NODES[0], body=b"another body")),
        Post(key=NODES[0].receipt_id, rseq=1, header=b"{}", body=b""),
        Post(key="../../keys", rseq=1, header=b"", body=b""),
    ],
    ids=[
        "header of another key", "another slot", "another epoch", "another node", "another seal",
        "receipt of another key", "receipt of another epoch", "receipt naming another node",
        "receipt over another body", "no header", "a path as key",
    ],
)  # fmt: skip
def test_a_forged_post_is_refused(post: Post) -> None:
    with pytest.raises(Refused):
        open_post(post, ENTRIES, COLLECT)


def test_a_body_moved_under_another_header_is_refused() -> None:
    first, second = post_of(NODES[0]), post_of(NODES[0])
    mixed = Post(key=first.key, rseq=first.rseq, header=first.header, body=second.body)
    with pytest.raises(Refused) as found:
        open_post(mixed, ENTRIES, COLLECT)
    assert found.value.reason == "bad-hash"


@pytest.mark.misuse
def test_without_the_headers_signature_anybody_posts_in_a_nodes_name(
    ablation: Ablation,
) -> None:
    # The forger has no key of the node; he re-posts a true receipt under a header of his own.
    forged = post_of(NODES[0], header_by=NODES[1])
    with pytest.raises(Refused):
        open_post(forged, ENTRIES, COLLECT)

    def unverified(raw: bytes, keys: object) -> tuple[PostHeader, str]:
        import base64

        envelope = msgspec.json.decode(raw)
        payload = base64.b64decode(envelope["payload"])
        return msgspec.json.decode(payload, type=PostHeader), ""

    with ablation("the signature of the header") as attack:
        attack.without("gateway.collect.parse_post_header", unverified)
        attack.succeeded(open_post(forged, ENTRIES, COLLECT).receipt.node == NODES[0].id)


@pytest.mark.misuse
def test_without_the_receipts_signature_a_thief_of_nothing_makes_evidence(
    ablation: Ablation,
) -> None:
    true = parse_receipt(signed_by(NODES[0]), NODES[0].receipt_public)
    forged = sign_receipt(replace(true, rseq=77), NODES[1].signing)
    with pytest.raises(Refused):
        check_receipt(forged, BODY, NODES[0].entry())
    with ablation("the signature of the receipt") as attack:
        attack.without("gateway.receipts.parse_receipt", lambda s, _: read_record(s[:256]))
        attack.succeeded(check_receipt(forged, BODY, NODES[0].entry()).receipt.rseq == 77)


@given(st.binary(max_size=400), st.binary(max_size=400), st.binary(max_size=64))
def test_random_posts_raise_refused_only(header: bytes, body: bytes, key: bytes) -> None:
    for name in (NODES[0].receipt_id, key.hex()):
        with pytest.raises(Refused):
            open_post(Post(key=name, rseq=1, header=header, body=body), ENTRIES, COLLECT)


@given(st.binary(max_size=2000))
def test_a_log_of_random_bytes_is_no_log(body: bytes) -> None:
    assert read_log(body, [COLLECT]) == {}
    assert read_log(SealedBox(COLLECT.public_key).encrypt(body), [COLLECT]) == {} or body


# --- keeping -----------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "state")
    yield found
    found.close()


def stored(database: Database, node: SimNode, signed: bytes) -> tuple[bool, list[str]]:
    told = check_receipt(signed, BODY, node.entry())
    with database.write() as connection:
        return keep(connection, told, rollout="", at="2030-01-01T12:00:00Z")


def test_a_receipt_is_kept_once_and_its_chain_is_followed(database: Database) -> None:
    node = make_nodes(1)[0]
    first = signed_by(node)
    second = signed_by(node, previous=chain_hash(first))
    assert stored(database, node, first) == (True, [])
    assert stored(database, node, second) == (True, [])
    assert stored(database, node, first) == (False, [])
    with database.write() as connection:
        number = last_number(connection, key=node.receipt_id, plan=PLAN_DIGEST)
    assert number == 2


PLAN_DIGEST = read_record(signed_by(make_nodes(1)[0])[:256]).plan.hex()


def test_a_gap_a_broken_chain_and_a_fork_are_told(database: Database) -> None:
    node = make_nodes(1)[0]
    first = signed_by(node)
    node.rseq = 2
    third = signed_by(node)
    node.rseq = 1
    second = signed_by(node, previous=bytes(32))
    node.rseq = 0
    copy = signed_by(node, took_s=9)
    assert stored(database, node, first) == (True, [])
    assert stored(database, node, third) == (True, ["receipt 2 is missing"])
    assert stored(database, node, second)[1] == ["receipt 2 does not follow the one before it"]
    # A copied node signs another record under a number that is taken: told, never stored.
    assert stored(database, node, copy) == (False, ["two receipts numbered 1"])
    kept = database.all(select(tables.receipts.c.signed).where(tables.receipts.c.rseq == 1))
    assert [bytes(row.signed) for row in kept] == [first]


# --- one breached node, every other letterbox --------------------------------------------------


@pytest.mark.misuse
@pytest.mark.parametrize("rseq", [2**63, 2**64 - 1])
def test_a_receipt_number_that_no_row_can_hold_is_refused(
    rseq: int, database: Database, ablation: Ablation
) -> None:
    node = NODES[0]
    signed = signed_by(node, rseq=rseq)
    with pytest.raises(Refused) as caught:
        check_receipt(signed, BODY, node.entry())
    assert caught.value.reason == "limit"
    with ablation("the bound of the number") as attack:
        # What it did: no typed error, and its order stayed without an end.
        attack.without("gateway.receipts.check_number")
        told = check_receipt(signed, BODY, node.entry())
        with pytest.raises(OverflowError) as broken, database.write() as connection:
            keep(connection, told, rollout="", at="now")
        attack.succeeded(broken.value)


def test_a_letterbox_whose_task_died_is_served_again(monkeypatch: pytest.MonkeyPatch) -> None:
    place, begun = Place("letterbox", "l1", "dev", "127.0.0.1:1"), list[int]()

    async def dies(self: Carriers, place: Place) -> None:
        begun.append(len(begun))
        if len(begun) == 1:
            raise OverflowError("a surprise")
        await asyncio.sleep(5)

    monkeypatch.setattr(Carriers, "_serve", dies)
    monkeypatch.setattr(Carriers, "_places", lambda self: [place])

    async def main() -> None:
        carriers = Carriers(cast("EngineParts", None), cast("Steering", None))
        for _ in range(3):
            await carriers.tick()
            await asyncio.sleep(0.01)
        assert begun == [0, 1]
        await carriers.close()

    asyncio.run(main())
