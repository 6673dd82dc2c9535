"""Exit codes of the node: every answer and error has one; each folds to one of the common six."""

from __future__ import annotations

import pytest

from embrasure.errors import (
    Damaged,
    Denied,
    EmbrasureError,
    Failed,
    Misuse,
    NotFound,
    Refused,
    Unavailable,
)
from node import exits
from node.messages import AnswerNote


def answer(kind: str, reason: str = "") -> AnswerNote:
    return AnswerNote(kind=kind, reason=reason, app="shop", floor=0)


@pytest.mark.parametrize(
    ("kind", "reason", "code"),
    [
        ("committed", "", 0),
        ("none", "repeat", 0),
        ("rolled_back", "probe", 20),
        ("interrupted", "power", 20),
        ("degraded", "no-target", 21),
        ("rejected", "no-space", 30),
        ("rejected", "fetch", 50),
        ("rejected", "bad-hash", 10),
        ("rejected", "internal", 10),
        ("rejected", "no-secret", 60),
        ("rejected", "no-sandbox", 60),
        ("rejected", "no-systemd", 60),
        ("rejected", "turn", 11),
        ("wait", "window", 32),
        ("hold", "owner", 32),
        ("hold", "window_short", 32),
        ("wait", "busy", 31),
        ("wait", "turn", 32),
        ("wait", "stale:dev-shop", 32),
        ("hold", "denied", 11),
        ("hold", "quarantine", 11),
        ("hold", "freeze", 32),
        ("refuse", "rollback", 11),
        ("refuse", "evidence", 10),
    ],
)
def test_each_answer_has_its_code(kind: str, reason: str, code: int) -> None:
    assert exits.exit_of(answer(kind, reason)) == code


def error(kind: type[EmbrasureError], reason: str) -> EmbrasureError:
    return kind("thing", expected="a", got="b", reason=reason)


@pytest.mark.parametrize(
    ("problem", "code", "plain"),
    [
        (error(Refused, "bad-signature"), 10, 4),
        (error(Refused, "rollback"), 11, 4),
        (error(Denied, "not-enrolled"), 10, 3),
        (error(Unavailable, "busy"), 31, 5),
        (error(Unavailable, "agent-not-running"), 51, 5),
        (error(NotFound, "not-found"), 50, 5),
        (error(Failed, "no-space"), 30, 1),
        (error(Damaged, "damaged"), 1, 1),
        (error(Misuse, "usage"), 2, 2),
    ],
)
def test_each_error_has_its_code(problem: EmbrasureError, code: int, plain: int) -> None:
    assert exits.exit_of_error(problem) == code
    assert exits.exit_of_error(problem, is_plain=True) == plain


def test_the_app_that_needs_a_person_gives_the_code() -> None:
    done, back, waits = answer("committed"), answer("rolled_back"), answer("wait", "turn")
    assert exits.worst([]) == 0
    assert exits.worst([done, waits]) == 32
    assert exits.worst([waits, back, done]) == 20


def test_every_fine_code_folds_to_a_common_one() -> None:
    folded = {
        1: (20, 21, 30, 40, 60, 61), 3: (32,), 4: (10, 11), 5: (31, 50, 51),
    }  # fmt: skip
    for plain, fine in folded.items():
        assert {exits.plain(code) for code in fine} == {plain}
    assert [exits.plain(code) for code in (0, 1, 2)] == [0, 1, 2]
