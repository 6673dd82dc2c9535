from __future__ import annotations

from pathlib import Path

import pytest

from embrasure.errors import Failed
from embrasure.undo import all_or_nothing


def fail(folder: Path) -> None:
    with pytest.raises(Failed), all_or_nothing(folder):
        (folder / "ca").mkdir(parents=True, exist_ok=True)
        (folder / "ca" / "root.crt").write_text("half")
        raise Failed("disk", expected="room", got="none", reason="no-space")


def test_a_ceremony_that_fails_leaves_no_new_folder(tmp_path: Path) -> None:
    fail(tmp_path / "fleet")
    assert not (tmp_path / "fleet").exists()


def test_a_folder_that_was_there_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "mine").write_text("kept")
    fail(tmp_path / "fleet")
    assert (tmp_path / "fleet" / "mine").read_text() == "kept"
