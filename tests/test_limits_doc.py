"""The page of limits says what the code does."""

from __future__ import annotations

import re

from embrasure import limits
from node import launch, prober
from tools import limits_doc


def test_the_page_of_limits_is_current() -> None:
    held = limits_doc.DOCUMENT.read_text(encoding="utf-8")
    assert held == limits_doc.document(), "run: python -m tools.limits_doc"


def test_no_limit_is_missing_from_the_page() -> None:
    names = {name for name in vars(limits) if name.isupper()} - {"KIB", "MIB", "GIB"}
    told = set(re.findall(r"^\| `([A-Z0-9_]+)`", limits_doc.document(), flags=re.MULTILINE))
    assert told == names


def test_every_limit_is_a_positive_whole_number() -> None:
    for name, value in vars(limits).items():
        if name.isupper():
            assert isinstance(value, int) and value > 0, name


def test_what_runs_without_our_modules_has_the_same_bounds() -> None:
    assert launch.TASKS == limits.APP_TASKS
    assert prober.LINE_BYTES == limits.PROBER_LINE_BYTES
    assert prober._HEAD_BYTES == limits.PROBER_HEAD_BYTES
    assert prober._GRPC_BYTES == limits.PROBER_GRPC_BYTES


def test_amounts_are_told_with_their_unit() -> None:
    assert limits_doc.amount("MANIFEST_BYTES") == "16 MiB"
    assert limits_doc.amount("ORDER_SECONDS") == "300 s"
    assert limits_doc.amount("ARGON2_MEM_MIN_BYTES") == "256 MiB"
    assert limits_doc.amount("BLOB_BYTES_PER_SECOND") == "16 KiB/s"
    assert limits_doc.amount("FREE_PERCENT") == "3 %"
    assert limits_doc.amount("MAX_INTEGER") == "9,007,199,254,740,991"
