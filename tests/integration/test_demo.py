"""`embrasure demo` as anybody runs it: its verdicts hold, and nothing of it stays behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
COMMAND = [sys.executable, "-I", "-c", "from embrasure.cli import main; raise SystemExit(main())"]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    folder.mkdir()
    return subprocess.Popen(
        [*COMMAND, "demo", "--json", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip


def finish(demo: subprocess.Popen[str], folder: Path) -> dict[str, object]:
    out, err = demo.communicate(timeout=500)
    assert demo.returncode == 0, err[-4000:]
    found: dict[str, object] = json.loads(out)
    assert found["schema"] == "embrasure.demo/1"
    assert found["ok"] is True
    verdicts = found["verdicts"]
    assert isinstance(verdicts, list)
    assert len(verdicts) >= 13
    assert all(verdict["ok"] is True for verdict in verdicts)
    check_clean(folder)
    return found


def check_clean(folder: Path) -> None:
    """No file in its temporary folder, and no process that was started in it."""
    assert list(folder.iterdir()) == []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes()
            except OSError:
                continue
            assert str(folder).encode() not in words


def test_the_demo_holds_twice_in_a_row_and_beside_another(tmp_path: Path) -> None:
    """The whole one runs from the start of the first fast one, and takes longer."""
    demos = {"whole": start(tmp_path / "whole")}
    try:
        for name in ("first", "second"):
            demos[name] = start(tmp_path / name, "--fast")
            found = finish(demos[name], tmp_path / name)
            print(f"figure: demo_{name} = {found['seconds']} s")
        found = finish(demos["whole"], tmp_path / "whole")
        print(f"figure: demo_whole = {found['seconds']} s")
    finally:
        for demo in demos.values():
            demo.terminate()
