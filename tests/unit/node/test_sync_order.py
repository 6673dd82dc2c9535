"""No name, no switch and no word to anybody stands for what a power cut could still take away.

The same order is looked at in every scene of the crash sweep: a kill loses no writes, so a sweep of
kills alone could not see that a sync is missing. Each guard here is one sync less.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from embrasure import fsops
from embrasure.fs import Folder
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller, Told
from tests.simulate.order import Order
from tests.simulate.sweep_install import small


class Telling(Told):
    """Every word that goes out is a moment at which all must be on disk."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self._order = order

    def receipt(self, signed: bytes, body: bytes) -> None:
        self._order.told("a receipt")


@pytest.fixture
def bench(tmp_path: Path) -> SimInstaller:
    made = SimInstaller(tmp_path, inner=True)
    made.publish(release=small(made, "1.0"))
    assert made.poll() == "committed"
    return made


def early(bench: SimInstaller, version: str, mode: str = "good") -> list[str]:
    """Return what came too early in an upgrade to `version`, which is told."""
    bench.publish(release=small(bench, version, mode))
    order = Order()
    with fsops.watched(order):
        answer = bench.acceptor.poll(bench.source(), Telling(order))[0]
        order.told("the answer")
    assert answer.kind == ("committed" if mode == "good" else "rolled_back")
    return order.wrong


def test_nothing_comes_too_early_forward_and_back(bench: SimInstaller) -> None:
    assert early(bench, "2.0") == []
    assert early(bench, "3.0", "crash") == []
    bench.close()


Sync = Callable[[Folder], None]


def without(method: str, name: str) -> Sync:
    """Return the sync of a folder that does nothing for the folders called `name`."""
    real: Sync = getattr(Folder, method)

    def sync(self: Folder) -> None:
        if self.path.name != name and not self.path.name.startswith(f"{name}-"):
            real(self)

    return sync


@pytest.mark.misuse
@pytest.mark.parametrize(
    ("method", "folder", "seen"),
    [
        ("syncfs", ".tmp", "is named before"),
        ("syncfs", ".partial", "is named before"),
        ("fsync", "releases", "the switch comes before"),
        ("fsync", "shop", "is told before"),
        ("fsync", "journal", "is told before"),
        ("fsync", "outbox", "is told before"),
        ("fsync", "floors", "is told before"),
    ],
)
def test_one_sync_less_is_seen(
    bench: SimInstaller, method: str, folder: str, seen: str, ablation: Ablation
) -> None:
    assert early(bench, "2.0") == []
    with ablation(f"the {method} of {folder}") as attack:
        attack.without(f"embrasure.folder.Folder.{method}", without(method, folder))
        attack.succeeded([line for line in early(bench, "3.0") if seen in line])
    bench.close()


@pytest.mark.misuse
def test_a_file_that_is_not_synced_before_its_name_is_seen(
    bench: SimInstaller, ablation: Ablation
) -> None:
    assert early(bench, "2.0") == []
    with ablation("the sync of a file before its rename") as attack:
        write = Folder.write
        attack.without("embrasure.folder.Folder.write",
                       lambda *args, **how: write(*args, **{**how, "synced": False}))  # fmt: skip
        lines = early(bench, "3.0")
        attack.succeeded([line for line in lines if "/journal/shop.json is named" in line])
    bench.close()
