"""Bad inputs of the node's own machine (`test_bad_input.py`): a disk that changes between check and
use, trust that was taken away, a clock that went on, a disk that is too small.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from embrasure import limits
from embrasure.trust import canonical
from node import tree
from tests.ablation import Ablation
from tests.simulate.badinput import Door, Vector, names_of, of, refused
from tests.simulate.guards import take_away

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with closing(Door(tmp_path_factory.mktemp("door"))) as found:
        yield found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Door]:
    """A door of its own: what is done to it nobody else sees."""
    with closing(Door(tmp_path)) as found:
        yield found


# --- What changes on the disk between two looks --------------------------------------------------


def swapped(door: Door, vector: Vector, patch: pytest.MonkeyPatch) -> Path:
    """When the install gets to the state of the vector, the disk changes once."""
    wish, ground = vector["input"]["swap"], door.bench.acceptor._ground
    real, outside = ground.journal.write, door.paths.prefix / "theirs"

    def write(record: Any) -> None:
        real(record)
        if record.state != wish["at"]:
            return
        if "link" in wish:
            staging = door.paths.releases("shop") / tree.staging_name(record.tx)
            staging.rename(outside / record.tx)
            staging.symlink_to(outside / record.tx)
        elif "owner" in wish:
            staging = door.paths.releases("shop") / tree.staging_name(record.tx)
            os.chown(staging, wish["owner"], wish["owner"])
        else:
            digest = canonical.sha256_hex(wish["data"].encode())
            path = door.paths.blobs / digest[:2] / digest
            path.chmod(0o644)
            path.write_bytes(wish["with"].encode())

    patch.setattr(ground.journal, "write", write)
    return outside


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("swap"))
def test_a_disk_that_changes_between_check_and_use(
    door: Door,
    vector: Vector,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    ablation: Ablation,
) -> None:
    release = door.bench.make("6.6")
    door.publish(release.raw, release)
    with monkeypatch.context() as patch, refused(door, vector, caplog) as say:
        swapped(door, vector, patch)
        say(door.poll())
    door.honest()
    door.publish(release.raw, release)
    with ablation(str(vector["without"]["guard"])) as attack, monkeypatch.context() as patch:
        outside = swapped(door, vector, patch)
        take_away(attack, *names_of(vector))
        assert door.poll() == vector["without"]["then"]
        releases, wish = door.paths.releases("shop"), vector["input"]["swap"]
        match wish:
            case {"link": True}:
                got = [one for one in releases.iterdir() if one.is_symlink()]
                assert all(one.readlink().parent == outside for one in got)
            case {"owner": stranger}:
                got = [one for one in releases.iterdir() if one.stat().st_uid == stranger]
            case _:
                got = [one for one in releases.glob("*/config/mode")
                       if one.read_bytes() == wish["with"].encode()]  # fmt: skip
        attack.succeeded(got)
    for blob in door.paths.blobs.glob(f"*/{canonical.sha256_hex(b'good')}"):
        blob.unlink()
    door.honest()


# --- The node itself -----------------------------------------------------------------------------


def spoil(folder: Path, how: str) -> Callable[[], None]:
    """Do it to the folder or all files in it; return how it is taken back."""
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    if how == "chown":
        os.chown(folder, 54321, 54321)
    else:
        for path in kept:
            path.unlink() if how == "delete" else path.write_bytes(b"")

    def back() -> None:
        os.chown(folder, os.geteuid(), os.getegid())
        if how != "chown":
            for path, raw in kept.items():
                path.write_bytes(raw)
                path.chmod(0o600)

    return back


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("node"))
def test_a_node_whose_trust_was_taken_away(
    own: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    wish = vector["input"]["node"]
    own.bench.publish("6.6")
    back = spoil(getattr(own.paths, wish["path"]), wish["do"])
    with refused(own, vector, caplog) as say:
        say(own.poll())
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        attack.succeeded(own.poll() == vector["without"]["then"])
    back()
    own.honest()


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("clock"))
def test_metadata_that_has_expired(
    own: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    own.bench.publish("6.6")
    old = own.repo.frozen_source()
    own.bench.clock.ahead += timedelta(**vector["input"]["clock"])
    with refused(own, vector, caplog) as say:
        say(own.poll(old))
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        attack.succeeded(own.poll(old) == vector["without"]["then"])
    own.repo.touch(*own.repo.roles)
    own.honest()


# --- Its disk ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount one of so many MiB."""
    where = tmp_path / "disk"
    where.mkdir()

    def mount(mib: int) -> Path:
        options = f"size={mib}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", where], check=True)
        return where

    yield mount
    subprocess.run(["umount", "-l", where], check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("disk"))
def test_a_release_that_is_larger_than_the_disk(
    small_disk: Callable[[int], Path],
    vector: Vector,
    caplog: pytest.LogCaptureFixture,
    ablation: Ablation,
) -> None:
    wish = vector["input"]["disk"]
    disk = small_disk(wish["mib"])
    with closing(Door(disk)) as door:
        data = bytes(wish["length"])
        release = door.bench.make("6.6", files={wish["path"]: data})
        door.publish(release.raw, release)
        with refused(door, vector, caplog) as say:
            say(door.poll())
        held = door.paths.blobs / ".partial" / canonical.sha256_hex(data)
        assert not held.exists(), "nothing of it was asked for"
        door.honest()
        door.publish(release.raw, release)
        with ablation(str(vector["without"]["guard"])) as attack:
            take_away(attack, *names_of(vector))
            assert door.poll() == vector["without"]["then"]
            record = door.bench.acceptor._ground.journal.read("shop").record
            assert record is not None and vector["without"]["behind"] in record.detail
            found = os.statvfs(disk)
            attack.succeeded(
                held.stat().st_size > found.f_blocks * found.f_frsize * 9 // 10
                and found.f_bavail * found.f_frsize <= 2 * limits.MIB  # and the ballast is in it
            )
        held.unlink()
        door.honest()
