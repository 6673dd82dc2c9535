"""The gateway's figures for Prometheus, as a file: no listener, and a stopped gateway shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from embrasure.expiry import Item

_LABELS = ("what", "kind", "holder")
_MANY = frozenset({"node"})  # one series for all of them: a fleet has thousands


def exposition(items: Iterable[Item], at: datetime, *, counts: Mapping[str, int]) -> bytes:
    """Return the text exposition of what ends when; counts: name -> how often it happened.

    Every series says the seconds left when it was written, and when that was: a file that nobody
    writes any more is as old as its own clock says.
    """
    registry = CollectorRegistry()
    left = _gauge(registry, "expiry_seconds", "Seconds to the end; below zero after it.", _LABELS)
    window = _gauge(registry, "expiry_window_seconds", "Told this long before the end.", _LABELS)
    states = _gauge(registry, "expiry_items", "Things with an end.", ("kind", "state"))
    written = _gauge(registry, "metrics_written_seconds", "When this was written, Unix time.")
    happened = _gauge(registry, "events_total", "Since the start of the process.", ("what",))
    ends = [item for item in items if item.until is not None]
    for item in _series(ends, at):
        labels = (item.what, item.kind, "*" if item.kind in _MANY else item.holder)
        left.labels(*labels).set(item.left_s(at) or 0)
        window.labels(*labels).set(item.window_s())
    for (kind, state), count in Counter((i.kind, i.state(at)) for i in ends).items():
        states.labels(kind, state).set(count)
    for name, count in counts.items():
        happened.labels(name).set(count)
    written.set(at.timestamp())
    return generate_latest(registry)


def _gauge(
    registry: CollectorRegistry, name: str, text: str, labels: tuple[str, ...] = ()
) -> Gauge:
    return Gauge(name, text, labels, namespace="embrasure", registry=registry)


def _series(items: list[Item], at: datetime) -> list[Item]:
    """Return one item a series: of two with the same labels, the one that ends first."""
    found: dict[tuple[str, str, str], Item] = {}
    for item in sorted(items, key=lambda one: -(one.left_s(at) or 0)):
        found[(item.what, item.kind, "*" if item.kind in _MANY else item.holder)] = item
    return list(found.values())
