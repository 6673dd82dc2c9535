"""Uploads and addresses: bounded, hashed, resumable; and no right comes with either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from embrasure import limits
from embrasure.bundle.store import BlobStore
from embrasure.errors import Denied, EmbrasureError, Misuse, Refused
from embrasure.trust.canonical import sha256_hex
from embrasure.wire import admin_pb2 as wire
from gateway import uploads
from gateway.addresses import addresses_of, set_address
from gateway.people import People
from tests.ablation import Ablation
from tests.simulate.gateway import SimGateway
from tests.simulate.repository import SimRepository

DATA = b"0123456789" * 100
NAME = sha256_hex(DATA)


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[BlobStore]:
    store = BlobStore(tmp_path / "blobs")
    yield store
    store.close()


def send(blobs: BlobStore, *pieces: wire.Upload) -> int:
    async def stream() -> AsyncIterator[wire.Upload]:
        for piece in pieces:
            yield piece

    return asyncio.run(uploads.receive(blobs, stream()))


def first(**changes: object) -> wire.Upload:
    fields: dict[str, object] = {"sha256": NAME, "length": len(DATA), "offset": 0, "body": DATA}
    return wire.Upload(**(fields | changes))  # type: ignore[arg-type]  # protobuf's own types


def wanted(blobs: BlobStore) -> list[tuple[str, int]]:
    asked = wire.BlobList(blobs=[wire.Blob(sha256=NAME, length=len(DATA))])
    return [(blob.sha256, blob.held) for blob in uploads.missing(blobs, asked).blobs]


def test_a_blob_in_pieces_is_whole_and_again_is_nothing_new(blobs: BlobStore) -> None:
    assert wanted(blobs) == [(NAME, 0)]
    rest = [wire.Upload(body=DATA[n : n + 100]) for n in range(100, len(DATA), 100)]
    assert send(blobs, first(body=DATA[:100]), *rest) == len(DATA)
    assert wanted(blobs) == []
    assert send(blobs, first(body=b"anything")) == len(DATA)
    blobs.sync()
    assert b"".join(blobs.read(NAME)) == DATA


def test_a_cut_upload_says_how_far_it_came(blobs: BlobStore) -> None:
    with pytest.raises(EmbrasureError):
        send(blobs, first(body=DATA[:300]))
    assert wanted(blobs) == [(NAME, 300)]
    with pytest.raises(Refused) as caught:
        send(blobs, first(offset=200, body=DATA[200:]))
    assert caught.value.reason == "bad-offset"
    assert send(blobs, first(offset=300, body=DATA[300:])) == len(DATA)


@pytest.mark.misuse
def test_other_bytes_than_the_named_ones_are_not_kept(blobs: BlobStore, ablation: Ablation) -> None:
    evil = first(body=b"x" * len(DATA))
    with pytest.raises(Refused):
        send(blobs, evil)
    assert wanted(blobs) == [(NAME, 0)]
    with ablation("the hash of what came") as attack:
        attack.without(
            "embrasure.bundle.incoming.BlobWriter.commit",
            lambda writer: writer._store._add_pending(writer),
        )
        send(blobs, evil)
        attack.succeeded(blobs.path(NAME).read_bytes() == b"x" * len(DATA))


@pytest.mark.parametrize("lie", ["too long", "too large", "no name", "a path"])
def test_what_is_not_the_named_blob_is_not_kept(lie: str, blobs: BlobStore) -> None:
    piece = {
        "too long": first(body=DATA + b"x"),
        "too large": first(length=limits.FILE_BYTES + 1),
        "no name": first(sha256=""),
        "a path": first(sha256="../" * 10 + "etc/passwd"),
    }[lie]
    with pytest.raises(EmbrasureError):
        send(blobs, piece)
    assert [name for name, _ in wanted(blobs)] == [NAME]


def test_an_upload_without_a_first_piece_is_refused(blobs: BlobStore) -> None:
    with pytest.raises(Refused):
        send(blobs)


# --- addresses and people ------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[SimGateway]:
    sim = SimRepository()
    sim.add_app("shop")
    sim.publish()
    opened = SimGateway(tmp_path / "gateway", sim)
    yield opened
    opened.close()


def say(gateway: SimGateway, **fields: str) -> dict[str, object]:
    known = {"kind": "mirror", "env": "dev", "name": "m1", "address": "127.0.0.1:1"}
    request = wire.AddressRequest(**(known | fields))
    return set_address(gateway.database, gateway.journal, request, person="anna")


def test_an_address_is_set_changed_and_forgotten(gateway: SimGateway) -> None:
    say(gateway)
    say(gateway, address="127.0.0.1:2")
    assert addresses_of(gateway.database, "dev") == {("mirror", "m1"): "127.0.0.1:2"}
    say(gateway, address="")
    assert addresses_of(gateway.database, "dev") == {}
    assert gateway.journal.open_intents() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "node; drop"},
        {"kind": "node", "name": "n-nobody"},
        {"env": "Prod"},
        {"name": "../m"},
        {"address": "unix:/x"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_an_address_of_nothing_is_refused(fields: dict[str, str], gateway: SimGateway) -> None:
    with pytest.raises(Misuse):
        say(gateway, **fields)


def test_a_person_is_whom_a_verified_policy_lists(gateway: SimGateway) -> None:
    people = People(gateway.repository)
    assert people.check("anna") == people.check("anna", "dev") == "anna"
    assert people.environments("anna") == ["dev"]
    for name, env in (("mallory", ""), ("anna", "prod"), ("", "")):
        with pytest.raises(Denied):
            people.check(name, env)
    gateway.sim.set_policy(people=())
    gateway.sim.publish()
    from gateway.adopt import adopt
    from tests.simulate.gateway import trust_files

    adopt(gateway.repository, trust_files(gateway.sim), force=False)
    with pytest.raises(Denied):
        people.check("anna")
