"""The checks that all folders share: each finds what it looks for, and nothing else."""

from __future__ import annotations

import json
import socket
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from embrasure import findings as look
from embrasure import fs
from embrasure.errors import Misuse
from embrasure.places import recognise
from tests.source import TOP

AT = datetime(2026, 11, 27, tzinfo=UTC)


def test_the_least_versions_are_those_of_the_package() -> None:
    declared = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["dependencies"]
    for name, least in look.LEAST.items():
        (line,) = [text for text in declared if text.startswith(f"{name}>=")]
        assert line.removeprefix(f"{name}>=").split(",")[0] == least


@pytest.mark.parametrize(
    ("found", "wrong"),
    [("1.85.0", False), ("1.84.9", True), ("1.100.0", False), ("2.0rc1", False), (None, True)],
)
def test_an_old_or_missing_library_is_told(found: str | None, wrong: bool) -> None:
    told = list(look.versions({"grpcio": "1.85"}, lambda _: found))
    assert bool(told) is wrong
    assert all(one.fix == "python3 -m pip install 'grpcio>=1.85'" for one in told)


def test_nothing_is_wrong_with_this_installation() -> None:
    assert look.host() == []


def test_a_private_file_that_others_may_read_is_told_with_its_chmod(tmp_path: Path) -> None:
    good, loose, link = tmp_path / "good", tmp_path / "loose", tmp_path / "link"
    for file, mode in ((good, 0o600), (loose, 0o640)):
        file.write_bytes(b"")
        file.chmod(mode)
    link.symlink_to(good)
    (tmp_path / "twin").hardlink_to(loose)
    found = {one.thing: one for one in look.private([good, loose, link, tmp_path / "none"])}
    assert set(found) == {str(loose), str(link)}
    assert found[str(loose)].fix == f"chmod 600 {loose}"
    loose.chmod(0o600)
    (twice,) = look.private([loose])
    assert "2 names" in twice.what


def test_a_file_that_others_may_write_is_told(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b"")
    file.chmod(0o666)
    (found,) = look.unshared([file, tmp_path / "none"])
    assert found.fix == f"chmod go-w {file}"


def test_a_clock_behind_what_was_signed_is_told_and_a_little_skew_is_not() -> None:
    def clock(seconds: int) -> list[look.Finding]:
        return list(look.clock(AT, [("timestamp v4", AT + timedelta(seconds=seconds))]))

    assert clock(-(10**6)) == clock(300) == []
    (found,) = clock(301)
    assert "301 s behind timestamp v4" in found.what
    (floor,) = look.clock(AT, [], newest=AT + timedelta(days=1))
    assert "the time floor" in floor.what


def test_ports_that_do_not_answer_and_ports_of_others_are_told(tmp_path: Path) -> None:
    ports = tmp_path / "ports.json"
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        listens = {"admin": f"127.0.0.1:{number}"}

        def told(*, running: bool) -> list[str]:
            return [one.what for one in look.ports(ports, listens, running=running, start="s")]

        assert told(running=False) == [f"127.0.0.1:{number} is taken by another process"]
        assert told(running=True) == ["the process runs and names no port"]
        ports.write_text(json.dumps({"admin": number}))
        assert told(running=True) == []
    assert told(running=True) == [f"nothing answers at 127.0.0.1:{number}"]
    assert told(running=False) == ["names ports, and no process runs"]
    ports.write_text("[1")
    assert told(running=False) == []


def test_what_a_killed_process_left_is_told_deep_below(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / f".{'0' * 32}.new").write_bytes(b"")
    (deep / "real.new").write_bytes(b"")
    assert [one.check for one in look.unfinished(tmp_path, fix="")] == ["half-made"]


def test_a_lock_that_nobody_holds_says_that_nobody_runs(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not look.is_locked(lock)
    assert not lock.exists()
    with fs.lock(lock, seconds=0):
        assert look.is_locked(lock)
    assert not look.is_locked(lock)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    assert list(look.disk(tmp_path, least=0)) == []


def test_a_folder_that_is_none_of_ours_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="expected a folder with one of"):
        recognise(tmp_path)
    (tmp_path / "context.toml").write_bytes(b"")
    assert recognise(tmp_path / "context.toml").kind == recognise(tmp_path).kind == "operator"
