"""One event, one line: whatever stands in a message."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.errors import Refused
from node.logs import FIELDS, Line, Sparing, is_journal, priority, quoted
from tests.ablation import Ablation

LINE = Line("apply", is_journal=False)
FORGED = "x\n<2>process=apply level=critical at=node message=forged\x1b[2J"


def record(message: str, *args: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("node.desk", level, "f", 1, message, args, None)


def test_an_event_has_its_process_level_place_and_reason() -> None:
    problem = Refused("file", expected="a", got="b", reason="limit")
    found = record("%s [%s]", problem, problem.word)
    setattr(found, FIELDS, {"app": "shop", "n": 3})
    assert LINE.format(found) == (
        'process=apply level=warning at=node.desk message="file: expected a, got b [E_LIMIT]" '
        "reason=E_LIMIT app=shop n=3"
    )


@pytest.mark.misuse
def test_what_comes_from_outside_forges_no_event(ablation: Ablation) -> None:
    assert LINE.format(record("got %s", FORGED)).isprintable()
    with ablation("the escaping of values") as attack:
        attack.without("node.logs.quoted", str)
        lines = LINE.format(record("got %s", FORGED)).splitlines()
        attack.succeeded(len(lines) == 2 and lines[1].startswith("<2>process=apply"))


@given(st.text(max_size=200), st.text(max_size=50))
def test_every_line_is_one_printable_line_and_its_values_can_be_told_apart(
    message: str, value: str
) -> None:
    found = record("%s", message)
    setattr(found, FIELDS, {"other": value})
    line = LINE.format(found)
    assert line.isprintable()
    assert line.endswith(f" other={quoted(value)}")


def test_a_long_value_is_cut_and_says_so() -> None:
    for long in ("x" * 10_000, "x " * 5_000):
        cut = quoted(long)
        assert len(cut) < limits.LOG_CHARACTERS + 40 and "10000 characters" in cut


def test_a_mistake_of_ours_is_one_line_with_its_place() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        found = record("failed")
        found.exc_info = sys.exc_info()
    line = LINE.format(found)
    assert line.isprintable() and 'exception="ValueError: a\\nb"' in line
    assert "test_logs.py" in line


@pytest.mark.misuse
def test_a_flood_of_one_event_does_not_drown_the_others(ablation: Ablation) -> None:
    """A stolen fetch hung up on apply 400 times a second, and each time was a line."""
    at = [0.0]
    spare, flood = Sparing(lambda: at[0]), record("ipc: expected a message, got the end")

    def told(seconds: int, of: Sparing | None) -> int:
        count = 0
        for _ in range(seconds * 400):
            at[0] += 1 / 400
            count += of is None or of.filter(flood)
        return count

    assert told(60, spare) <= 2 * limits.LOG_LINES
    other = logging.LogRecord("node.desk", logging.WARNING, "f", 2, "refused: evidence", (), None)
    assert spare.filter(other), "another place has its own room"
    at[0] += 1
    assert spare.filter(flood)
    assert " unsaid=39" in LINE.format(flood)
    at[0] += 60
    assert sum(spare.filter(record("again")) for _ in range(100)) == limits.LOG_LINES
    with ablation("the count for each place") as attack:
        attack.succeeded(told(60, None) == 24_000)


def test_journald_gets_a_priority_and_only_when_it_reads_the_stream(tmp_path: Path) -> None:
    assert [priority(level) for level in (50, 40, 30, 20, 10)] == [2, 3, 4, 6, 7]
    assert Line("fetch", is_journal=True).format(record("m")).startswith("<4>process=fetch ")
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        assert is_journal(stream, f"{found.st_dev}:{found.st_ino}")
        assert not is_journal(stream, "1:2")
        assert not is_journal(stream, "")


def test_an_uncaught_exception_of_any_thread_is_a_line_too() -> None:
    program = (
        "import threading; from node import logs; logs.start('apply')\n"
        "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join(); raise KeyError('k')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert "ZeroDivisionError" in first and "KeyError" in second
    assert first.startswith("process=apply level=critical at=node.logs ")
