"""Fetch reads its TLS files again when one of them is another, whatever was done to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node import looks
from node.looks import Looks
from node.paths import Paths

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = int(NOW.timestamp()) + 60


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    for file in (found.tls_bundle, found.tls_denials, found.renewed, found.enrolled):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"first")
    return found


def read(paths: Paths) -> Looks:
    """Looks of which all was read."""
    found = Looks(paths)
    assert found.is_due(NOW)
    found.done(ends=ENDS)
    return found


def replaced(file: Path) -> None:
    before = file.stat()
    new = file.with_name("new")
    new.write_bytes(b"other")
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a restored copy may be
    new.rename(file)


def rewritten(file: Path) -> None:
    file.write_bytes(b"other")


def gone(file: Path) -> None:
    file.unlink()


def test_nothing_is_read_again_while_nothing_changed(paths: Paths) -> None:
    found = read(paths)
    assert not found.is_due(NOW)
    assert not found.is_due(NOW)


@pytest.mark.parametrize("change", [replaced, rewritten, gone])
@pytest.mark.parametrize("name", ["tls_bundle", "tls_denials", "renewed", "enrolled"])
def test_a_file_that_was_touched_is_read_again(
    paths: Paths, name: str, change: Callable[[Path], None]
) -> None:
    found = read(paths)
    change(getattr(paths, name))
    assert found.is_due(NOW)
    assert found.is_due(NOW)  # as long as it has not been read well
    found.done(ends=ENDS)
    assert not found.is_due(NOW)


def test_a_file_that_comes_is_read(paths: Paths) -> None:
    found = read(paths)
    paths.tls_chain.write_bytes(b"a chain")
    assert found.is_due(NOW)


def test_what_changes_while_it_is_read_is_read_again(paths: Paths) -> None:
    found = Looks(paths)
    assert found.is_due(NOW)
    replaced(paths.tls_denials)
    found.done(ends=ENDS)
    assert found.is_due(NOW)


def test_the_end_of_the_certificate_and_a_long_time_are_reasons_of_their_own(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read(paths)
    assert found.is_due(datetime.fromtimestamp(ENDS, tz=UTC))
    assert not found.is_due(NOW)
    monkeypatch.setattr(looks, "_ANYWAY_SECONDS", 0.0)
    assert found.is_due(NOW)
