"""The metrics file: what a collector reads, and how many series a large fleet makes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from embrasure.expiry import Item
from gateway.metrics import exposition

AT = datetime(2026, 11, 27, tzinfo=UTC)


def item(kind: str, holder: str, left: int | None) -> Item:
    until = None if left is None else AT + timedelta(seconds=left)
    return Item(
        kind=kind, what=f"certificate {kind}", name=holder, holder=holder, until=until,
        life_s=604800, command="c", place="p",
    )  # fmt: skip


def series(items: list[Item], **counts: int) -> dict[tuple[str, tuple[str, ...]], float]:
    text = exposition(items, AT, counts=counts).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_all_nodes_share_one_series_that_ends_first() -> None:
    items = [item("node", f"node/n-{number}", 1000 + number) for number in range(500)]
    found = series([*items, item("mirror", "mirror/m1", -5)])
    left = {labels: v for (name, labels), v in found.items() if name == "embrasure_expiry_seconds"}
    assert left == {
        ("*", "certificate node", "node"): 1000,
        ("certificate mirror", "mirror", "mirror/m1"): -5,
    }
    assert found[("embrasure_expiry_items", ("expiring", "node"))] == 500
    assert found[("embrasure_expiry_items", ("expired", "mirror"))] == 1


def test_of_two_with_one_name_the_first_to_end_counts() -> None:
    found = series([item("mirror", "mirror/m1", 900), item("mirror", "mirror/m1", 30)])
    assert found[("embrasure_expiry_seconds", ("certificate mirror", "mirror", "mirror/m1"))] == 30


def test_counts_and_the_time_of_writing_are_there_without_any_item() -> None:
    found = series([item("key", "node/n", None)], login_refused=3)
    assert found[("embrasure_events_total", ("login_refused",))] == 3
    assert found[("embrasure_metrics_written_seconds", ())] == AT.timestamp()
    assert not [name for name, _ in found if name == "embrasure_expiry_seconds"]


@given(st.text(max_size=60))
def test_any_name_stays_one_label(holder: str) -> None:
    found = series([item("mirror", holder, 5)])
    labels = [labels for name, labels in found if name == "embrasure_expiry_seconds"]
    assert labels == [tuple(sorted(("certificate mirror", "mirror", holder)))]
