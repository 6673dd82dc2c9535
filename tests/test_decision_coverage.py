"""The list of the decision code is true, and a gap in it is seen."""

from __future__ import annotations

from typing import Any

import pytest

from tools.decision_coverage import DECISIONS, PLUMBING, TESTS, TOP, gaps, unlisted


def test_every_listed_file_exists_once_in_order() -> None:
    for listed in (DECISIONS, TESTS):
        assert list(listed) == sorted(set(listed))
        assert [name for name in listed if not (TOP / name).is_file()] == []


def test_no_module_of_the_two_packages_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unlisted() == []
    assert not set(DECISIONS) & set(PLUMBING)
    monkeypatch.setattr("tools.decision_coverage.DECISIONS", (*DECISIONS[1:], "embrasure/gone.py"))
    assert unlisted() == sorted([DECISIONS[0], "embrasure/gone.py"])


def test_a_line_or_a_branch_that_no_test_takes_is_a_gap() -> None:
    whole: dict[str, Any] = {"missing_lines": [], "missing_branches": []}
    files = dict.fromkeys(DECISIONS, whole)
    assert gaps({"files": files}) == []
    first, second, third, *_ = DECISIONS
    files[first] = {**whole, "missing_lines": [3]}
    files[second] = {**whole, "missing_branches": [[4, 6]]}
    del files[third]
    assert gaps({"files": files}) == [
        f"{first}: lines [3]; branches none",
        f"{second}: lines []; branches 4->6",
        f"{third}: never imported",
    ]
