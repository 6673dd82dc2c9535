"""Executable twins of blobs: durable before they have a name, and dropped when their bytes change.

The app's user is not root, so that files of a release are second names of blobs and twins; in
memory, where nothing shares blocks.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embrasure import fsops
from embrasure.bundle.twins import TWIN, Twins
from embrasure.fs import Folder
from embrasure.trust.canonical import sha256_hex
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller
from tests.simulate.order import Order
from tests.simulate.sweep_install import small
from tests.simulate.trees import room

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SAME = b"same in all\n"


@pytest.fixture
def owned() -> Iterator[SimInstaller]:
    """A node on which version 1.0 of an app with a user of its own is committed."""
    with room() as top:
        made = SimInstaller(top, inner=True, owned=True)
        made.publish(release=small(made, "1.0"))
        assert made.poll() == "committed"
        yield made
        made.close()


def twin_of(bench: SimInstaller, data: bytes) -> Path:
    digest = sha256_hex(data)
    return bench.paths.blobs / digest[:2] / f"{digest}{TWIN}"


def spoil(path: Path, data: bytes) -> None:
    """The file of this name has these bytes and its mode; other names keep what they had."""
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)


def names_of(bench: SimInstaller, version: str) -> dict[str, int]:
    """Return how many names each file of the code has, in the release that is linked."""
    code = bench.paths.current(bench.app) / "code/lib"
    assert bench.ask() == version
    return {path.name: path.stat().st_nlink for path in (code / "b.py", code / "deep/a.py")}


def test_what_may_be_run_is_a_second_name_of_a_twin(owned: SimInstaller) -> None:
    assert names_of(owned, "1.0") == {"b.py": 2, "a.py": 2}
    owned.publish(release=small(owned, "2.0"))
    assert owned.poll() == "committed"
    assert names_of(owned, "2.0") == {"b.py": 3, "a.py": 2}
    assert not list((owned.paths.blobs / ".partial").iterdir())


SPOILT = {"rotted": SAME[::-1], "empty": b"", "zeros": bytes(len(SAME))}


@pytest.mark.misuse
@pytest.mark.parametrize("bad", SPOILT.values(), ids=SPOILT)
def test_a_twin_with_other_bytes_costs_one_attempt(
    owned: SimInstaller, bad: bytes, ablation: Ablation
) -> None:
    twin = twin_of(owned, SAME)
    spoil(twin, bad)
    owned.publish(release=small(owned, "2.0"))
    with ablation("the look at twins when bytes are not those of their name") as attack:
        attack.without("node.install._forget_damaged")
        polls = [owned.poll() for _ in range(3)]
        attack.succeeded(set(polls) == {"rejected fetch"} and twin.read_bytes() == bad)
    assert owned.poll() == "rejected fetch"
    assert not twin.exists()
    assert owned.poll() == "committed"
    assert twin.read_bytes() == SAME
    assert names_of(owned, "2.0")["b.py"] == 2, "the old release keeps its own"


def rot(twin: Path) -> None:
    """The blob has other bytes, and no twin yet."""
    twin.unlink()
    spoil(twin.with_suffix(""), SAME[::-1])


@pytest.mark.misuse
def test_no_twin_is_made_of_a_rotted_blob(owned: SimInstaller, ablation: Ablation) -> None:
    """Nobody reads a new twin back: its bytes are hashed as they are copied."""
    twin, file = twin_of(owned, SAME), owned.paths.current(owned.app) / "code/lib/b.py"
    rot(twin)
    owned.publish(release=small(owned, "2.0"))
    assert [owned.poll(), owned.poll()] == ["rejected fetch", "committed"]
    assert file.read_bytes() == twin.read_bytes() == SAME
    rot(twin)
    owned.publish(release=small(owned, "3.0"))
    with ablation("the hash of a twin that is made") as attack:
        attack.without("embrasure.bundle.twins.check_made")
        attack.succeeded(owned.poll() == "committed" and file.read_bytes() == SAME[::-1])


def test_a_good_twin_of_a_rotted_blob_goes_with_it(owned: SimInstaller) -> None:
    twin = twin_of(owned, SAME)
    spoil(twin.with_suffix(""), SAME[::-1])
    assert not owned.acceptor._ground.blobs.keep_good(sha256_hex(SAME))
    assert not twin.exists()
    assert not twin.with_suffix("").exists()


# --- The order -----------------------------------------------------------------------------------


def early(bench: SimInstaller, version: str) -> list[str]:
    """Return what came too early in an upgrade to `version`."""
    bench.publish(release=small(bench, version))
    order = Order()
    with fsops.watched(order):
        assert bench.poll() == "committed"
        order.told("the answer")
    return order.wrong


def named_at_once() -> Callable[..., tuple[Folder, str] | None]:
    """Return `Twins.lend` that names a twin as soon as it is made."""
    real = Twins.lend

    def lend(self: Twins, digest: str, shelf: Folder) -> tuple[Folder, str] | None:
        found = real(self, digest, shelf)
        self.__exit__(None, None, None)
        return (shelf, digest + TWIN) if found else None

    return lend


@pytest.mark.misuse
def test_a_twin_has_no_name_before_it_is_on_disk(owned: SimInstaller, ablation: Ablation) -> None:
    assert early(owned, "2.0") == []
    with ablation("the name of a twin behind the sync of its release") as attack:
        attack.without("embrasure.bundle.twins.Twins.lend", named_at_once())
        lines = early(owned, "3.0")
        attack.succeeded([line for line in lines if f"{TWIN} is named before" in line])


class Syncs:
    """Counts the syncs."""

    def __init__(self) -> None:
        self.count = 0

    def before(self, op: fsops.Op) -> int | None:
        self.count += op.call in ("fsync", "syncfs")
        return None

    def after(self, op: fsops.Op, result: int) -> None:
        pass


def test_many_twins_cost_no_sync_of_their_own(owned: SimInstaller) -> None:
    counts = []
    for version, more in (("2.0", 0), ("3.0", 48)):  # a quarter of them may be run
        owned.publish(release=small(owned, version, more=more))
        syncs = Syncs()
        with fsops.watched(syncs):
            assert owned.poll() == "committed"
        counts.append(syncs.count)
    assert len(list(owned.paths.blobs.rglob(f"*{TWIN}"))) >= 12
    assert counts[1] <= counts[0] + 3, "of the blobs' folders: one syncfs for more than eight"
