"""Deadlines run on a clock that nobody sets, and are armed again, not forgotten, after a boot."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from node import deadline
from node.deadline import Deadline, armed, boot_id, kept, left_s, uptime_ms

REARM = limits.REARM_SECONDS


def another_boot(found: Deadline) -> Deadline:
    """Return the same deadline as a record of the boot before this one has it."""
    return msgspec.structs.replace(found, boot="ab" * 16)


def test_a_deadline_runs_out_by_itself_whatever_the_wall_clock_says() -> None:
    found = armed(100)
    assert 99 < left_s(found) <= 100
    assert left_s(msgspec.structs.replace(found, until_ms=uptime_ms() - 1)) == 0
    assert left_s(kept(found)) <= 100


def test_what_is_kept_says_how_much_is_left() -> None:
    found = armed(100)
    later = msgspec.structs.replace(found, until_ms=uptime_ms() + 40_000)
    assert 39_000 < kept(later).left_ms <= 40_000
    assert kept(later).until_ms == later.until_ms


@pytest.mark.parametrize(
    ("span", "left", "again"),
    [(120, 90, 90), (120, 2, REARM), (120, 0, REARM), (10, 2, 10), (120, 500, 120)],
)
def test_after_a_boot_what_was_left_counts_again(span: int, left: int, again: int) -> None:
    found = msgspec.structs.replace(armed(span), left_ms=left * 1000, until_ms=0)
    found = kept(another_boot(found))
    assert found.boot == boot_id()
    assert again - 1 < left_s(found) <= again
    assert left_s(another_boot(found)) <= again


@given(st.integers(1, 10**9), st.integers(0, 2 * 10**9), st.integers(0, 2 * 10**9), st.booleans())
def test_no_record_gives_more_time_than_the_state_had(
    span: int, left: int, until: int, is_same_boot: bool
) -> None:
    boot = boot_id() if is_same_boot else "cd" * 16
    found = Deadline(boot=boot, span_ms=span, left_ms=left, until_ms=until)
    assert 0 <= left_s(found) <= span / 1000
    assert left_s(kept(found)) <= span / 1000


def test_the_boot_id_is_the_kernels_and_zeros_where_it_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    assert boot_id() == raw.strip().replace("-", "")
    monkeypatch.setattr(deadline, "_BOOT_ID", tmp_path / "none")
    assert boot_id() == "0" * 32
