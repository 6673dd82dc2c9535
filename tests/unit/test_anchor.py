"""The trust anchor: root version 1, signed by its own threshold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust.anchor import parse_anchor, root_id_of
from tests.ablation import Ablation
from tests.simulate.repository import SimRepository


def edited(raw: bytes, **changes: Any) -> bytes:
    value = json.loads(raw)
    value["signed"].update(changes)
    return json.dumps(value).encode()


def test_a_fleet_is_named_by_what_was_signed_and_not_by_the_signatures() -> None:
    repo = SimRepository(holders=3, threshold=2)
    value = json.loads(repo.anchor)
    assert len(value["signatures"]) == 2
    respelled = json.dumps(value, indent=3).encode()
    assert root_id_of(respelled) == root_id_of(repo.anchor) == repo.root_id
    assert root_id_of(SimRepository().anchor) != repo.root_id
    assert parse_anchor(repo.anchor).signed.version == 1


@pytest.mark.misuse
def test_an_anchor_below_its_own_threshold_is_refused(ablation: Ablation) -> None:
    repo = SimRepository()
    value = json.loads(repo.anchor)
    value["signatures"].pop()
    raw = json.dumps(value).encode()
    with pytest.raises(Refused) as refused:
        parse_anchor(raw)
    assert refused.value.reason == "threshold"
    with ablation("the threshold of the first root") as attack:
        attack.without("tuf.api.metadata.Root.verify_delegate", lambda *a: None)
        attack.succeeded(parse_anchor(raw).signed.version == 1)


def test_anything_else_is_refused() -> None:
    repo = SimRepository()
    repo.touch("root")
    repo.publish()
    cases = [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 50_000,
        repo.files["metadata/timestamp.json"],
        repo.files["metadata/2.root.json"],
        edited(repo.anchor, version=2),
        edited(repo.anchor, version=True),
        edited(repo.anchor, roles={}),
        edited(repo.anchor, expires="tomorrow"),
        edited(repo.anchor, keys=[]),
        b" " * (limits.ROOT_BYTES + 1),
    ]
    for raw in cases:
        with pytest.raises(Refused):
            parse_anchor(raw)
