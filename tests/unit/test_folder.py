"""A held folder: nothing outside it is reached, whatever a name says or somebody else links."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from embrasure import fsops, kernel
from embrasure.errors import Denied, EmbrasureError, NotFound, Refused
from embrasure.fs import Folder
from embrasure.fsops import Op
from tests.ablation import Ablation


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with Folder.open(tmp_path / "ours", create=True) as held:
        yield held


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A place that somebody wants us to read or to write."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_bytes(b"secret")
    return place


def follows_links(folder_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """What everybody else calls: the guard removed."""
    return os.open(path, flags & ~os.O_NOFOLLOW, mode, dir_fd=folder_fd)


OPENERS = pytest.mark.parametrize(
    "opener", [kernel.open_inside, kernel.walk_inside], ids=["openat2", "walk"]
)


@pytest.mark.misuse
@OPENERS
@pytest.mark.parametrize("path", ["link/secret", "file", "a/link/secret", "a/file"])
def test_a_link_on_the_way_is_never_followed(
    folder: Folder,
    outside: Path,
    monkeypatch: pytest.MonkeyPatch,
    ablation: Ablation,
    opener: object,
    path: str,
) -> None:
    folder.mkdir("a").close()
    for place in (folder.path, folder.path / "a"):
        (place / "link").symlink_to(outside)
        (place / "file").symlink_to(outside / "secret")
    monkeypatch.setattr("embrasure.kernel.open_inside", opener)
    with pytest.raises(Refused) as problem:
        folder.read(path, limit=100)
    assert problem.value.reason == "bad-link"
    with ablation("a path that follows no link") as attack:
        attack.without("embrasure.kernel.open_inside", follows_links)
        attack.succeeded(folder.read(path, limit=100) == b"secret")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b", "../outside/x"])
def test_a_name_is_one_part_of_a_path(folder: Folder, name: str) -> None:
    for act in (
        lambda: folder.replace(name, b""),
        lambda: folder.create(name, b""),
        lambda: folder.unlink(name),
        lambda: folder.mkdir(name),
        lambda: folder.symlink("target", name),
        lambda: folder.stat(name),
        lambda: folder.append(name, b""),
    ):
        with pytest.raises(Refused) as problem:
            act()
        assert problem.value.reason == "bad-path"
    assert folder.list() == []


@pytest.mark.misuse
def test_without_the_check_of_names_a_folder_outside_is_emptied(
    folder: Folder, outside: Path, ablation: Ablation
) -> None:
    with pytest.raises(Refused):
        folder.unlink("../outside/secret")
    with ablation("the form of a name") as attack:
        attack.without("embrasure.folder.check_name", lambda name: name)
        folder.unlink("../outside/secret")
        attack.succeeded(list(outside.iterdir()) == [])


@pytest.mark.misuse
def test_dots_do_not_lead_out(folder: Folder, outside: Path, ablation: Ablation) -> None:
    with pytest.raises(Refused):
        folder.read("../outside/secret", limit=100)
    # The kernel says no as well, should a caller ever forget the name's check.
    with pytest.raises(OSError, match="cross-device"):
        kernel.open_inside(folder.fd, "../outside/secret", os.O_RDONLY)
    with ablation("both guards of a path") as attack:
        fd = follows_links(folder.fd, "../outside/secret", os.O_RDONLY)
        attack.succeeded(os.read(fd, 100) == b"secret")
        os.close(fd)


def test_what_was_held_is_written_even_when_the_path_now_leads_elsewhere(
    folder: Folder, tmp_path: Path, outside: Path
) -> None:
    folder.path.rename(tmp_path / "moved")
    folder.path.symlink_to(outside)
    folder.replace("f", b"ours")
    assert (tmp_path / "moved" / "f").read_bytes() == b"ours"
    assert not (outside / "f").exists()


@pytest.mark.misuse
def test_a_folder_that_is_a_link_is_not_opened(
    tmp_path: Path, outside: Path, ablation: Ablation
) -> None:
    (tmp_path / "link").symlink_to(outside)
    for create in (False, True):
        with pytest.raises(Refused):
            Folder.open(tmp_path / "link", create=create)
    with ablation("a folder opened without following links") as attack:
        fd = os.open(tmp_path / "link", os.O_RDONLY | os.O_DIRECTORY)
        with Folder(fd, tmp_path / "link") as held:
            attack.succeeded(held.read("secret", limit=100) == b"secret")


@pytest.mark.misuse
def test_a_folder_of_another_user_is_not_ours(tmp_path: Path, ablation: Ablation) -> None:
    me = os.geteuid()
    theirs = tmp_path if me == 0 else Path("/usr")  # root owns it
    if me == 0:
        os.chown(theirs, 65534, -1)
    owner = theirs.stat().st_uid
    with Folder.open(theirs) as held:
        with pytest.raises(Denied) as problem:
            held.check_mine()
        assert problem.value.reason == "bad-owner"
        with ablation("the look at its owner") as attack:
            # Its mode alone would pass: whoever owns it is believed once he counts as us.
            attack.without("os.geteuid", lambda: owner)
            held.check_mine()
            attack.succeeded(owner != me)


@pytest.mark.misuse
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_to_is_not_ours(
    tmp_path: Path, mode: int, ablation: Ablation
) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f").chmod(mode)
    with Folder.open(tmp_path / "f") as held:
        with pytest.raises(Denied) as problem:
            held.check_mine()
        assert problem.value.reason == "bad-owner"
        held.chmod(0o700)
        held.check_mine()
    with ablation("the look at its owner and mode") as attack:
        (tmp_path / "f").chmod(mode)
        (tmp_path / "f" / "planted").write_bytes(b"by somebody else")
        with Folder.open(tmp_path / "f") as held:
            attack.succeeded(held.read("planted", limit=100))


def test_a_file_is_written_with_its_digest_and_mode(folder: Folder) -> None:
    digest = folder.write("f", [b"ab", b"c"], mode=0o444)
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert stat.S_IMODE(folder.stat("f").st_mode) == 0o444
    assert b"".join(folder.pieces("f")) == b"abc"


def test_a_file_longer_than_told_is_refused_and_gone(folder: Folder) -> None:
    with pytest.raises(Refused) as problem:
        folder.write("f", [b"12", b"34"], limit=3)
    assert problem.value.reason == "limit"
    assert folder.list() == []


def test_a_source_that_breaks_leaves_no_file(folder: Folder) -> None:
    def broken() -> Iterator[bytes]:
        yield b"first"
        raise NotFound("source", expected="more", got="nothing")

    with pytest.raises(NotFound):
        folder.write("f", broken())
    assert folder.list() == []


def test_a_file_is_never_written_over(folder: Folder) -> None:
    folder.write("f", [b"first"])
    with pytest.raises(Refused) as problem:
        folder.write("f", [b"second"])
    assert problem.value.reason == "exists"
    assert folder.read("f", limit=10) == b"first"


def test_a_rename_replaces_only_when_told(folder: Folder) -> None:
    folder.replace("a", b"a")
    folder.replace("b", b"b")
    with pytest.raises(Refused) as problem:
        folder.rename("a", folder, "b")
    assert problem.value.reason == "exists"
    folder.rename("a", folder, "b", replace=True)
    assert folder.list() == ["b"] and folder.read("b", limit=10) == b"a"


def test_a_folder_is_renamed_onto_no_other(folder: Folder) -> None:
    folder.mkdir("a").close()
    folder.mkdir("b").close()  # empty: plain rename would replace it
    with pytest.raises(Refused):
        folder.rename("a", folder, "b")
    assert folder.list() == ["a", "b"]


def test_appending_grows_a_file_and_only_a_file(folder: Folder, outside: Path) -> None:
    assert folder.append("log", b"one\n") == 4
    assert folder.append("log", b"two\n") == 8
    folder.symlink(str(outside / "secret"), "link")
    with pytest.raises(Refused):
        folder.append("link", b"x")
    os.mkfifo(folder.path / "fifo")
    with pytest.raises(Refused):
        folder.append("fifo", b"x")
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_link_is_read_not_followed(folder: Folder) -> None:
    folder.symlink("somewhere", "link")
    folder.replace("file", b"")
    assert folder.readlink("link") == "somewhere"
    with pytest.raises(Refused):
        folder.readlink("file")
    with pytest.raises(NotFound):
        folder.readlink("none")


def test_a_file_has_a_second_name_without_a_copy(folder: Folder) -> None:
    folder.replace("a", b"a")
    with folder.mkdir("inner") as inner:
        folder.link("a", inner, "b")
        assert inner.stat("b").st_ino == folder.stat("a").st_ino
        with pytest.raises(Refused):
            folder.link("a", inner, "b")


@pytest.mark.misuse
def test_removing_a_tree_removes_links_not_what_they_point_to(
    folder: Folder, outside: Path, ablation: Ablation
) -> None:
    with folder.mkdir("tree") as tree:
        tree.symlink(str(outside), "link")
        tree.replace("file", b"")
        with tree.mkdir("sealed") as sealed:
            sealed.replace("file", b"")
            sealed.chmod(0o555)
    folder.remove_tree("tree")
    assert folder.list() == []
    assert (outside / "secret").exists()
    with ablation("the kind of each entry, read without following it") as attack:
        (folder.path / "tree").mkdir()
        (folder.path / "tree" / "link").symlink_to(outside)
        attack.without("embrasure.kernel.open_inside", follows_links)
        attack.without("embrasure.removal.found_in", followed)
        with contextlib.suppress(Refused):
            folder.remove_tree("tree")
        attack.succeeded(not (outside / "secret").exists())


def followed(folder: Folder) -> list[tuple[str, bool]]:
    """Look at what each name leads to."""
    return [(name, (folder.path / name).is_dir()) for name in folder.list()]


def test_a_tree_deeper_than_any_limit_is_removed(folder: Folder) -> None:
    inner = folder.mkdir("deep")
    for _ in range(300):
        below = inner.mkdir("d")
        below.replace("file", b"")
        inner.close()
        inner = below
    inner.close()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # the count is all that matters
    folder.remove_tree("deep")
    assert folder.list() == []
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  # as above


def test_removing_a_link_to_a_folder_removes_the_link(folder: Folder, outside: Path) -> None:
    folder.symlink(str(outside), "link")
    folder.remove_tree("link")
    assert folder.list() == [] and (outside / "secret").exists()


def test_what_a_crash_left_unfinished_is_removed_and_nothing_else(folder: Folder) -> None:
    folder.replace("kept", b"")
    folder.replace(".hidden", b"")
    folder.replace(".mine.new", b"")
    (folder.path / f".{'0' * 32}.new").write_bytes(b"half")
    assert folder.remove_unfinished() == 1
    assert folder.list() == [".hidden", ".mine.new", "kept"]


def test_a_name_may_be_as_long_as_the_disk_allows(folder: Folder) -> None:
    name = "ü" * 127
    folder.replace(name, b"x")
    assert folder.list() == [name]


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    with Folder.open(tmp_path / "a" / "b" / "c", create=True, mode=0o700) as held:
        held.replace("f", b"")
    for place in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((tmp_path / place).stat().st_mode) == 0o700
    with pytest.raises(NotFound):
        Folder.open(tmp_path / "none")


def test_a_closed_folder_can_be_closed_again(folder: Folder) -> None:
    folder.close()
    folder.close()


def test_a_child_is_made_once_and_found_again(folder: Folder) -> None:
    folder.ensure("a").close()
    with folder.ensure("a") as inner:
        inner.syncfs()
        inner.fsync()
    with pytest.raises(NotFound):
        folder.child("b")
    folder.replace("file", b"")
    with pytest.raises(Refused):
        folder.child("file")
    assert folder.has("a") and not folder.has("b")


def test_a_file_system_without_exclusive_rename_still_replaces_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("embrasure.kernel._renameat2", missing)
    folder.create("f", b"first")
    with pytest.raises(Refused) as problem:
        folder.create("f", b"second")
    assert problem.value.reason == "exists"
    assert folder.list() == ["f"] and folder.read("f", limit=10) == b"first"
    folder.mkdir("a").close()
    with pytest.raises(EmbrasureError):
        folder.rename("a", folder, "b")
    assert folder.list() == ["a", "f"]


@pytest.mark.misuse
def test_a_kernel_without_openat2_is_as_strict(
    folder: Folder, outside: Path, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    def missing(*args: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("embrasure.kernel._openat2", missing)
    folder.mkdir("a").close()
    (folder.path / "a" / "link").symlink_to(outside)
    with folder.child("a") as inner:
        inner.replace("f", b"x")
    assert folder.read("a/f", limit=1) == b"x"
    with pytest.raises(Refused):
        folder.read("a/link/secret", limit=100)
    with ablation("the walk without links") as attack:
        attack.without("embrasure.kernel.walk_inside", follows_links)
        attack.succeeded(folder.read("a/link/secret", limit=100) == b"secret")


def test_a_folder_that_does_not_get_its_mode_is_not_held(tmp_path: Path) -> None:
    """The error keeps the frame that it came from; a descriptor in it would keep the disk busy."""

    class Refuses:
        def before(self, op: Op) -> int | None:
            if op.call == "chmod":
                raise OSError(errno.EROFS, "read-only")
            return None

        def after(self, op: Op, result: int) -> None:
            pass

    with Folder.open(tmp_path) as held:
        before = os.listdir("/proc/self/fd")  # noqa: PTH208  # names are enough
        with fsops.watched(Refuses()), pytest.raises(Denied) as kept:
            held.mkdir("new")
        assert os.listdir("/proc/self/fd") == before  # noqa: PTH208  # as above
        assert kept.value.reason == "permissions"
