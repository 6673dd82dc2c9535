"""What ends when: states, windows, and the rows by which every part of the product tells it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure.cli_care import _table
from embrasure.expiry import WINDOWS, Item, certificate_item, role_item, role_kind, told
from tests.simulate.authority import Authority

AT = datetime(2026, 11, 27, tzinfo=UTC)
DAY = 86400


def item(*, kind: str = "node", life: int = 7 * DAY, left: int = DAY) -> Item:
    return Item(
        kind=kind,
        what=kind,
        name="n",
        holder="h",
        until=AT + timedelta(seconds=left),
        life_s=life,
        command="embrasure x",
        place="p",
    )


@pytest.mark.parametrize(
    ("kind", "days"),
    [
        ("ca-root", 180),
        ("issuer", 90),
        ("root", 60),
        ("targets", 60),
        ("approval", 14),
        ("node", 3),
    ],
)
def test_each_kind_is_told_as_long_before_its_end_as_it_takes_to_replace(
    kind: str, days: int
) -> None:
    inside, before = item(kind=kind, left=days * DAY), item(kind=kind, left=days * DAY + 1)
    assert (inside.state(AT), before.state(AT)) == ("expiring", "quiet")
    assert item(kind=kind, left=0).state(AT) == item(kind=kind, left=-1).state(AT) == "expired"


def test_a_gateway_leaf_is_told_eight_hours_before() -> None:
    assert item(kind="gateway", left=8 * 3600).state(AT) == "expiring"
    assert item(kind="gateway", left=8 * 3600 + 1).state(AT) == "quiet"


def test_what_is_asked_for_replaces_the_window_of_all_but_the_short_lived() -> None:
    long, short = item(kind="fleet", life=180 * DAY, left=20 * DAY), item(left=5 * DAY)
    assert long.state(AT) == "expiring"
    assert long.state(AT, 14 * DAY) == "quiet"
    assert short.state(AT, 14 * DAY) == "quiet"  # 7 days are always inside 14
    assert item(left=2 * DAY).state(AT, 14 * DAY) == "expiring"


def test_a_token_that_was_not_used_is_void_and_no_alarm() -> None:
    assert item(kind="token", life=3600, left=-5).state(AT) == "quiet"


def test_a_key_has_no_end_and_is_never_told() -> None:
    key = Item(
        kind="key", what="k", name="n", holder="h", until=None, life_s=0, command="c", place="p"
    )
    assert key.state(AT) == key.state(AT, 400 * DAY) == "quiet"
    assert key.as_json(AT)["not_after"] == ""


def test_people_see_one_line_for_what_two_folders_hold() -> None:
    key = Item(
        kind="key", what="k", name="n", holder="h", until=None, life_s=0, command="c", place="p"
    )
    due = item(left=-5)
    lines = _table([due, key, due, key], [due]).splitlines()
    assert (len(lines), lines[1].strip()) == (4, f"{due.action}: {due.command}")
    assert "keys of 1 nodes" in lines[2] and lines[3] == "1 to do"


@given(st.lists(st.integers(-(10**9), 10**9), max_size=20), st.floats(1, 10**9) | st.none())
def test_what_is_told_is_all_that_is_due_and_the_soonest_comes_first(
    lefts: list[int], asked: float | None
) -> None:
    items = [item(left=left) for left in lefts]
    due = told(items, AT, asked)
    assert [one.left_s(AT) for one in due] == sorted(
        left for left, one in zip(lefts, items, strict=True) if one.state(AT, asked) != "quiet"
    )


def test_a_certificate_is_named_by_its_one_uri() -> None:
    authority = Authority(clock=lambda: AT)
    leaf = certificate_item(authority.leaf("node", "n1").certificate, place="p")
    assert (leaf.kind, leaf.holder, leaf.life_s) == ("node", "node/n1", 7 * DAY)
    issuer = certificate_item(authority.issuers["node"].certificate, place="p")
    top = certificate_item(authority.root.certificate, place="p")
    assert (issuer.kind, top.kind) == ("issuer", "ca-root")


def test_a_strangers_certificate_is_a_row_and_no_error() -> None:
    authority = Authority(clock=lambda: AT)
    for leaf in (
        authority.leaf("node", "n1", san=False),
        authority.leaf("node", "n1", uris=["https://x/\u202e"[:9]]),
        authority.leaf("node", "n1", uris=[]),
    ):
        assert certificate_item(leaf.certificate, place="p").kind == "boot"


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("root", "root"),
        ("fleet-prod", "fleet"),
        ("gates-prod", "gates"),
        ("prod-shop", "approval"),
        ("timestamp", "timestamp"),
    ],
)
def test_a_role_has_the_window_of_its_kind(role: str, kind: str) -> None:
    row = role_item(role, version=3, until=AT, holder="h", place="p")
    assert (role_kind(role), row.window_s()) == (kind, WINDOWS[kind])
