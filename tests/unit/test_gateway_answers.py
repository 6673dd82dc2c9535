"""What a stolen gateway answers to an operator, and what an operator sends with odd numbers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust.folder import FolderSource
from embrasure.wire import admin_pb2 as wire
from gateway import admin
from gateway.client import read_json
from tests.ablation import Ablation

EVIL = "approved\n\nplan sha256:00\x1b[2J\u202e\x9b"


def answer(value: object) -> dict[str, object]:
    return read_json(wire.Json(body=msgspec.json.encode({"state": value})))


@pytest.mark.misuse
def test_no_word_of_the_gateway_is_more_than_one_line(ablation: Ablation) -> None:
    for value in (EVIL, [EVIL], {"x": {EVIL: [EVIL]}}):
        assert str(answer(value)).isprintable()
        assert "\n" not in repr(answer(value)).replace("\\n", "")
    assert answer("dépôt, 3 nodes") == {"state": "dépôt, 3 nodes"}
    assert answer([1, None, True, {"n": 2.5}]) == {"state": [1, None, True, {"n": 2.5}]}
    with ablation("the rendering of outside text") as attack:
        # Without it one status line could carry a second, false proposal above the true one.
        attack.without("gateway.client.plain", lambda value: value)
        attack.succeeded("\n" in str(answer(EVIL)["state"]))


@pytest.mark.parametrize("depth", [500, 5_000, 100_000])
def test_a_deep_answer_is_read_or_refused(depth: int) -> None:
    body = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    try:
        assert set(read_json(wire.Json(body=body))) == {"a"}
    except Refused as problem:
        assert problem.reason == "bad-schema"


@pytest.mark.parametrize("offset", [2**53, 2**63, 2**64 - 1])
def test_a_number_that_no_disk_has_is_refused(offset: int, tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "timestamp.json").write_bytes(b"x")
    source = FolderSource(tmp_path)
    with pytest.raises(Refused) as caught:
        list(source.fetch("metadata/timestamp.json", offset=offset, limit=1))
    assert caught.value.reason == "bad-offset"
    assert list(source.fetch("metadata/timestamp.json", offset=1, limit=1)) == []
    with pytest.raises(Refused):
        admin.number_of(offset)
    assert admin.number_of(limits.MAX_INTEGER) == limits.MAX_INTEGER
