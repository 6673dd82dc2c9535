"""Killed at every operation: a file is the old or the new one, a blob is whole or not there.

A child process counts the system calls that change the disk and kills itself at the n-th; what it
left is read by this process. (That the disk keeps what was synced is the file system's part.)
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from embrasure import fs
from embrasure.bundle.store import BlobStore
from tests.ablation import Ablation

# Runs `act` in a process that ends by SIGKILL just before the n-th call that changes the disk.
CHILD = """
import hashlib, os, signal, sys
from pathlib import Path
from embrasure import fs, kernel
from embrasure.bundle.store import BlobStore

folder, kill_at = Path(sys.argv[2]), int(sys.argv[3])
count = 0

def counted(function):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

for name in ("write", "fsync", "rename", "fchmod", "unlink", "mkdir", "link", "close"):
    setattr(os, name, counted(getattr(os, name)))
for name in ("open_inside", "rename_new", "syncfs", "reserve"):
    setattr(kernel, name, counted(getattr(kernel, name)))

def replace():
    fs.replace_file(folder, "f", b"new" * 1000)

def create():
    fs.create_file(folder, "g", b"new" * 1000)

def careless():
    with open(folder / "f", "wb", buffering=0) as file:
        os.write(file.fileno(), b"new" * 500)
        os.write(file.fileno(), b"new" * 500)

def blobs():
    store = BlobStore(folder / "blobs")
    for number in range(3):
        data = bytes([number]) * 1000
        with store.writer(hashlib.sha256(data).hexdigest(), length=len(data)) as writer:
            writer.write(data[writer.offset:500])
            writer.write(data[writer.offset:])
            writer.commit()
    store.sync()
    store.close()

globals()[sys.argv[1]]()
print(count)
"""


def killed(act: str, folder: Path, at: int) -> int | None:
    """Return how many operations the act took, or None when it was killed before its end."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, act, str(folder), str(at)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    if done.returncode == -9:
        return None
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def old_file(folder: Path) -> None:
    folder.mkdir()
    fs.replace_file(folder, "f", b"old" * 1000)


def test_a_file_that_is_replaced_is_old_or_new_after_every_crash(tmp_path: Path) -> None:
    old_file(tmp_path / "whole")
    steps = killed("replace", tmp_path / "whole", 0)
    assert steps is not None and steps >= 6
    seen = set()
    for at in range(1, steps + 1):
        folder = tmp_path / str(at)
        old_file(folder)
        assert killed("replace", folder, at) is None
        seen.add((folder / "f").read_bytes())
        assert killed("replace", folder, 0) is not None, "a crash must not block the next try"
        assert (folder / "f").read_bytes() == b"new" * 1000
    assert seen == {b"old" * 1000, b"new" * 1000}


def test_a_file_that_is_created_is_whole_or_not_there_after_every_crash(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    steps = killed("create", tmp_path / "whole", 0)
    assert steps is not None
    for at in range(1, steps + 1):
        folder = tmp_path / str(at)
        folder.mkdir()
        assert killed("create", folder, at) is None
        if (folder / "g").exists():
            assert (folder / "g").read_bytes() == b"new" * 1000
        else:
            assert killed("create", folder, 0) is not None


@pytest.mark.misuse
def test_without_the_crash_safe_write_half_a_file_is_left(
    tmp_path: Path, ablation: Ablation
) -> None:
    old_file(tmp_path / "safe")
    assert killed("replace", tmp_path / "safe", 2) is None
    assert (tmp_path / "safe" / "f").read_bytes() in (b"old" * 1000, b"new" * 1000)
    old_file(tmp_path / "f")
    with ablation("the crash-safe write") as attack:
        assert killed("careless", tmp_path / "f", 2) is None
        attack.succeeded((tmp_path / "f" / "f").read_bytes() == b"new" * 500)


def test_a_blob_has_its_name_only_when_it_is_whole_and_no_crash_blocks_the_next_try(
    tmp_path: Path,
) -> None:
    (tmp_path / "whole").mkdir()
    steps = killed("blobs", tmp_path / "whole", 0)
    assert steps is not None
    resumed = 0
    for at in range(1, steps + 1, 2):
        folder = tmp_path / str(at)
        folder.mkdir()
        assert killed("blobs", folder, at) is None
        store = BlobStore(folder / "blobs")
        resumed += _check_named(store, folder / "blobs")
        store.close()
        assert killed("blobs", folder, 0) is not None
        assert _check_named(BlobStore(folder / "blobs"), folder / "blobs") == 3
    assert resumed > 0


def _check_named(store: BlobStore, folder: Path) -> int:
    named = list(folder.glob("??/*"))
    for path in named:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        assert b"".join(store.read(path.name)) == path.read_bytes()
    return len(named)
