"""Files by path: bounded reads, whole writes, locks, and what the system's errors become."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from embrasure import fs, fsops, limits
from embrasure.descriptor import explained
from embrasure.errors import Denied, EmbrasureError, Failed, NotFound, Refused, Unavailable
from embrasure.fsops import Op
from tests.ablation import Ablation


def test_a_file_is_read_up_to_its_limit_and_not_one_byte_more(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert fs.read_file(tmp_path / "f", limit=5) == b"12345"
    with pytest.raises(Refused) as problem:
        fs.read_file(tmp_path / "f", limit=4)
    assert problem.value.reason == "limit"
    assert problem.value.got == "5 bytes"  # told by its size, before a byte is read


def test_a_file_that_says_it_is_empty_is_still_bounded() -> None:
    # /proc files have size 0, whatever they hold: the count, not the size, is the bound.
    with pytest.raises(Refused) as problem:
        fs.read_file(Path("/proc/self/status"), limit=10)
    assert problem.value.reason == "limit"


def make_link(path: Path) -> None:
    (path.parent / "target").write_bytes(b"secret")
    path.symlink_to("target")


@pytest.mark.parametrize(
    ("make", "reason"),
    [(make_link, "bad-link"), (os.mkfifo, "bad-type"), (Path.mkdir, "bad-type")],
    ids=["link", "fifo", "folder"],
)
def test_only_a_regular_file_is_read_and_nothing_blocks(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(tmp_path / "f")
    with pytest.raises(Refused) as problem:
        fs.read_file(tmp_path / "f", limit=100)
    assert problem.value.reason == reason


@pytest.mark.misuse
def test_without_nofollow_the_link_would_be_read(tmp_path: Path, ablation: Ablation) -> None:
    make_link(tmp_path / "f")
    with pytest.raises(Refused):
        fs.read_file(tmp_path / "f", limit=100)
    with ablation("a file opened without following links") as attack:
        attack.without("embrasure.fs._READ", os.O_RDONLY | os.O_CLOEXEC)
        attack.succeeded(fs.read_file(tmp_path / "f", limit=100) == b"secret")


def test_a_missing_file_is_told_as_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        fs.read_file(tmp_path / "none", limit=1)


@pytest.mark.misuse
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_private_file_that_others_may_use_is_refused(
    tmp_path: Path, mode: int, ablation: Ablation
) -> None:
    fs.create_file(tmp_path, "key", b"k", mode=mode)
    with pytest.raises(Denied) as problem:
        fs.read_file(tmp_path / "key", limit=10, private=True)
    assert problem.value.reason == "permissions"
    with ablation("the look at its mode") as attack:
        attack.succeeded(fs.read_file(tmp_path / "key", limit=10) == b"k")


@pytest.mark.misuse
def test_a_private_file_with_a_second_name_is_refused(tmp_path: Path, ablation: Ablation) -> None:
    fs.create_file(tmp_path, "key", b"k")
    assert fs.read_file(tmp_path / "key", limit=10, private=True) == b"k"
    (tmp_path / "other").hardlink_to(tmp_path / "key")
    with pytest.raises(Denied):
        fs.read_file(tmp_path / "key", limit=10, private=True)
    with ablation("the count of its names") as attack:
        attack.succeeded(fs.read_file(tmp_path / "key", limit=10) == b"k")


def of(owner: int, mode: int) -> os.stat_result:
    """Return what the kernel says of a regular file with one name; no test can give one away."""
    return os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, 0, 1, 0, 0, 0))


@pytest.mark.misuse
def test_a_file_of_another_user_is_not_ours(ablation: Ablation) -> None:
    me, other = os.geteuid(), os.geteuid() + 1
    fs.check_private(of(me, 0o600), "key")
    fs.check_unshared(of(me, 0o644), "c")
    fs.check_unshared(of(0, 0o644), "c")
    for check, mode in ((fs.check_private, 0o600), (fs.check_unshared, 0o644)):
        with pytest.raises(Denied) as problem:
            check(of(other, mode), "thing")
        assert problem.value.reason == "permissions"
        with ablation("the look at its owner") as attack:
            # Whoever planted it is believed once he counts as us; the mode says nothing of him.
            attack.without("os.geteuid", lambda: other)
            check(of(other, mode), "thing")
            attack.succeeded(True)


@pytest.mark.misuse
@pytest.mark.parametrize("mode", [0o664, 0o620, 0o602])
def test_a_configuration_that_others_could_have_written_is_refused(
    tmp_path: Path, mode: int, ablation: Ablation
) -> None:
    fs.create_file(tmp_path, "c", b"c", mode=mode)
    with pytest.raises(Denied):
        fs.read_file(tmp_path / "c", limit=10, unshared=True)
    with ablation("the look at its mode") as attack:
        attack.succeeded(fs.read_file(tmp_path / "c", limit=10) == b"c")
    (tmp_path / "c").chmod(0o644)
    assert fs.read_file(tmp_path / "c", limit=10, unshared=True) == b"c"


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    fs.replace_file(tmp_path, "f", b"old", mode=0o644)
    fs.replace_file(tmp_path, "f", b"new", mode=0o600)
    assert (tmp_path / "f").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_what_is_written_is_ours_alone_unless_told(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        fs.replace_file(tmp_path, "replaced", b"")
        fs.create_file(tmp_path, "created", b"")
    finally:
        os.umask(before)
    for name in ("replaced", "created"):
        assert fs.read_file(tmp_path / name, limit=0, private=True) == b""


def test_a_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        fs.create_file(tmp_path, "f", b"", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644


def test_a_file_is_created_once(tmp_path: Path) -> None:
    fs.create_file(tmp_path, "f", b"first")
    with pytest.raises(Refused) as problem:
        fs.create_file(tmp_path, "f", b"second")
    assert problem.value.reason == "exists"
    assert (tmp_path / "f").read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_link_is_replaced_and_what_it_points_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"theirs")
    (tmp_path / "f").symlink_to("target")
    fs.replace_file(tmp_path, "f", b"ours")
    assert (tmp_path / "target").read_bytes() == b"theirs"
    assert not (tmp_path / "f").is_symlink()


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "fchmod"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_at_any_step_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    fs.replace_file(tmp_path, "f", b"old")

    def fails(*args: object, **kwargs: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(Failed) as problem:
        fs.replace_file(tmp_path, "f", b"new")
    monkeypatch.undo()
    assert problem.value.reason == ("io" if code == errno.EIO else "no-space")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_sync_that_failed_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fails(fd: int) -> None:
        tried.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(Failed):
        fs.replace_file(tmp_path, "f", b"new")
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (errno.ENOSPC, Failed, "no-space"),
        (errno.EDQUOT, Failed, "no-space"),
        (errno.ENOENT, NotFound, "not-found"),
        (errno.EEXIST, Refused, "exists"),
        (errno.ELOOP, Refused, "bad-link"),
        (errno.EXDEV, Refused, "bad-link"),
        (errno.EACCES, Denied, "permissions"),
        (errno.EROFS, Denied, "permissions"),
        (errno.EIO, Failed, "io"),
        (errno.EMFILE, Failed, "io"),
    ],
)
def test_each_error_of_the_system_has_one_meaning(
    code: int, kind: type[EmbrasureError], reason: str
) -> None:
    found = explained(OSError(code, os.strerror(code)), "thing")
    assert (type(found), found.reason) == (kind, reason)


def test_a_lock_is_held_by_one_and_freed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        fs.lock(path, seconds=0),
        pytest.raises(Unavailable) as problem,
        fs.lock(path, seconds=0.05),
    ):
        pass
    assert problem.value.reason == "busy"
    with fs.lock(tmp_path / "lock", seconds=0):
        pass


class ReadOnly:
    """Every operation that would change the disk is refused, as on one that turned read-only."""

    def before(self, op: Op) -> int | None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def after(self, op: Op, result: int) -> None: ...


def test_a_lock_that_is_there_is_held_on_a_read_only_disk_too(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with fsops.watched(ReadOnly()), pytest.raises(Denied), fs.lock(path, seconds=0):
        pass
    with fs.lock(path, seconds=0):
        pass
    with fsops.watched(ReadOnly()), fs.lock(path, seconds=0):
        with pytest.raises(Unavailable) as problem, fs.lock(path, seconds=0.05):
            pass
        assert problem.value.reason == "busy"


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    free, held = threading.Event(), threading.Event()

    def hold() -> None:
        with fs.lock(tmp_path / "lock", seconds=1):
            held.set()
            free.wait(5)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(5)
    threading.Timer(0.05, free.set).start()
    with fs.lock(tmp_path / "lock", seconds=5):
        assert free.is_set()
    other.join()


def test_a_lock_is_free_after_its_holder_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from embrasure import fs\n"
        "with fs.lock(Path(sys.argv[1]), seconds=1):\n    print('held', flush=True)\n    input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(Unavailable), fs.lock(tmp_path / "lock", seconds=0):
            pass
        child.kill()
    with fs.lock(tmp_path / "lock", seconds=1):
        pass


@pytest.mark.misuse
def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path, ablation: Ablation) -> None:
    (tmp_path / "lock").symlink_to("elsewhere")
    with pytest.raises(Refused), fs.lock(tmp_path / "lock", seconds=0):
        pass
    assert not (tmp_path / "elsewhere").exists()
    with ablation("a file opened without following links") as attack:
        (tmp_path / "lock").open("a").close()
        attack.succeeded((tmp_path / "elsewhere").exists())


def test_free_space_is_told_in_bytes_and_inodes(tmp_path: Path) -> None:
    space = fs.free(tmp_path)
    assert space.bytes > 0 and 0 < space.inodes <= limits.MAX_INTEGER


@pytest.mark.misuse
def test_a_file_name_is_no_command_in_the_line_that_a_person_types(
    tmp_path: Path, ablation: Ablation
) -> None:
    file, made = tmp_path / "a; touch stolen #.key", tmp_path / "stolen"
    file.touch(mode=0o644)
    with pytest.raises(Denied) as told:
        fs.read_file(file, limit=1, private=True)
    subprocess.run(["sh", "-c", told.value.hint], cwd=tmp_path, check=True)
    assert not made.exists() and file.stat().st_mode & 0o777 == 0o600
    with ablation("the quotes") as attack:
        subprocess.run(["sh", "-c", f"chmod 600 {file}"], cwd=tmp_path, capture_output=True)
        attack.succeeded(made.exists())
