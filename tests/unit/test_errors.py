from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure.errors import (
    Damaged,
    Denied,
    EmbrasureError,
    Failed,
    Misuse,
    NotFound,
    NotSupported,
    Refused,
    Unavailable,
    shown,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (EmbrasureError, 1), (Failed, 1), (Damaged, 1), (Misuse, 2), (Denied, 3),
        (NotSupported, 3), (Refused, 4), (Unavailable, 5), (NotFound, 5),
    ],
)  # fmt: skip
def test_each_class_has_its_exit_code(kind: type[EmbrasureError], code: int) -> None:
    assert kind("x", expected="a", got="b").exit_code == code


def test_an_error_says_thing_expected_got_untouched_and_hint() -> None:
    error = Refused(
        "role prod-shop v7", expected="2 persons", got="1 (anna)",
        untouched="release 41 keeps running", hint="ask bea", reason="threshold",
    )  # fmt: skip
    assert error.lines() == [
        "role prod-shop v7: expected 2 persons, got 1 (anna) [E_THRESHOLD]",
        "untouched: release 41 keeps running",
        "hint: ask bea",
    ]
    assert error.as_json()["reason"] == "E_THRESHOLD"


@given(st.text(max_size=300))
def test_outside_text_is_always_safe_to_show(text: str) -> None:
    safe = shown(text)
    assert safe.isprintable() or not safe
    assert "\n" not in safe


@pytest.mark.parametrize("text", ["\x1b[2J", "a\u202eb", "a\u200bb", "a\nb", "a\u00a0b", "\ud800"])
def test_what_hides_is_escaped(text: str) -> None:
    assert "\\" in shown(text)


def test_long_text_is_cut_and_says_so() -> None:
    assert shown("x" * 500) == "x" * 200 + "... (500 characters)"
