"""What a run of CI lets nobody get away with: a skip that is on no list, a pytest that died."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import skips
from tests.source import TOP

SETTINGS = f"[pytest]\npythonpath = {TOP}\n"
CONFTEST = "from tests.skips import pytest_sessionfinish\n"
SKIPPED = "import pytest\ndef test_one(): pass\ndef test_two(): pytest.skip({!r})\n"
# Stands where pytest stands: writes a list of what failed, or dies without one.
PROGRAM = """#!/bin/sh
echo "$@" >> calls
case "$MODE" in
  good) exit 0 ;;
  died) exit 1 ;;
  once) [ -e again ] && exit 0; touch again ;;
esac
mkdir -p .pytest_cache/v/cache; echo '{"a": true}' > .pytest_cache/v/cache/lastfailed
[ "$MODE" = killed ] && exit 3; exit 1
"""


@pytest.mark.parametrize("reason", ["needs root to mount a disk", "needs loop devices", "needs x"])
def test_root_skips_nothing_in_ci_and_others_only_what_needs_root(reason: str) -> None:
    text = skips.LIST.read_text()
    assert not reason.startswith(skips.allowed(text, is_root=True))
    assert reason.startswith(skips.allowed(text, is_root=False)) is ("root" in reason)
    for line in ("needs root", "nobody: needs root", "any:"):
        with pytest.raises(ValueError, match="WHO"):
            skips.allowed(line, is_root=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the list of others is longer")
def test_a_run_of_ci_fails_for_a_skip_that_is_on_no_list(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_sample.py").write_text(SKIPPED.format("needs loop devices"))

    def run(**more: str) -> int:
        plain = {name: value for name, value in os.environ.items() if name != "CI"}
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
             "-c", "pytest.ini", "."],
            cwd=tmp_path, env={**plain, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **more},
            capture_output=True, timeout=50, check=False,
        ).returncode  # fmt: skip

    assert (run(), run(CI="true")) == (0, 1)


@pytest.mark.parametrize(
    ("mode", "ends", "calls"),
    [("good", 0, 1), ("once", 0, 2), ("bad", 1, 2), ("died", 1, 1), ("killed", 1, 1)],
)
def test_only_what_failed_in_this_run_is_run_once_more(
    mode: str, ends: int, calls: int, tmp_path: Path
) -> None:
    function = re.search(r"^tests\(\) \{\n.*?^\}$", (TOP / ".ci" / "run").read_text(), re.M | re.S)
    assert function is not None
    (tmp_path / "python").write_text(PROGRAM)
    (tmp_path / "python").chmod(0o755)
    old = tmp_path / ".pytest_cache" / "v" / "cache" / "lastfailed"
    old.parent.mkdir(parents=True)
    old.write_text('{"of an earlier run": true}')
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{function[0]}\ntests 5 -m x"],
        cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin", "MODE": mode}, capture_output=True,
        text=True, timeout=20, check=False,
    )  # fmt: skip
    asked = (tmp_path / "calls").read_text().splitlines()
    assert (done.returncode, len(asked)) == (ends, calls), done.stderr
    assert ("--last-failed" in asked[-1]) is (calls == 2)
