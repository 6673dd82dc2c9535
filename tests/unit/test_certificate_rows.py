"""The inventory of listeners' certificates: when one is due, how long one that fails is left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.errors import Refused, Unavailable
from gateway import certificate_rows as inventory
from gateway.certificate_rows import Held
from gateway.database import Database
from gateway.renewals import check_boot, is_gone
from tests.simulate.authority import Authority
from tests.simulate.nodes import SimNode, fixed_node_id

AT = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)
WEEK = timedelta(days=7)
NODE = ("node", fixed_node_id(1), "dev")


def held(**changed: object) -> Held:
    values: dict[str, object] = {
        "kind": "node", "name": NODE[1], "env": "dev", "serial": "ab", "not_before": AT,
        "not_after": AT + WEEK, "seen": AT,
    }  # fmt: skip
    return Held(**{**values, **changed})  # type: ignore[arg-type]  # members by name


def test_rows_are_kept_by_listener_and_forgotten(tmp_path: Path) -> None:
    database = Database(tmp_path)
    mirror = held(kind="mirror", name="m1", env="prod")
    for row in (held(), mirror, held(serial="cd")):
        inventory.save(database, row)
    assert inventory.listed(database) == {NODE: held(serial="cd"), mirror.key: mirror}
    assert list(inventory.listed(database, "prod")) == [mirror.key]
    inventory.forget(database, [NODE])
    assert list(inventory.listed(database)) == [mirror.key]
    assert mirror.as_json()["not_after"] == "2026-11-30T04:00:00Z"
    database.close()


@given(st.binary(max_size=20))
def test_a_renewal_is_due_at_a_third_of_the_life_ten_percent_about(serial: bytes) -> None:
    due = held(serial=serial.hex()).due()
    assert due is not None
    assert WEEK / 3 * 0.9 <= due - AT <= WEEK / 3 * 1.1
    # The same serial is always due at the same moment; more than four days are left for it.
    assert due == held(serial=serial.hex()).due()
    assert AT + WEEK - due > timedelta(days=4)


def test_serials_spread_over_the_jitter() -> None:
    dues = {held(serial=f"{number:x}").due() for number in range(200)}
    assert len(dues) > 100


def test_what_was_never_seen_is_due_at_once_and_shown_as_nothing() -> None:
    row = Held(kind="node", name="x", env="dev")
    assert row.due() is None and row.rests_until() is None
    assert row.as_json()["not_after"] == row.as_json()["renews"] == ""


def test_one_that_fails_is_asked_less_and_less_up_to_once_an_hour() -> None:
    row, pauses = held(), []
    for _ in range(9):
        row = inventory.failed(row, "no answer", at=AT)
        until = row.rests_until()
        assert until is not None
        pauses.append((until - AT).total_seconds())
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert (row.serial, row.failing, row.failures) == ("ab", AT, 9)


def test_two_days_of_failures_are_an_alarm_once() -> None:
    late = timedelta(seconds=limits.RENEWAL_LATE_SECONDS)
    before = inventory.failed(held(), "x", at=AT)
    assert not inventory.is_alarming(held(), before)
    after = inventory.failed(before, "x", at=AT + late)
    assert inventory.is_alarming(before, after)
    assert not inventory.is_alarming(after, inventory.failed(after, "x", at=AT + 2 * late))
    assert not inventory.is_alarming(before, held())


def test_a_leaf_is_written_down_as_it_was_shown() -> None:
    authority = Authority()
    leaf = authority.leaf("node", NODE[1]).certificate
    row = inventory.seen(NODE, leaf, at=AT)
    assert row.serial == f"{leaf.serial_number:x}" and row.not_after == leaf.not_valid_after_utc
    assert len(row.issuer) == 40
    assert inventory.seen(NODE, authority.root.certificate, at=AT).issuer == ""


def test_only_who_is_dialled_no_more_is_forgotten() -> None:
    assert is_gone(None)
    assert is_gone(Refused("x", expected="", got="", reason="not-enrolled"))
    assert not is_gone(Unavailable("x", expected="", got=""))


def test_a_pull_node_and_silence_are_not_recovered() -> None:
    entry = SimNode(id=NODE[1], mode="pull").entry()
    with pytest.raises(Refused):
        check_boot(entry, None, address="127.0.0.1:9")
    with pytest.raises(Refused):
        check_boot(None, None, address="127.0.0.1:9")
    push = SimNode(id=NODE[1], boot_cert="0" * 64).entry()
    with pytest.raises(Unavailable):
        check_boot(push, None, address="127.0.0.1:9")
    with pytest.raises(Refused) as told:
        check_boot(push, Authority().leaf("node", NODE[1]).certificate, address="127.0.0.1:9")
    assert told.value.reason == "boot-certificate"
