"""Publication to a mirror that lies: it may lack files, and it may not ask for any it likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from embrasure.errors import Refused, Unavailable
from embrasure.net.authorize import Table
from embrasure.net.credentials import Pair, ServerKeys, channel
from embrasure.net.server import Service, bind, build_server
from embrasure.net.trustbundle import TrustHolder
from embrasure.trust import layout
from embrasure.trust.folder import FolderSource
from embrasure.wire import mirror_pb2 as wire
from embrasure.wire import mirror_pb2_grpc
from gateway.mirrors import publish
from gateway.published import TIMESTAMP_FILE, Contents
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.listener import trust_from

AUTHORITY = Authority()
BLOB, SECRET = layout.blob_file("ab" * 32), layout.blob_file("cd" * 32)
FLEET = layout.metadata_file("fleet-dev", 1)
TABLE: Table = {
    f"/embrasure.v1.MirrorIngest/{name}": frozenset({"gateway"})
    for name in ("Missing", "Put", "Publish", "Shown")
}


@dataclass
class LyingMirror:
    """Answers what it is told to; keeps what it got."""

    lacks: list[tuple[str, int]] = field(default_factory=list)
    refuses: bool = False
    got: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    stamps: list[bytes] = field(default_factory=list)

    async def Missing(self, request: wire.MissingRequest, context: Any) -> wire.MissingReply:
        self.asked += request.paths
        return wire.MissingReply(
            lacking=[wire.Lacking(path=path, held=held) for path, held in self.lacks]
        )

    async def Put(self, requests: AsyncIterator[wire.Piece], context: Any) -> wire.PutReply:
        async for piece in requests:
            self.got[piece.path] = self.got.get(piece.path, b"") + piece.body
        return wire.PutReply(held=0)

    async def Publish(self, request: wire.PublishRequest, context: Any) -> wire.PublishReply:
        self.stamps.append(request.timestamp)
        if self.refuses:
            raise Refused("mirror", expected="an honest chain", got="x", reason="rollback")
        return wire.PublishReply(timestamp_version=7)

    async def Shown(self, request: wire.ShownRequest, context: Any) -> wire.ShownReply:
        return wire.ShownReply()


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    for path, data in ((BLOB, b"b" * 2_500_000), (SECRET, b"secret"), (FLEET, b"{}"),
                       (TIMESTAMP_FILE, b"stamp")):  # fmt: skip
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return FolderSource(tmp_path)


CONTENTS = Contents(7, frozenset({BLOB, FLEET, TIMESTAMP_FILE}), frozenset({FLEET, TIMESTAMP_FILE}))


async def run(source: FolderSource, mirror: LyingMirror, *, letterbox_of: str | None = None) -> int:
    leaf, own = AUTHORITY.leaf("mirror", "m1"), AUTHORITY.leaf("gateway", "g1")
    holder = TrustHolder(trust_from(AUTHORITY))
    keys = ServerKeys(Pair(leaf.key_pem, leaf.chain_pem), holder, roles=["gateway"])
    service = wire.DESCRIPTOR.services_by_name["MirrorIngest"]
    server = build_server(
        [Service(service, mirror_pb2_grpc.add_MirrorIngestServicer_to_server, mirror)],
        TABLE, holder,
    )  # fmt: skip
    port = bind(server, "127.0.0.1:0", keys)
    await server.start()
    try:
        async with channel(
            f"127.0.0.1:{port}", role="mirror", name="m1", domain=AUTHORITY.domain,
            issuer_pems=AUTHORITY.issuer_pem("mirror"), key=own.key_pem,
            chain_pem=own.chain_pem,
        ) as line:  # fmt: skip
            return await publish(line, source, CONTENTS, letterbox_of=letterbox_of)
    finally:
        await server.stop(0)


def test_only_what_is_lacking_travels_and_from_the_byte_where_it_broke(
    source: FolderSource,
) -> None:
    mirror = LyingMirror([(BLOB, 2_000_000)])
    assert asyncio.run(run(source, mirror)) == 7
    assert mirror.got == {BLOB: b"b" * 500_000}
    assert (sorted(mirror.asked), mirror.stamps) == (sorted([BLOB, FLEET]), [b"stamp"])


def test_a_letterbox_is_shown_trust_files_only(source: FolderSource) -> None:
    box = LyingMirror([(FLEET, 0), (BLOB, 0)])
    asyncio.run(run(source, box, letterbox_of="dev"))
    assert (box.asked, list(box.got)) == ([FLEET], [FLEET])


@pytest.mark.parametrize("path", [SECRET, "../state/gateway.sqlite", "/etc/passwd", ""])
def test_a_mirror_that_asks_for_other_files_gets_none(source: FolderSource, path: str) -> None:
    mirror = LyingMirror([(path, 0)])
    assert asyncio.run(run(source, mirror)) == 7
    assert mirror.got == {}


@pytest.mark.misuse
def test_without_the_question_before_it_the_answer_names_our_files(
    source: FolderSource, ablation: Ablation
) -> None:
    async def believed(stub: Any, paths: Any) -> list[wire.Lacking]:
        return list((await stub.Missing(wire.MissingRequest(paths=paths))).lacking)

    honest = LyingMirror([(SECRET, 0)])
    asyncio.run(run(source, honest))
    assert honest.got == {}
    with ablation("the comparison with what was asked") as attack:
        attack.without("gateway.mirrors._lacking", believed)
        mirror = LyingMirror([(SECRET, 0)])
        asyncio.run(run(source, mirror))
        attack.succeeded(mirror.got == {SECRET: b"secret"})


def test_a_refusal_of_the_mirror_keeps_its_word(source: FolderSource) -> None:
    with pytest.raises(Refused) as found:
        asyncio.run(run(source, LyingMirror(refuses=True)))
    assert found.value.reason == "rollback"


def test_a_mirror_that_is_not_there_is_unavailable(source: FolderSource) -> None:
    async def course() -> None:
        own = AUTHORITY.leaf("gateway", "g1")
        async with channel(
            "127.0.0.1:9", role="mirror", name="m2", domain=AUTHORITY.domain,
            issuer_pems=AUTHORITY.issuer_pem("mirror"), key=own.key_pem,
            chain_pem=own.chain_pem,
        ) as line:  # fmt: skip
            await publish(line, source, CONTENTS)

    with pytest.raises(Unavailable):
        asyncio.run(course())


def test_a_letterbox_is_given_the_trust_files_of_its_own_environment_only() -> None:
    trust = frozenset(
        {
            "metadata/2.root.json", "metadata/3.targets.json", "metadata/4.snapshot.json",
            "metadata/5.revocations.json", "metadata/6.fleet-prod.json",
            "metadata/7.fleet-staging.json", "targets/fleet/prod/dir/aa.00.json",
            "targets/fleet/staging/bb.policy.json", "targets/revoked/cc.prod.json",
        }
    )  # fmt: skip
    given = Contents(1, trust, trust).trust_of("prod")
    assert trust - given == {
        "metadata/7.fleet-staging.json", "targets/fleet/staging/bb.policy.json"
    }  # fmt: skip
