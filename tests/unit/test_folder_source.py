"""A repository folder is untrusted: only regular files of repository paths are read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from embrasure import limits
from embrasure.errors import NotFound, Refused, Unavailable
from embrasure.trust.folder import FolderSource
from tests.ablation import Ablation
from tests.simulate.repository import SimRepository


def read(source: FolderSource, path: str, *, offset: int = 0, limit: int = 10_000) -> bytes:
    return b"".join(source.fetch(path, offset=offset, limit=limit))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/timestamp.json").write_bytes(b"0123456789")
    return tmp_path


def test_bytes_come_from_the_offset_on(folder: Path) -> None:
    source = FolderSource(folder)
    assert read(source, "metadata/timestamp.json") == b"0123456789"
    assert read(source, "metadata/timestamp.json", offset=4) == b"456789"
    assert read(source, "metadata/timestamp.json", offset=10) == b""


def test_the_first_folder_that_has_a_file_wins(folder: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "metadata").mkdir(parents=True)
    (folder / "metadata/1.root.json").write_bytes(b"old")
    (inbox / "metadata/timestamp.json").write_bytes(b"new")
    source = FolderSource(inbox, folder)
    assert read(source, "metadata/timestamp.json") == b"new"
    assert read(source, "metadata/1.root.json") == b"old"


def test_a_missing_file_and_a_missing_folder_are_not_found(folder: Path) -> None:
    for source in (FolderSource(folder), FolderSource(folder / "gone"), FolderSource()):
        with pytest.raises(NotFound):
            read(source, "metadata/7.root.json")


@pytest.mark.parametrize("limit", [0, 1, 9])
def test_a_file_over_the_limit_is_refused(folder: Path, limit: int) -> None:
    with pytest.raises(Refused) as refused:
        read(FolderSource(folder), "metadata/timestamp.json", limit=limit)
    assert refused.value.reason == "limit"
    assert read(FolderSource(folder), "metadata/timestamp.json", limit=10)


@pytest.mark.misuse
@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "metadata/../../secret"])
def test_a_path_cannot_leave_the_folder(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    with pytest.raises(Refused) as refused:
        read(FolderSource(folder), path)
    assert refused.value.reason == "bad-path"
    # Without the gate of paths the held folder still does not let go.
    monkeypatch.setattr("embrasure.trust.layout.parse_file", lambda *a, **k: None)
    with pytest.raises((Refused, NotFound)):
        read(FolderSource(folder), path)
    with ablation("the grammar of paths, and the folder that is held") as attack:
        (folder.parent / "secret").write_bytes(b"secret")
        attack.without("embrasure.trust.folder.FolderSource._open", plain_open)
        attack.succeeded(read(FolderSource(folder), path))


def plain_open(self: FolderSource, path: str) -> int:
    """Open a path below a folder as anybody would."""
    return os.open(self.folders[0] / path, os.O_RDONLY)


@pytest.mark.parametrize("path", ["metadata/timestamp.json\n", ""])
def test_a_path_outside_the_grammar_is_refused(folder: Path, path: str) -> None:
    with pytest.raises(Refused):
        read(FolderSource(folder), path)


@pytest.mark.misuse
def test_a_link_on_a_stick_is_not_followed(tmp_path: Path, ablation: Ablation) -> None:
    secret = tmp_path / "shadow"
    secret.write_bytes(b"secret")
    stick = tmp_path / "stick"
    (stick / "metadata").mkdir(parents=True)
    (stick / "metadata/timestamp.json").symlink_to(secret)
    (stick / "targets").symlink_to("/etc")
    source = FolderSource(stick)
    for path in ("metadata/timestamp.json", "targets/a/" + "0" * 64 + ".x.json"):
        with pytest.raises(Refused) as refused:
            read(source, path)
        assert refused.value.reason == "bad-link"
    with ablation("the held folder") as attack:
        # A plain open in place of the held folder would have read it.
        attack.without("embrasure.trust.folder.FolderSource._open", plain_open)
        attack.succeeded(read(source, "metadata/timestamp.json") == b"secret")


def test_a_pipe_on_a_stick_does_not_block(folder: Path) -> None:
    os.mkfifo(folder / "metadata/1.root.json")
    with pytest.raises(Refused) as refused:
        read(FolderSource(folder), "metadata/1.root.json")
    assert refused.value.reason == "bad-type"


def test_a_whole_repository_reads_back(tmp_path: Path) -> None:
    repo = SimRepository()
    source = FolderSource(repo.write(tmp_path / "repo"))
    for path, data in repo.files.items():
        assert read(source, path, limit=len(data)) == data


@pytest.mark.parametrize("offset", [-1, limits.FILE_BYTES + 1, 2**64])
def test_an_offset_of_no_file_is_refused(folder: Path, offset: int) -> None:
    with pytest.raises(Refused) as refused:
        read(FolderSource(folder), "metadata/timestamp.json", offset=offset)
    assert refused.value.reason == "bad-offset"


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_worn_stick_is_a_source_that_fails(
    folder: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own error: no disk of this machine is damaged."""

    def worn(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    source = FolderSource(folder)
    monkeypatch.setattr(os, call, worn)
    with pytest.raises(Unavailable) as failed:
        read(source, "metadata/timestamp.json")
    assert failed.value.reason == "io"


def test_no_descriptor_stays_open(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        pieces = FolderSource(folder).fetch("metadata/timestamp.json", offset=0, limit=100)
        next(iter(pieces))
        pieces.close()  # type: ignore[attr-defined]  # a caller may stop in the middle
    assert len(list(Path("/proc/self/fd").iterdir())) == before
