"""The one port to the disk: an observer sees every operation, and can end, fail or shorten it."""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path

import pytest

from embrasure import fsops, kernel
from embrasure.errors import Failed
from embrasure.fs import Folder, lock
from embrasure.fsops import Op


class Notes:
    """Writes down what it sees; `short`: bytes that the first write may take."""

    def __init__(self, *, fail: str = "", short: int | None = None) -> None:
        self.seen: list[str] = []
        self.done: list[str] = []
        self._fail, self._short = fail, short

    def before(self, op: Op) -> int | None:
        self.seen.append(op.call)
        if op.call == self._fail:
            raise OSError(errno.EIO, "Input/output error")
        if op.call == "write":
            short, self._short = self._short, None
            return short
        return None

    def after(self, op: Op, result: int) -> None:
        self.done.append(op.call)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.open(tmp_path)


def test_every_kind_of_operation_is_seen_in_order(folder: Folder) -> None:
    with fsops.watched(notes := Notes()):
        folder.replace("a", b"x")
        folder.mkdir("d", mode=0o755).close()
        folder.symlink("a", "l")
        folder.link("a", folder, "b")
        folder.rename("b", folder, "c")
        folder.mark_used("c")
        folder.unlink("c")
        folder.remove_tree("d")
        folder.syncfs()
        with lock(folder.path / "lock", seconds=1):
            pass
    assert notes.seen == [
        "create", "write", "chmod", "fsync", "rename", "fsync", "mkdir", "chmod", "symlink", "link",
        "rename", "touch", "unlink", "chmod", "rmdir", "syncfs", "create",
    ]  # fmt: skip
    assert notes.done == notes.seen
    with fsops.watched(later := Notes()):
        pass
    folder.unlink("a")
    assert later.seen == [], "nothing is seen outside the block"


def test_a_short_write_is_continued(folder: Folder) -> None:
    with fsops.watched(notes := Notes(short=3)):
        folder.replace("a", b"0123456789")
    assert notes.seen.count("write") == 2
    assert folder.read("a", limit=10) == b"0123456789"


@pytest.mark.parametrize("call", ["fsync", "syncfs"])
def test_a_sync_that_failed_is_not_tried_again(folder: Folder, call: str) -> None:
    with fsops.watched(notes := Notes(fail=call)), pytest.raises(Failed) as problem:
        folder.replace("a", b"x") if call == "fsync" else folder.syncfs()
    assert problem.value.reason == "io"
    assert notes.seen.count(call) == 1
    assert folder.list() == []


def test_a_call_that_a_signal_broke_off_is_made_again() -> None:
    answers = [errno.EINTR, errno.EINTR, 0]

    def call() -> int:
        number = answers.pop(0)
        ctypes.set_errno(number)
        return -1 if number else 0

    assert kernel._finished(call, "syncfs") == 0
    assert answers == []
    answers = [errno.EINTR, errno.EIO, 0]
    with pytest.raises(OSError, match="Input/output error"):
        kernel._finished(call, "syncfs")
    assert answers == [0], "an error is final"


def test_a_kernel_whose_syncfs_hides_errors_is_asked_for_each_file(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [kernel.syncfs_tells(r) for r in ("5.7.19", "5.8.0-rc1", "6.1.0-18-amd64", "x")] == [
        False, True, True, False,
    ]  # fmt: skip
    with folder.mkdir("d") as inner:
        inner.write("f", [b"x"])
    folder.write("g", [b"y"])
    folder.symlink("g", "l")
    with fsops.watched(notes := Notes()):
        folder.syncfs()
    assert notes.seen == ["syncfs"]
    monkeypatch.setattr("embrasure.kernel.syncfs_tells", lambda: False)
    with fsops.watched(notes := Notes()):
        folder.syncfs()
    assert notes.seen == ["syncfs", *["fsync"] * 4], "two files, two folders, no link"
