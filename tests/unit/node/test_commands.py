"""A hook or probe command: its exit decides, and nothing of it outlives its time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import commands, processes
from node.output import cleaned
from node.processes import adopt_orphans
from tests.ablation import Ablation

PYTHON = [sys.executable, "-I", "-S", "-c"]


@pytest.fixture(autouse=True, scope="module")
def subreaper() -> None:
    adopt_orphans()


def run(code: str, cwd: Path, seconds: float = 5) -> commands.Finished:
    return commands.run([*PYTHON, code], env={"X": "1"}, cwd=cwd, seconds=seconds)


def test_its_exit_and_output_come_back(tmp_path: Path) -> None:
    ended = run("print('hello'); raise SystemExit(3)", tmp_path)
    assert (ended.code, ended.output, ended.is_good) == (3, b"hello\n", False)
    assert run("", tmp_path).is_good


def test_one_that_cannot_start_ends_with_127(tmp_path: Path) -> None:
    assert commands.run(["/no/such"], env={}, cwd=tmp_path, seconds=5).code == 127
    assert commands.run(["/bin/true"], env={}, cwd=tmp_path / "no", seconds=5).code == 127


def test_a_time_out_ends_the_whole_of_it(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n"
        "print(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    began = time.monotonic()
    ended = run(code, tmp_path, seconds=0.5)
    assert ended.code is None
    assert time.monotonic() - began < 3
    pids = [int(word) for word in ended.output.split()]
    assert len(pids) == 2
    table = processes.table()
    assert not [p for p in pids if p in table and not table[p].is_zombie]


def test_what_a_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\nprint('done', flush=True)"
    began = time.monotonic()
    assert run(code, tmp_path).code == 0
    assert time.monotonic() - began < 3


def test_output_without_end_is_cut(tmp_path: Path) -> None:
    ended = run("import sys\nfor _ in range(100): sys.stdout.write('y' * 10000)", tmp_path)
    assert ended.is_good
    assert len(ended.output) <= 64 * 1024


@given(st.binary(max_size=200), st.integers(1, 64))
def test_cleaned_output_obeys_no_terminal(raw: bytes, limit: int) -> None:
    text = cleaned(raw, limit=limit)
    assert len(text.encode()) <= limit
    assert all(c == "\n" or c.isprintable() for c in text)


@pytest.mark.misuse
def test_a_failure_is_never_reaped_by_another_and_taken_for_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    done = threading.Event()

    def reap() -> None:
        while not done.is_set():
            processes.reap_orphans()

    def slow_wait(self: subprocess.Popen[bytes]) -> int:
        time.sleep(0.1)  # as on a busy machine: the reaper comes first
        return wait(self)

    wait = subprocess.Popen.wait
    thread = threading.Thread(target=reap)
    thread.start()
    try:
        monkeypatch.setattr(subprocess.Popen, "wait", slow_wait)
        assert run("raise SystemExit(3)", tmp_path).code == 3
        with ablation("the list of those that are waited for") as attack:
            # Without the list of those that are waited for, its status is lost.
            attack.without("node.processes._awaited", Forgetful())
            attack.succeeded(run("raise SystemExit(3)", tmp_path).code == 0)
    finally:
        done.set()
        thread.join()


class Forgetful(set[int]):
    """A set that keeps nothing."""

    def add(self, element: int) -> None:
        return


def test_a_stopping_node_does_not_wait_for_a_long_hook(tmp_path: Path) -> None:
    halt = threading.Event()
    threading.Timer(0.2, halt.set).start()
    began = time.monotonic()
    ended = commands.run(["/bin/sleep", "60"], env={}, cwd=tmp_path, seconds=60, halt=halt)
    assert ended.code is None
    assert time.monotonic() - began < 5
