"""The mechanism of ablations itself: what it counts, and what it lets nobody get away with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import TOP

CONFTEST = """
from tests.ablation import ablation, figures, pytest_runtest_call

def pytest_terminal_summary(terminalreporter):
    for line in figures(terminalreporter.stats.get("passed", [])):
        terminalreporter.write_line(line)
"""
SETTINGS = f"[pytest]\npythonpath = {TOP}\nmarkers = misuse\n"
SAMPLE = """
import platform

import pytest

misuse = pytest.mark.misuse


@misuse
def test_whole(ablation):
    with ablation("the guard") as attack:
        attack.succeeded("secret")


@misuse
def test_none(): pass


@misuse
def test_unused(ablation): pass


@misuse
def test_empty(ablation):
    with ablation("the guard"): pass


@misuse
def test_without_a_proof(ablation):
    with ablation("the guard") as attack:
        attack.succeeded(b"")


@misuse
def test_refused_all_the_same(ablation):
    with pytest.raises(ValueError):
        with ablation("the guard") as attack:
            attack.succeeded("secret")
            raise ValueError


def test_no_marker(ablation):
    with ablation("the guard") as attack:
        attack.succeeded("secret")


@misuse
def test_skipped():
    pytest.skip("not on this machine")


@misuse
def test_restored(ablation):
    real = platform.node
    with ablation("the guard") as attack:
        attack.without("platform.node")
        attack.succeeded(platform.node() is None)
    assert platform.node is real
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_only_a_whole_ablation_counts_in_other_processes_too(workers: int, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-n", str(workers), "-p", "no:cacheprovider",
         "-c", "pytest.ini", "."],
        cwd=tmp_path, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    said = done.stdout
    for name, why in {
        "none": "no ablation ran to its end",
        "unused": "no ablation ran to its end",
        "empty": "says nothing of what the attacker got",
        "without_a_proof": "the attack got nothing",
        "refused_all_the_same": "no ablation ran to its end",
    }.items():
        assert f"FAILED test_sample.py::test_{name} " in said
        assert why in said
    assert "ERROR test_sample.py::test_no_marker" in said
    assert "is for tests with the marker `misuse`" in said
    assert "2 passed, 1 skipped" in said
    assert "figure: misuse_tests = 2 tests" in said
    assert "figure: misuse_ablations = 2 tests" in said
